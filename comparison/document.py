"""A report as data, and its files: Markdown, one HTML page, CSV and LaTeX tables."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils import write_text

TABLES, PICTURES = "tables", "plots"  # folders beside report.md


@dataclass
class Table:
    """A table as the report shows it, and with all digits.

    Attributes:
        name: of its files.
        data: rows of the CSV file. Without them the CSV file has the cells as shown.
        shown: whether it is in the report and in LaTeX, or in a CSV file only.
    """

    name: str
    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    data: list[dict[str, Any]] = field(default_factory=list)
    shown: bool = True


@dataclass
class Picture:
    """A plot in the folder PICTURES: `name`.png, and if `vector`, as for all but photographs, `name`.svg."""

    name: str
    title: str
    text: str
    vector: bool = True


@dataclass
class Points:
    """A bulleted list of sentences."""

    items: list[str]


Part = str | Table | Picture | Points


@dataclass
class Section:
    """A heading and what stands below it."""

    title: str
    parts: list[Part]


@dataclass
class Document:
    """A whole report."""

    title: str
    sections: list[Section]

    def tables(self) -> Iterator[Table]:
        """All tables, shown or not."""
        return (part for section in self.sections for part in section.parts if isinstance(part, Table))


def write(document: Document, folder: Path) -> list[Path]:
    """Writes report.md, report.html, and each table as CSV and LaTeX. The pictures must be there already."""
    written = []
    for table in document.tables():
        write_text(folder / TABLES / f"{table.name}.csv", csv_table(table))
        if table.shown:
            write_text(folder / TABLES / f"{table.name}.tex", latex_table(table))
    for name, text in (("report.md", markdown(document)), ("report.html", html(document, folder))):
        write_text(folder / name, text)
        written.append(folder / name)
    return written


def csv_table(table: Table) -> str:
    """The table with all digits if it has them, else as shown."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if table.data:
        writer.writerow(table.data[0])
        writer.writerows(row.values() for row in table.data)
    else:
        writer.writerows([table.columns, *table.rows])
    return text.getvalue()


def latex_table(table: Table) -> str:
    """A booktabs table for \\input; the preamble needs \\usepackage{booktabs}."""
    import pandas

    frame = pandas.DataFrame(table.rows, columns=table.columns)
    style: Any = frame.style.hide(axis="index").format(_latex).format_index(_latex, axis="columns")
    return style.to_latex(
        hrules=True, position="tbp", position_float="centering", caption=_latex(table.title),
        label=f"tab:{table.name}", column_format="l" + "r" * (len(table.columns) - 1),
    )  # fmt: skip


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "−": "$-$", "κ": r"$\kappa$",
    "×": r"$\times$", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in str(text))


def markdown(document: Document) -> str:
    """The whole report, with links to its pictures and tables."""
    lines = [f"# {_plain(document.title)}", ""]
    for section in document.sections:
        lines += [f"## {_plain(section.title)}", ""]
        for part in section.parts:
            lines += [*_markdown_part(part), ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_part(part: Part) -> list[str]:
    if isinstance(part, str):
        return [_plain(part)]
    if isinstance(part, Points):
        return [f"- {_plain(item)}" for item in part.items]
    if isinstance(part, Picture):
        return [f"![{_plain(part.title)}]({PICTURES}/{part.name}.png)", "", _plain(part.text)]
    files = f"[CSV]({TABLES}/{part.name}.csv)"
    if not part.shown:
        return [f"{_plain(part.title)}: {files}."]
    files += f", [LaTeX]({TABLES}/{part.name}.tex)"
    note = f"{_plain(part.note)} " if part.note else ""
    return [f"**{_plain(part.title)}**", "", *markdown_table(part.columns, part.rows), "", f"{note}({files})"]


def markdown_table(columns: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table: the first column on the left, numbers on the right."""
    rule = ["---"] + ["---:"] * (len(columns) - 1)
    head, *body = [[_plain(cell) for cell in row] for row in (columns, *rows)]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *body)]


def _plain(text: str) -> str:
    """Text with Markdown's markup escaped."""
    text = re.sub(r"([\\`*<>|\[\]])", r"\\\1", " ".join(str(text).split()))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def html(document: Document, folder: Path) -> str:
    """One page with its pictures inside, so that it opens anywhere."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.tests.update({kind.__name__.lower(): lambda part, kind=kind: isinstance(part, kind)
                              for kind in (Table, Picture, Points)})  # fmt: skip
    environment.filters["inlined"] = lambda picture: _inlined(picture, folder)
    return environment.get_template("report.html.jinja").render(document=document, tables=TABLES)


def _inlined(picture: Picture, folder: Path) -> str:
    suffix, kind = (".svg", "svg+xml") if picture.vector else (".png", "png")
    content = (folder / PICTURES / f"{picture.name}{suffix}").read_bytes()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
