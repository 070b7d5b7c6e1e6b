"""Resized copies on disk: pairs of files, each written by one process.

0001.data holds the copies, one after the other. 0001.index holds a record of each, written once the copy is safely on
disk. Files only grow: a torn record, or one whose copy is incomplete, is ignored, and a later record of an image
replaces an earlier one.
"""

from __future__ import annotations

import mmap
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch

from image_datasets.resized.tiles import TiledImage
from utils import BadRequest

RECORD = np.dtype([("key", "<u8", 2), ("offset", "<u8"), ("size", "<u4"), ("height", "<u4"), ("width", "<u4"),
                   ("crc", "<u4"), ("check", "<u4")])  # fmt: skip
ENTRY = np.dtype([("file", "<u4"), *((name, RECORD[name]) for name in ("offset", "size", "height", "width", "crc"))])
DAMAGED = "damaged.txt"  # list of damaged copies: the name of the data file and the offset in it
# Coefficients of a checksum that detects a change of any single word, and is not zero for zeros.
FACTORS = (2 * np.arange(RECORD.itemsize // 4 - 1, dtype=np.uint32) + 1) * np.uint32(2654435761)
SALT = np.uint32(40503)
# Images are tensors over read-only memory-mapped files, which reserve no memory.
warnings.filterwarnings("ignore", "The given NumPy array is not writable")


def seal(records: np.ndarray) -> np.ndarray:
    """Checksums of records (N,), for their field `check`."""
    words = records.view("<u4").reshape(len(records), len(FACTORS) + 1)[:, :-1]
    return (words * FACTORS).sum(1, dtype=np.uint32) + SALT


def scan(place: Path) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """Returns (data files, keys, uint64 (N, 2), entries of dtype ENTRY, (N,)) of all copies in a folder, oldest first.

    Leaves out incomplete copies and those listed as damaged.
    """
    files, keys, entries = [], [np.empty((0, 2), np.uint64)], [np.empty(0, ENTRY)]
    damaged = _damaged(place)
    for index in sorted(place.glob("[0-9]*.index")):
        data = index.with_suffix(".data")
        content = index.read_bytes()
        records = np.frombuffer(content[: len(content) // RECORD.itemsize * RECORD.itemsize], RECORD)
        length = data.stat().st_size if data.is_file() else 0
        whole = records["offset"] + records["size"] <= length
        records = records[whole & (records["check"] == seal(records))]
        records = records[~np.isin(records["offset"], damaged.get(data.stem, []))]
        found = np.empty(len(records), ENTRY)
        found["file"] = len(files)
        for name in ENTRY.names[1:]:
            found[name] = records[name]
        files.append(data)
        keys.append(records["key"])
        entries.append(found)
    return files, np.concatenate(keys), np.concatenate(entries)


def _damaged(place: Path) -> dict[str, list[int]]:
    """Offsets of the damaged copies by name of their data file."""
    offsets: dict[str, list[int]] = {}
    file = place / DAMAGED
    for line in file.read_text().splitlines() if file.is_file() else ():
        name, _, offset = line.partition(" ")
        if offset.isdecimal():
            offsets.setdefault(name, []).append(int(offset))
    return offsets


class Copies:
    """Reads the copies of a split's images, in the order of the split.

    An image costs a row of an array and a byte, shared between processes until they write to it.

    Args:
        kind: one of `place.KINDS`.
        chans: 1 for grey, 3 for colour.
        files: the data files.
        entries: (N,) of dtype ENTRY; the size is 0 for images without copy, whose file was unreadable.
    """

    def __init__(self, kind: str, chans: int, files: list[Path], entries: np.ndarray):
        self.kind, self.chans, self.files, self.entries = kind, chans, files, entries
        self.checked = bytearray(len(entries))  # whether this process has verified the checksum
        self.maps: dict[int, mmap.mmap] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __getstate__(self) -> dict:
        return {**vars(self), "maps": {}}

    def subset(self, index: np.ndarray) -> Copies:
        """The copies of the images at `index`."""
        return Copies(self.kind, self.chans, self.files, self.entries[index])

    def __getitem__(self, i: int) -> torch.Tensor | TiledImage | None:
        """Input of `data_transform.image_transform`: uint8 (C, H, W) in (H, W, C) memory of the file, or a TiledImage.

        None if the image has no copy. Raises BadRequest if the copy is damaged.
        """
        number, offset, size, height, width, crc = self.entries[i].item()
        if not size:
            return None
        try:
            pixels = np.frombuffer(self._map(number), np.uint8, size, offset)
        except (OSError, ValueError) as error:
            raise BadRequest(f"{self.files[number]}: cannot be read ({error})") from None
        if not self.checked[i]:
            if zlib.crc32(pixels) != crc:
                self._report(number, offset)
            self.checked[i] = 1
        if self.kind == "jpeg":
            return TiledImage(pixels.tobytes(), (self.chans, height, width))
        return torch.from_numpy(pixels.reshape(height, width, self.chans)).permute(2, 0, 1)

    def _map(self, number: int) -> mmap.mmap:
        if number not in self.maps:
            with self.files[number].open("rb") as file:
                self.maps[number] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self.maps[number]

    def _report(self, number: int, offset: int) -> None:
        """Lists a damaged copy, so that the next run makes it again, and raises BadRequest."""
        file = self.files[number]
        advice = "start again (--resume): what is damaged is copied anew"
        try:
            with (file.parent / DAMAGED).open("a") as list_:
                list_.write(f"{file.stem} {offset}\n")
        except OSError:
            advice = "delete it, and start again"
        raise BadRequest(f"{file}: the copy at byte {offset:,} is damaged (its checksum differs); {advice}")
