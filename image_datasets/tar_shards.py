"""WebDataset tar shards in a folder, read at random through an index (see tar_index.py)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from image_datasets.class_names import name_numbers
from image_datasets.dataset import LocatedDataset, Wanted
from image_datasets.discovery import SPLITS, Files, is_hidden
from image_datasets.folder import check_root
from image_datasets.layout import located
from image_datasets.members import Member
from image_datasets.tar_index import SOURCES, Sample, TarShard, samples_of
from utils import BadRequest, in_utf8, readable, shorten

COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tar\.\w+)$", re.IGNORECASE)
NAMES = ("classnames.txt", "classes.txt", "labels.txt")  # of classes that the shards number
WORDS = {word: part for part, words in SPLITS.items() for word in words}

Found = dict[str, list[tuple[Path, Sample]]]  # the samples of each split


def locate(wanted: Wanted) -> LocatedDataset:
    """See `registry.locate`."""
    root = check_root(wanted, "tar shards")
    shards = find_shards(root)
    parts = _parts(root, shards)
    if "train" not in parts and wanted.with_train:
        raise BadRequest(f"{root}: has no training shards, only {' and '.join(sorted(set(parts)))}")
    found: Found = {part: [] for part in SPLITS if part in parts}
    for shard, part, samples in zip(shards, parts, samples_of(root, shards), strict=True):
        found[part] += [(shard, sample) for sample in samples]
    first = next(iter(found))  # the training shards, if there are any
    labels = sorted({sample.label for part in (["train"] if first == "train" else found) for _, sample in found[part]})
    if len(labels) < 2:
        only = shorten(labels) or "no class"
        raise BadRequest(f"{root}: its {first} shards hold images of {only} only; at least two classes are needed")
    if _check_kinds(found):
        names, notes = _number_classes(root, found, labels)
    else:
        names, notes = dict(zip(labels, labels, strict=True)), []
    index = {label: i for i, label in enumerate(names)}
    splits = {part: _files(root, part, samples, index) for part, samples in found.items()}
    return located(wanted, root, list(names.values()), splits, notes)


def find_shards(root: Path) -> list[Path]:
    """The tar files at any depth, links included. Numbers in their names count as numbers: 2 comes before 10.

    Raises BadRequest for compressed ones, and if there are none.
    """
    files = sorted(_files_below(root), key=lambda file: _natural(in_utf8(os.path.relpath(file, root))))
    compressed = next((file for file in files if COMPRESSED.search(file.name)), None)
    if compressed is not None:
        raise BadRequest(f"{compressed}: a compressed shard cannot be read at random; unpack it to a .tar file")
    shards = [file for file in files if file.suffix.lower() == ".tar"]
    if not shards:
        raise BadRequest(f"{root}: holds no tar shards (*.tar)")
    return shards


def _files_below(root: Path) -> Iterator[Path]:
    seen = set()
    for folder, inside, files in os.walk(root, followlinks=True):
        inside[:] = [name for name in inside if not is_hidden(name)]
        state = os.stat(folder)  # noqa: PTH116
        if (state.st_dev, state.st_ino) in seen:
            inside.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        yield from (Path(folder, name) for name in files if not is_hidden(name))


def _natural(name: str) -> list[tuple[int, str]]:
    """Key of a sort in which numbers count as numbers."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def _parts(root: Path, shards: list[Path]) -> list[str]:
    """The split of each shard, by a word in its name or else in its folders' names; without such words all train.

    Raises BadRequest if a name has words of two splits, or some shards have none.
    """
    parts = [_part(shard, shard.relative_to(root)) for shard in shards]
    if not any(parts):
        return ["train"] * len(shards)
    for shard, part in zip(shards, parts, strict=True):
        if part is None:
            raise BadRequest(f"{shard}: other shards say their split, but neither its name nor a folder's has one of"
                             f" {', '.join(WORDS)}")  # fmt: skip
    return [str(part) for part in parts]


def _part(shard: Path, relative: Path) -> str | None:
    for name in (relative.stem, *(folder.name for folder in relative.parents)):
        parts = sorted({WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in WORDS})
        if len(parts) > 1:
            raise BadRequest(f"{shard}: its name says two splits, {' and '.join(parts)}; rename it")
        if parts:
            return parts[0]
    return None


def _check_kinds(found: Found) -> bool:
    """Whether the classes are numbers. Raises BadRequest unless all are given in the same way."""
    first: dict[tuple[int, bool], str] = {}
    for samples in found.values():
        for shard, sample in samples:
            if (sample.source, sample.numbered) not in first:
                first[sample.source, sample.numbered] = readable(f"{shard}/{sample.name}")
    if len(first) > 1:
        ways = [f"{name} by {'number' if numbered else 'name'} ({SOURCES[source]})"
                for (source, numbered), name in first.items()]  # fmt: skip
        raise BadRequest(f"the shards give classes in different ways: {', '.join(ways[:2])}")
    return any(numbered for _, numbered in first)


def _number_classes(root: Path, found: Found, labels: list[str]) -> tuple[dict[str, str], list[str]]:
    """Returns (names of the classes with these labels, which are numbers, in their order; notes)."""
    numbers = sorted(map(int, labels))
    file = next((root / name for name in NAMES if (root / name).is_file()), None)
    names = _read_names(file) if file else None
    count = numbers[-1] + 1 if names is None else len(names)
    wrong = [str(number) for number in numbers if not 0 <= number < count]
    if wrong:
        where = next(f"{shard}/{sample.name}" for samples in found.values() for shard, sample in samples
                     if sample.label == wrong[0])  # fmt: skip
        known = f"{file} names 0 to {count - 1}" if names else "classes are numbered from 0"
        raise BadRequest(f"{readable(where)}: is of class {wrong[0]}, but {known}")
    named, notes = name_numbers(numbers, names, with_train="train" in found)
    return {str(number): name for number, name in named.items()}, notes


def _read_names(file: Path) -> list[str]:
    """Names of the classes 0, 1, ..., one per line."""
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").rstrip().splitlines()]
    except ValueError as error:
        raise BadRequest(f"{file}: is no text in UTF-8 ({error})") from None
    if "" in names:
        raise BadRequest(f"{file} line {names.index('') + 1}: is empty; it must name class {names.index('')}")
    return names


def _files(root: Path, part: str, samples: list[tuple[Path, Sample]], index: dict[str, int]) -> Files:
    """Raises BadRequest for classes that have no training image.

    Args:
        index: class index by label.
    """
    unknown = sorted({sample.label for _, sample in samples} - index.keys())
    if unknown:
        raise BadRequest(f"{root}: its {part} shards have classes that the training shards lack: {shorten(unknown)}")
    containers = {shard: TarShard(str(shard)) for shard, _ in samples}
    paths: list[str] = [
        Member(f"{shard}/{sample.name}", containers[shard], (sample.offset, sample.size)) for shard, sample in samples
    ]
    return paths, [index[sample.label] for _, sample in samples]
