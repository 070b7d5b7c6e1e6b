"""Index of tar shards: where each image is, and its class. Every shard is scanned once: its headers and its labels.

The members of a sample share their key, the path up to the first dot of the base name, as in WebDataset. The index is
kept in a file beside the data. A shard is scanned again if its size or modification time changes.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import re
import sys
import tarfile
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from image_datasets import cache_file
from image_datasets.discovery import is_hidden
from image_datasets.image_files import EXTENSIONS
from utils import BadRequest, in_utf8, readable, shorten

FILE, VERSION = ".tar-index.npz", 1
TEXTS = ("cls", "index", "cls.txt")  # extensions of members that hold a class as text
KEYS = ("label", "cls", "class", "target", "class_id")  # of a JSON object, best first
FOLDER = "folder"
SOURCES = (*(f".{text}" for text in TEXTS), *(f".json {key}" for key in KEYS), FOLDER)  # where a class is from
MAX_LABEL = 1 << 20  # bytes of a label; more is none
END = 512  # bytes; at least one block of zeros ends a tar file


@dataclass(frozen=True)
class TarShard:
    """A `members.Container`; a place is (offset, size) in bytes."""

    path: str

    def read(self, place: tuple[int, int]) -> bytes:
        """See `members.Container`."""
        offset, size = place
        with open(self.path, "rb") as file:  # noqa: PTH123 (Path costs more than the call)
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise ValueError("its shard ends within it")
        return data

    def stamp(self, place: tuple[int, int]) -> tuple[int, int]:
        """(size of the image in bytes, time of the last change of the shard in nanoseconds)."""
        return place[1], os.stat(self.path).st_mtime_ns  # noqa: PTH116


class Sample(NamedTuple):
    """An image of a shard.

    Attributes:
        name: key and extension.
        offset, size: of the image, in bytes.
        label: its class as text, in Unicode's composed form (NFC).
        source: where the class is from, an index of SOURCES.
        numbered: the class is a number.
    """

    name: str
    offset: int
    size: int
    label: str
    source: int
    numbered: bool


def samples_of(root: Path, shards: Sequence[Path]) -> list[list[Sample]]:
    """The samples of each shard below `root`, in the order of their images.

    Raises BadRequest for a damaged shard, and for a sample without image or class.
    """
    from tqdm import tqdm

    known = _read(root)
    keys = []
    for shard in shards:
        state = shard.stat()
        keys.append((in_utf8(os.path.relpath(shard, root)), state.st_size, state.st_mtime_ns))
    missing = [shard for shard, key in zip(shards, keys, strict=True) if key not in known]
    if missing:
        with tqdm(missing, desc="indexing tar shards once", unit="shard", leave=False,
                  disable=not sys.stderr.isatty()) as bar:  # fmt: skip
            scanned = {shard: _scan(shard) for shard in bar}
        known.update({key: scanned[shard] for shard, key in zip(shards, keys, strict=True) if shard in scanned})
        _write(root, keys, [known[key] for key in keys])
    return [known[key] for key in keys]


def _scan(shard: Path) -> list[Sample]:
    found: dict[str, dict[str, tuple[tarfile.TarInfo, bytes]]] = {}
    try:
        with tarfile.open(shard, "r:", encoding="utf-8", errors="surrogateescape") as tar:
            for member in tar:
                name = posixpath.normpath(member.name).lstrip("/")
                if member.isdir() or any(is_hidden(part) for part in name.split("/")):
                    continue
                if not member.isreg() or member.issparse():
                    raise BadRequest(f"{shard}: its member {readable(name)} is no plain file, but a link or the like")
                folder, base = posixpath.split(name)
                key, _, extension = base.partition(".")
                members = found.setdefault(posixpath.join(folder, key), {})
                if extension.lower() in members:
                    raise BadRequest(f"{shard}: has {readable(name)} twice; keys must differ")
                members[extension.lower()] = member, _text(shard, tar, member, extension.lower())
            _check_end(shard, tar)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise BadRequest(f"{shard}: cannot be read as a tar file ({error}); fetch it again, or write it anew") from None
    return [_sample(shard, key, members) for key, members in found.items()]


def _text(shard: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, extension: str) -> bytes:
    """Content of a member that may hold a class, else nothing."""
    if extension not in (*TEXTS, "json"):
        return b""
    if member.size > MAX_LABEL:
        raise BadRequest(f"{shard}: {readable(member.name)} is too large for a label: {member.size:,} bytes")
    file = tar.extractfile(member)
    return file.read() if file is not None else b""


def _check_end(shard: Path, tar: tarfile.TarFile) -> None:
    """Raises ValueError unless zeros follow the last member: `tarfile` takes a damaged header for the end."""
    with shard.open("rb") as file:
        file.seek(tar.offset)
        rest = file.read(1 << 16)
    if len(rest) < END or rest.strip(b"\0"):
        raise ValueError(f"it is truncated or damaged at byte {tar.offset:,}")


def _sample(shard: Path, key: str, members: dict[str, tuple[tarfile.TarInfo, bytes]]) -> Sample:
    where = f"{shard}: the sample {readable(key)}"
    endings = [ending for ending in members if f".{ending}".endswith(EXTENSIONS)]
    if len(endings) != 1:
        which = f"several images ({shorten(endings)})" if endings else f"no image, only {shorten(members)}"
        raise BadRequest(f"{where} has {which}; samples need one image each, and keys end at the first dot")
    image = members[endings[0]][0]
    label, source, numbered = _label(where, key, {ending: text for ending, (_, text) in members.items()})
    name = f"{posixpath.dirname(key)}/{posixpath.basename(image.name)}".lstrip("/")
    return Sample(name, image.offset_data, image.size, label, SOURCES.index(source), numbered)


def _label(where: str, key: str, texts: dict[str, bytes]) -> tuple[str, str, bool]:
    """Returns (class, where it is from, whether it is a number). Raises BadRequest if there is none."""
    label, source = None, FOLDER
    try:
        named = next((ending for ending in TEXTS if ending in texts), None)
        if named is not None:
            label, source = texts[named].decode("utf-8"), f".{named}"
        elif "json" in texts:
            values = json.loads(texts["json"])
            field = next((name for name in KEYS if isinstance(values, dict) and values.get(name) is not None), None)
            if field is not None:
                label, source = values[field], f".json {field}"
    except ValueError as error:
        raise BadRequest(f"{where}: its class cannot be read ({error})") from None
    if label is None:
        label = readable(posixpath.basename(posixpath.dirname(key)))
    if isinstance(label, bool) or not isinstance(label, (int, str)):
        raise BadRequest(f"{where}: its class ({source}) is neither a number nor a name: {str(label)[:80]}")
    label = unicodedata.normalize("NFC", str(label).strip())
    if not label:
        raise BadRequest(f"{where} has no class: no .cls, no .json with one of {', '.join(KEYS)}, and no folder")
    if not label.isprintable():
        raise BadRequest(f"{where}: its class ({source}) is more than one line of text: {label[:80]!r}")
    numbered = source != FOLDER and re.fullmatch("[+-]?[0-9]{1,9}", label) is not None
    return (str(int(label)) if numbered else label), source, numbered


# ----------------------------------------------------------------------------------------------------------- the cache


def _read(root: Path) -> dict[tuple[str, int, int], list[Sample]]:
    """Samples by name, size and time of their shard, from all places."""
    known: dict[tuple[str, int, int], list[Sample]] = {}
    for place in cache_file.places(root, FILE):
        # Missing, damaged or of another version: numpy and zipfile raise many kinds.
        with contextlib.suppress(Exception), np.load(place, allow_pickle=False) as file:
            if int(file["version"]) == VERSION:
                names, labels, shards = (cache_file.unpack(file[key]) for key in ("names", "labels", "shards"))
                columns = (
                    names,
                    *file["places"].T.tolist(),
                    labels,
                    file["sources"].tolist(),
                    file["numbered"].tolist(),
                )
                samples = [Sample(*row) for row in zip(*columns, strict=True)]
                ends = np.cumsum(file["counts"]).tolist()
                starts = [0, *ends[:-1]]
                for shard, stamp, start, end in zip(shards, file["stamps"].tolist(), starts, ends, strict=True):
                    known[(shard, *stamp)] = samples[start:end]
    return known


def _write(root: Path, shards: list[tuple[str, int, int]], found: list[list[Sample]]) -> None:
    samples = [sample for inside in found for sample in inside]
    cache_file.save(
        root,
        FILE,
        version=VERSION,
        shards=cache_file.pack(shard for shard, *_ in shards),
        stamps=np.array([stamp for _, *stamp in shards], "<i8"),
        counts=np.array([len(inside) for inside in found], "<i8"),
        names=cache_file.pack(sample.name for sample in samples),
        places=np.array([(sample.offset, sample.size) for sample in samples], "<i8").reshape(-1, 2),
        labels=cache_file.pack(sample.label for sample in samples),
        sources=np.array([sample.source for sample in samples], "u1"),
        numbered=np.array([sample.numbered for sample in samples], bool),
    )
