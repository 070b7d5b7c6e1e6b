"""Resized copies of images, as they lie on the disk: pairs of files, of which one process wrote each.

0001.data holds the copies, one behind the other; 0001.index a record of each, written when the copy is safely on the
disk. Nothing is changed later: a record that is torn, or whose copy is not there in full, counts as none, and of two
records of one image the later one counts.
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
DAMAGED = "damaged.txt"  # copies that were found to be damaged: the number of the file and the place in it
# A sum in which a change of any one word shows, and which is not that of zeros.
FACTORS = (2 * np.arange(RECORD.itemsize // 4 - 1, dtype=np.uint32) + 1) * np.uint32(2654435761)
SALT = np.uint32(40503)
# Images are tensors over files that are mapped read-only: any number of bytes, of which none is reserved.
warnings.filterwarnings("ignore", "The given NumPy array is not writable")


def seal(records: np.ndarray) -> np.ndarray:
    """The value of `check` that records (N,) ought to have."""
    words = records.view("<u4").reshape(len(records), len(FACTORS) + 1)[:, :-1]
    return (words * FACTORS).sum(1, dtype=np.uint32) + SALT


def scan(place: Path) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """(data files, keys (N, 2), ENTRY (N,)) of all copies in a folder that are there in full and not known to be
    damaged, in the order in which they were made."""
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
    offsets: dict[str, list[int]] = {}
    file = place / DAMAGED
    for line in file.read_text().splitlines() if file.is_file() else ():
        name, _, offset = line.partition(" ")
        if offset.isdecimal():
            offsets.setdefault(name, []).append(int(offset))
    return offsets


class Copies:
    """The copies of a split's images, in its order.

    What is kept of each is a row of an array and a byte, which processes share until they write to it.

    Args:
        entries: ENTRY (N,); its size is 0 where an image has no copy, because its file could not be read.
    """

    def __init__(self, kind: str, chans: int, files: list[Path], entries: np.ndarray):
        self.kind, self.chans, self.files, self.entries = kind, chans, files, entries
        self.checked = bytearray(len(entries))  # whether this process has compared the checksum
        self.maps: dict[int, mmap.mmap] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __getstate__(self) -> dict:
        return {**vars(self), "maps": {}}

    def subset(self, index: np.ndarray) -> Copies:
        return Copies(self.kind, self.chans, self.files, self.entries[index])

    def __getitem__(self, i: int) -> torch.Tensor | TiledImage | None:
        """What `data_transform.image_transform` takes: uint8 (C, H, W) with memory (H, W, C) that lies in the file, or
        an image of which the part that is asked for is decoded; None where there is no copy. Raises BadRequest where it
        is damaged."""
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
        file = self.files[number]
        advice = "start again (--resume): what is damaged is copied anew"
        try:
            with (file.parent / DAMAGED).open("a") as list_:
                list_.write(f"{file.stem} {offset}\n")
        except OSError:
            advice = "delete it, and start again"
        raise BadRequest(f"{file}: the copy at byte {offset:,} is damaged (its checksum differs); {advice}")
