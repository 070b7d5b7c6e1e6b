"""The images of a run: a list of them in its directory, and a digest of each split in its checkpoints.

The list fixes the images for the life of a run: files added to the folder later are left out, missing and changed ones
are noticed.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from image_datasets.dataset import LocatedDataset
from image_datasets.facts import array_facts, file_facts, hexadecimal, is_known
from image_datasets.splits import Split
from utils import BadRequest, readable, replacing, shorten

COLUMNS = ("split", "path", "class", "bytes", "hash")


def digest(split: Split, class_names: list[str]) -> str:
    """Hashes the images of a split, their classes and their order, but not their paths, to 32 hexadecimal digits.

    For files the content counts, for images that came in memory the pixels.
    """
    state = hashlib.blake2b(np.ascontiguousarray(split.facts["digest"]).tobytes(), digest_size=16)
    state.update(np.ascontiguousarray(split.targets, "<i8").tobytes())
    state.update("\0".join(class_names).encode("utf-8", "surrogatepass"))
    return state.hexdigest()


def digests(splits: Mapping[str, Split | None], class_names: list[str]) -> dict[str, str]:
    """Digests by name of the split, without missing splits, and without files read by rules 1, which have no facts."""
    return {
        name: digest(split, class_names)
        for name, split in splits.items()
        if split is not None and split.facts is not None
    }


# ---------------------------------------------------------------------------------------------------------- the list


@dataclass(frozen=True)
class Listed:
    """An image in the list of a run: its split and class, the bytes of its file and their digest."""

    split: str
    class_name: str
    size: int
    digest: str


def write(file: Path, root: Path, splits: Mapping[str, list[Split]], class_names: list[str]) -> None:
    """Writes the list of all image files of the splits as compressed CSV, one line per file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, split in ((name, split) for name, parts in splits.items() for split in parts):
        sizes, contents = split.facts["bytes"].tolist(), hexadecimal(split.facts["digest"])
        for path, target, size, content in zip(split.paths, split.targets.tolist(), sizes, contents, strict=True):
            writer.writerow([name, relative(path, root), class_names[target], size, content])
    with replacing(file) as temporary, temporary.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
        packed.write(text.getvalue().encode("utf-8", "backslashreplace"))


def read(file: Path) -> dict[str, Listed]:
    """Reads a list, by path relative to the folder of the data set. Raises BadRequest if the file is damaged."""
    try:
        with gzip.open(file, "rt", encoding="utf-8", newline="") as lines:
            rows = csv.reader(lines)
            if tuple(next(rows)) != COLUMNS:
                raise ValueError("other columns")
            return {path: Listed(split, name, int(size), content) for split, path, name, size, content in rows}
    except (OSError, EOFError, ValueError, StopIteration, csv.Error, zlib.error) as error:
        raise BadRequest(f"{file}: the run's list of images cannot be read ({error or type(error).__name__})") from None


def relative(path: str, root: Path) -> str:
    """Name of a file in the list."""
    return readable(os.path.relpath(path, root)).replace(os.sep, "/")


@dataclass
class Changes:
    """Names of the files that differ from the list of a run. True if some are missing or changed.

    Attributes:
        added: files that are not in the list. They are left out, and nothing else changes.
        changed: files with other content.
        classes_lost, classes_new: classes without a folder, and folders that are no class of the list.
    """

    added: list[str]
    missing: list[str]
    changed: list[str]
    classes_lost: list[str]
    classes_new: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.changed)

    def __str__(self) -> str:
        parts = []
        if self.classes_lost:
            new = f", new: {shorten(self.classes_new, 3)}" if self.classes_new else ""
            parts.append(f"classes gone: {shorten(self.classes_lost, 3)}{new}")
        for names, what in ((self.missing, "images missing"), (self.changed, "images with other content")):
            if names:
                parts.append(f"{what}: {len(names):,} ({shorten(names, 3)})")
        return "; ".join(parts)

    def counts(self) -> dict[str, int]:
        """Number of missing and of changed files, for the summary."""
        return {"missing": len(self.missing), "changed": len(self.changed)}


def restrict(located: LocatedDataset, listed: dict[str, Listed], workers: int) -> tuple[LocatedDataset, Changes]:
    """Returns (the data set without images that are not in the list, how the files differ from the list).

    Class indices follow the classes of the list, so an added class shifts none. Missing files stay missing; changed
    files stay in.
    """
    layout = located.layout
    root, names = layout.root, layout.class_names
    class_of = dict.fromkeys(item.class_name for item in listed.values())
    kept_names = [name for name in names if name in class_of]
    index = {name: i for i, name in enumerate(kept_names)}
    splits, added, met = {}, [], {}
    for part, (paths, labels) in layout.splits.items():
        inside: tuple[list[str], list[int]] = ([], [])
        for path, label in zip(paths, labels, strict=True):
            name = relative(path, root)
            item = listed.get(name)
            if item is None or item.class_name != names[label]:
                added.append(name)
                continue
            met[name] = path
            inside[0].append(path)
            inside[1].append(index[names[label]])
        if inside[0]:
            splits[part] = inside
    facts = file_facts(root, list(met.values()), workers)
    contents = zip(met, hexadecimal(facts["digest"]), strict=True)
    changed = [name for name, content in contents if content != listed[name].digest]
    missing = [name for name in listed if name not in met]
    lost = [name for name in class_of if name not in set(kept_names)]
    new = [name for name in names if name not in class_of]
    layout = layout.with_splits(splits, kept_names)
    has_val = located.has_val and {"val", "test"} <= splits.keys()
    return replace(located, layout=layout, has_val=has_val), Changes(added, missing, changed, lost, new)


# -------------------------------------------------------------------------------------------------------- duplicates


def image_keys(split: Split) -> list[bytes | None]:
    """Keys that are equal for equal images, by pixels in memory or else by file content; None for unreadable images."""
    by_pixels = split.images is not None and split.paths is not None
    facts = array_facts(split.images) if by_pixels else split.facts
    readable = is_known(facts)
    readable[split.bad()] = False
    return [bytes(key) if known else None for key, known in zip(facts["digest"], readable, strict=True)]


def under_two_labels(keys: Iterable[bytes | None], targets: Iterable[int]) -> int:
    """Number of distinct images with more than one class."""
    labels: dict[bytes, set[int]] = {}
    for key, target in zip(keys, targets, strict=True):
        if key is not None:
            labels.setdefault(key, set()).add(target)
    return sum(len(classes) > 1 for classes in labels.values())
