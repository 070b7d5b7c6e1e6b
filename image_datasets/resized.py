"""A copy of the training images with a short side of about 256 px, which is quicker to read than the files themselves.

Here is where it lies and what it holds; image_datasets/copies.py reads it, image_datasets/copying.py makes it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from image_datasets.registry import Found
from utils import BadRequest, sides

if TYPE_CHECKING:
    from image_datasets.splits import Split

KINDS = {"jpeg": "JPEG 4:2:0, quality 90", "raw": "uncompressed"}
FOLDER = ".resized"  # beside the data
SHORT = 256  # px, for images of up to 224 px
SPLIT_NAMES = ("train", "val", "test")  # what the folders of a data set's images begin with


def short_side(img_size: int | Sequence[int]) -> int:
    """The short side of the copies, in pixels: what evaluation resizes to before its centre crop, and at least 256."""
    from data_transform import EVAL_CROP

    return max(SHORT, round(max(sides(img_size)) / EVAL_CROP))


def base_folder(found: Found, cache_dir: str | None) -> Path:
    return found.layout.root / FOLDER if cache_dir is None else Path(cache_dir)


def check(found: Found, cache_dir: str | None) -> None:
    """Raises BadRequest for a data set whose images are kept in memory, and for a folder that can hold no copy. Writes
    nothing. A copy that is there already may be read-only."""
    if found.layout.side is not None:
        raise BadRequest(f"--cache-resized has no effect: images of {found.layout.side} px are kept in memory")
    base, root = base_folder(found, cache_dir), found.layout.root.resolve()
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


def with_copies(splits: list[Split], found: Found, kind: str, cache_dir: str | None, img_size: int | Sequence[int],
                chans: int, workers: int) -> list[Split]:  # fmt: skip
    """The same splits, read from the copy. What it lacks is made first, by `workers` processes, and a line is printed.

    Args:
        img_size: side of the images that the model gets in pixels, or their height and width.
        chans: 1: the copy is grey, 3: in colour.

    Raises BadRequest that names the image where one cannot be read, RunFailed where the copy cannot be written.
    """
    from dataclasses import replace

    import numpy as np

    from image_datasets.copying import complete

    side = short_side(img_size)
    place = base_folder(found, cache_dir) / f"{kind}-{side}"
    paths = [path for split in splits for path in split.paths]
    copies = complete(place, kind, side, chans, str(found.layout.root), paths, workers, found)
    parts = np.split(np.arange(len(paths)), np.cumsum([len(split) for split in splits])[:-1])
    return [replace(split, copies=copies.subset(part)) for split, part in zip(splits, parts, strict=True)]
