"""Lists of image files: a CSV file with a path, a class and perhaps a split on each line.

A header names the columns. Without one they are path, label and split. Paths are relative to the folder of the list,
or to ``--dataset-arg root=FOLDER``, which is itself relative to the folder of the list.
"""

from __future__ import annotations

import csv
import os
import unicodedata
from pathlib import Path
from typing import NamedTuple

from image_datasets.dataset import LocatedDataset, Wanted
from image_datasets.discovery import SPLITS, Files
from image_datasets.folder import refuse_fetching
from image_datasets.layout import PARTS, located
from utils import BadRequest, shorten, suggestion

# Usual names of the columns, the best first.
IMAGE = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "img_path")
LABEL = ("label", "class", "class_name", "category", "target", "y")
SPLIT = ("split", "set", "subset", "partition")
PART = {word: part for part, words in SPLITS.items() for word in words}
DELIMITERS = (",", "\t", ";")


class Row(NamedTuple):
    """A line of the list: its number, the path of the file, the class and the split."""

    number: int
    path: str
    label: str
    part: str


def locate(wanted: Wanted) -> LocatedDataset:
    """See `registry.locate`."""
    if wanted.path is None:
        raise BadRequest("--dataset csv: which list? write --dataset csv/FILE")
    refuse_fetching(wanted, "a list has no checksum")
    file = Path(wanted.path)
    if not file.is_file():
        raise BadRequest(f"{file}: no such file")
    unknown = sorted(set(wanted.arguments) - {"root"})
    if unknown:
        raise BadRequest(f"--dataset-arg {unknown[0]}: a csv list takes root alone, the folder of its files")
    root = file.parent / str(wanted.arguments.get("root", ""))
    notes: list[str] = []
    rows = _read(file, root, wanted, notes)
    if wanted.with_train and all(row.part != "train" for row in rows):
        raise BadRequest(f"{file}: has no training images, only those of {shorten({row.part for row in rows})}")
    class_names = sort_names({row.label for row in rows if row.part == "train" or not wanted.with_train})
    splits = {part: _files(file, [row for row in rows if row.part == part], class_names) for part in PARTS}
    splits = {part: files for part, files in splits.items() if files[0]}
    if len(class_names) < 2:
        raise BadRequest(f"{file}: names only one class, {class_names[0]!r}; at least two are needed")
    return located(wanted, root, class_names, splits, notes)


def sort_names(names: set[str]) -> list[str]:
    """Sorts class names: by value if all are whole numbers, else by letters."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _read(file: Path, root: Path, wanted: Wanted, notes: list[str]) -> list[Row]:
    """The lines of the list. Raises BadRequest that names the line. Adds to `notes`."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            first = text.readline()
            text.seek(0)
            lines = csv.reader(text, delimiter=max(DELIMITERS, key=first.count), strict=True)
            rows = [(lines.line_num, [cell.strip() for cell in cells]) for cells in lines if any(cells)]
    except (OSError, ValueError, csv.Error) as error:
        raise BadRequest(f"{file}: cannot be read as a CSV file ({error})") from None
    if not rows:
        raise BadRequest(f"{file}: is empty")
    image, label, split, has_header = _columns(file, root, rows[0][1], wanted, notes)
    found, seen = [], {}
    for number, cells in rows[has_header:]:
        if len(cells) <= max(image, label, split or 0):
            raise BadRequest(f"{file} line {number}: has {len(cells)} columns, too few")
        path, name = cells[image], unicodedata.normalize("NFC", cells[label])
        if not path or not name:
            raise BadRequest(f"{file} line {number}: has no {'class' if path else 'path'}")
        part = "train" if split is None else PART.get(cells[split].lower())
        if part is None:
            raise BadRequest(f"{file} line {number}: {cells[split]!r} is no split; use train, val and test")
        if len(name.splitlines()) > 1:
            raise BadRequest(f"{file} line {number}: the name of a class has a line break")
        path = os.path.normpath(root / path)
        if path in seen:
            raise BadRequest(f"{file} line {number}: {path} is also on line {seen[path]}")
        seen[path] = number
        found.append(Row(number, path, name, part))
    if not found:
        raise BadRequest(f"{file}: has no line after its header")
    return found


def _columns(
    file: Path, root: Path, first: list[str], wanted: Wanted, notes: list[str]
) -> tuple[int, int, int | None, bool]:
    """The places of the path, the class and the split, and whether the first line is a header. Adds to `notes`."""
    names = [cell.lower() for cell in first]
    asked = (wanted.image_column, wanted.label_column)
    if asked == (None, None) and not set(names) & {*IMAGE}:
        if len(first) < 2 or not (root / first[0]).is_file():
            raise BadRequest(f"{file} line 1: is neither a header with a column {' or '.join(IMAGE[:3])}"
                             f" (--image-column names another) nor an image file of {root}")  # fmt: skip
        return 0, 1, 2 if len(first) > 2 and first[2].lower() in PART else None, False
    image = _column(file, first, "image", wanted.image_column, IMAGE)
    label = _column(file, first, "label", wanted.label_column, LABEL)
    others = [name for name in LABEL if name in names and names.index(name) != label]
    if wanted.label_column is None and others:
        notes.append(f"the classes are in the column {first[label]!r}; --label-column takes {' or '.join(others)}")
    split = next((names.index(name) for name in SPLIT if name in names), None)
    return image, label, split, True


def _column(file: Path, first: list[str], what: str, asked: str | None, usual: tuple[str, ...]) -> int:
    """The place of a column in the header, by its given name or else a usual one."""
    names = [cell.lower() for cell in first]
    if asked is None:
        found = next((names.index(name) for name in usual if name in names), None)
        if found is None:
            raise BadRequest(f"{file}: has no column {' or '.join(usual[:3])}; --{what}-column names one of"
                             f" {shorten(first)}")  # fmt: skip
        return found
    if asked not in first:
        raise BadRequest(f"--{what}-column {asked}: {file} has no such column.{suggestion(asked, first)}"
                         f" It has {shorten(first)}")  # fmt: skip
    return first.index(asked)


def _files(file: Path, rows: list[Row], class_names: list[str]) -> Files:
    """Paths and class indices. Raises BadRequest for a missing file, or a class without training images."""
    index = {name: i for i, name in enumerate(class_names)}
    for row in rows:
        if row.label not in index:
            raise BadRequest(f"{file} line {row.number}: the class {row.label!r} has no training image")
        if not Path(row.path).is_file():
            raise BadRequest(f"{file} line {row.number}: {row.path} is no file; --dataset-arg root=FOLDER names the"
                             " folder of the files, where it is not that of the list")  # fmt: skip
    return [row.path for row in rows], [index[row.label] for row in rows]
