"""Where the resized copies are, and which kinds there are. Imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from image_datasets.dataset import LocatedDataset
from utils import BadRequest, sides

KINDS = {"jpeg": "JPEG 4:2:0, quality 90", "raw": "uncompressed"}
FOLDER = ".resized"  # beside the data
SHORT = 256  # px, enough for images of up to 224 px
SPLIT_NAMES = ("train", "val", "test")  # prefixes of the folders of a data set's images


def short_side(img_size: int | Sequence[int]) -> int:
    """Short side of the copies in pixels: that of evaluation before its centre crop, and at least 256."""
    from data_transform import EVAL_CROP

    return max(SHORT, round(max(sides(img_size)) / EVAL_CROP))


def copy_folder(located: LocatedDataset, cache_dir: str | None, kind: str, side: int) -> Path:
    """Folder of the copies of this kind and short side (in pixels)."""
    return _base_folder(located, cache_dir) / f"{kind}-{side}"


def _base_folder(located: LocatedDataset, cache_dir: str | None) -> Path:
    return located.layout.root / FOLDER if cache_dir is None else Path(cache_dir)


def check(located: LocatedDataset, cache_dir: str | None) -> None:
    """Checks that copies make sense and can be stored, without writing anything. Existing copies may be read-only.

    Raises BadRequest if the images are kept in memory, or if the folder cannot hold copies.
    """
    if located.layout.side is not None:
        raise BadRequest(f"--cache-resized has no effect: images of {located.layout.side} px are kept in memory")
    base, root = _base_folder(located, cache_dir), located.layout.root.resolve()
    below = base.resolve().parts[len(root.parts) :] if base.resolve().is_relative_to(root) else ()
    if below and below[0].startswith(SPLIT_NAMES):
        raise BadRequest(f"--cache-dir {cache_dir}: lies among the images; choose another folder")
    parent = base
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise BadRequest(f"--cache-dir {cache_dir}: {parent} is a file")
    if parent != base and not os.access(parent, os.W_OK | os.X_OK):
        flag = "--cache-resized" if cache_dir is None else f"--cache-dir {cache_dir}"
        advice = "--cache-dir PATH names another folder" if cache_dir is None else "choose another folder"
        raise BadRequest(f"{flag}: {base} cannot be written ({parent} is not writable); {advice}")
