"""From the words RUN and STUDY of a command line to run directories, with what their study says of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comparison.metric_names import METRICS
from records.run_directory import RunDirectory
from utils import BadRequest, parse_toml, read_json, shorten, suggestion

STUDY_KEYS = ("name", "file", "script", "seeds", "fractions", "folds", "variants", "published", "runs")
RUN_KEYS = ("name", "variant", "seed", "fraction", "fold", "flags", "command")
PERCENT = tuple(name for name in METRICS if name != "loss")
PUBLISHED_KEYS = ("source", "variant", "note", "metrics", "params", "per_class", *PERCENT)


@dataclass(frozen=True)
class Published:
    """Figures that somebody else measured.

    Attributes:
        variant: the study's variant that they are compared with; None: no variant.
        metrics: fractions of 1, by metric.
        params: the number of parameters.
        per_class: accuracy as a fraction of 1, by class.
    """

    name: str
    source: str
    variant: str | None = None
    note: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    params: int | None = None
    per_class: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name in tables and pictures."""
        return f"{self.name} (published)"


@dataclass
class Selection:
    """The runs to compare.

    Attributes:
        name: of the study, or of the folder of the runs.
        folder: contains the runs.
        runs: finished run directories, each with its variant in the study, or None.
        variants: in the study's order.
        missing: a sentence for each unfinished run of the study.
    """

    name: str
    folder: Path
    runs: dict[Path, str | None]
    variants: list[str] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def select(words: list[str]) -> Selection:
    """The runs that the words name: run directories, study files, or folders of studies.

    Raises BadRequest if a word is none of these, or if no run is finished.
    """
    if len(words) == 1 and (study := _study_folder(Path(words[0]))):
        return _read_study(study)
    runs: dict[Path, None] = {}
    for word in words:
        path = Path(word)
        if not path.exists():
            raise BadRequest(f"{word}: no such run directory or study")
        if (path / "settings.json").is_file():
            runs[_plain(path)] = None
        elif study := _study_folder(path):
            runs.update(dict.fromkeys(_read_study(study).runs))
        else:
            raise BadRequest(f"{word}: is neither a run directory nor a study")
    parent = Path(os.path.commonpath([path.parent.resolve() for path in runs]))
    parent = Path(os.path.relpath(parent)) if parent.is_relative_to(Path.cwd()) else parent
    return Selection(parent.resolve().name, parent, dict(runs))


def _plain(path: Path) -> Path:
    """One spelling for each folder, so that a run named twice counts once."""
    return Path(os.path.normpath(path))


def _study_folder(path: Path) -> Path | None:
    """The folder of a study's runs, from the folder itself or from the study's file. None: `path` is neither."""
    if path.suffix == ".toml" and path.is_file():
        folder = Path("runs") / _name_in(path)
        if not folder.is_dir():
            raise BadRequest(f"{path}: no run found: there is no {folder}; study.py {path} makes its runs")
        return folder
    return _plain(path) if path.is_dir() and not (path / "settings.json").is_file() else None


def _name_in(path: Path) -> str:
    try:
        name = parse_toml(path.read_text(encoding="utf-8")).get("name", path.stem)
    except (OSError, ValueError) as error:
        raise BadRequest(f"{path}: cannot be read as TOML ({error})") from None
    if not isinstance(name, str) or not name.strip():
        raise BadRequest(f"{path}: 'name' is {name!r}, not the name of a folder")
    return name


def _read_study(folder: Path) -> Selection:
    file = folder / "study.json"
    if not file.is_file():
        found = sorted(path.parent for path in folder.rglob("settings.json"))
        selection = Selection(folder.resolve().name, folder, {})
        runs: list[tuple[Path, str | None]] = [(path, None) for path in found]
    else:
        content = _checked(file)
        selection = Selection(content["name"], folder, {}, published=_published(file, content))
        selection.variants = list(dict.fromkeys(run["variant"] for run in content["runs"]))
        runs = [(folder / run["name"], run["variant"]) for run in content["runs"]]
    for path, variant in runs:
        if RunDirectory(path).summary.is_file():
            selection.runs[path] = variant
        else:
            state = "is not finished" if path.is_dir() else "has not begun"
            selection.missing.append(f"{path.relative_to(folder)} {state}, and is left out.")
    if not selection.runs:
        more = f" ({shorten(selection.missing, 1)})" if selection.missing else ""
        raise BadRequest(f"{folder}: no finished run found{more}")
    return selection


def _checked(file: Path) -> dict[str, Any]:
    content = read_json(file)
    _check_keys(file, "", content, STUDY_KEYS, needed=("name", "runs"))
    if not isinstance(content["runs"], list) or not content["runs"]:
        raise BadRequest(f"{file}: 'runs' is no list of runs")
    names = set()
    for i, run in enumerate(content["runs"]):
        _check_keys(file, f"runs[{i}]: ", run, RUN_KEYS, needed=("name", "variant"))
        if run["name"] in names:
            raise BadRequest(f"{file}: runs[{i}]: 'name' {run['name']!r} is there twice")
        names.add(run["name"])
    return content


def _published(file: Path, content: dict[str, Any]) -> list[Published]:
    """The study's published figures: fractions of 1 in its table "metrics", or per cent beside the source."""
    table = content.get("published") or {}
    if not isinstance(table, dict):
        raise BadRequest(f"{file}: 'published' is no table")
    variants = {run["variant"] for run in content["runs"]}
    found = []
    for name, entry in table.items():
        where = f"published.{name}: "
        _check_keys(file, where, entry, PUBLISHED_KEYS, needed=("source",))
        fractions = entry.get("metrics", {})
        _check_keys(file, f"{where}metrics: ", fractions, tuple(METRICS), needed=())
        percents = {key: entry[key] for key in PERCENT if key in entry}
        per_class = entry.get("per_class", {})
        _check_keys(file, f"{where}per_class: ", per_class, tuple(per_class), needed=())
        for key, value, most in (
            *((key, value, 1 if key in PERCENT else float("inf")) for key, value in fractions.items()),
            *((key, value, 100) for key, value in (*percents.items(), *per_class.items())),
        ):
            if not isinstance(value, (int, float)) or not 0 <= value <= most:
                raise BadRequest(f"{file}: {where}{key!r} is {value!r}, not a number from 0 to {most}")
        found.append(Published(
            name, str(entry["source"]), entry.get("variant", name if name in variants else None), entry.get("note", ""),
            {**fractions, **{key: value / 100 for key, value in percents.items()}}, entry.get("params"),
            {key: value / 100 for key, value in per_class.items()},
        ))  # fmt: skip
    return found


def _check_keys(file: Path, where: str, content: Any, known: tuple[str, ...], needed: tuple[str, ...]) -> None:
    if not isinstance(content, dict):
        raise BadRequest(f"{file}: {where or 'it '}is no JSON object")
    for key in content:
        if key not in known:
            raise BadRequest(f"{file}: {where}unknown key {key!r}.{suggestion(key, known)} Known: {', '.join(known)}")
    for key in needed:
        if key not in content:
            raise BadRequest(f"{file}: {where}has no {key!r}")
