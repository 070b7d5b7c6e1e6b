"""Copies of the training images with a short side of about 256 px, quicker to read than the files.

place.py says where they are, making.py makes them, store.py reads them, tiles.py decodes parts of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from image_datasets.dataset import LocatedDataset
from image_datasets.resized.place import KINDS, check, copy_folder, short_side

if TYPE_CHECKING:
    from image_datasets.splits import Split

__all__ = ["KINDS", "check", "short_side", "with_copies"]


def with_copies(splits: list[Split], located: LocatedDataset, kind: str, cache_dir: str | None,
                img_size: int | Sequence[int], chans: int, workers: int) -> list[Split]:  # fmt: skip
    """Returns the same splits, read from copies. Makes the missing ones first and prints a line.

    Args:
        kind: one of KINDS.
        cache_dir: folder of the copies; None: beside the data.
        img_size: side in pixels of the images that the model gets, or (height, width).
        chans: 1 for grey copies, 3 for colour.
        workers: processes that make copies.

    Raises BadRequest that names the unreadable images, and RunFailed if copies cannot be written.
    """
    import numpy as np

    from image_datasets.resized.making import Form, complete  # imports torch, which checks of settings must not

    form = Form(kind, short_side(img_size), chans, located.reading)
    paths = [path for split in splits for path in split.paths]
    place = copy_folder(located, cache_dir, kind, form.side)
    copies = complete(place, form, str(located.layout.root), paths, workers, located.skip_bad)
    parts = np.split(np.arange(len(paths)), np.cumsum([len(split) for split in splits])[:-1])
    return [replace(split, copies=copies.subset(part)) for split, part in zip(splits, parts, strict=True)]
