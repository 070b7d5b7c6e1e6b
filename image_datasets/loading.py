"""Reads data sets of image files, whatever form they come in.

Images that are all equally small are decoded once and kept as one array; others are read while training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from image_datasets.bad_images import BadImage
from image_datasets.dataset import Dataset, LocatedDataset, channel_statistics, statistics_for
from image_datasets.facts import COLOUR, GREY, file_facts
from image_datasets.layout import MAX_KEPT, SMALL, Layout
from image_datasets.reading import OLDEST
from image_datasets.splits import Split, reported_split
from utils import thread_pool

CHUNK = 32  # small images that a thread decodes per task
DIFFERING = f"its images differ in size, so they are streamed and resized, to {MAX_KEPT} px unless --img-size says"


def load(located: LocatedDataset, workers: int) -> Dataset:
    """Reads all files once for their facts, and decodes the images if they are equal, square and small.

    Args:
        workers: threads.
    """
    layout: Layout = located.layout
    notes = list(layout.notes)
    facts, grey, side, streamed_side = _look(located, workers, notes)
    chans = 1 if grey else 3
    splits = _read_splits(located, facts, side, chans, workers)
    if side is not None and next(iter(splits.values())).images is None:
        side = None
        notes.append(DIFFERING)
    if located.name == "tiny-imagenet":
        train, test, test_name = splits["train"], splits["test"], "val"
        notes.append("tiny-imagenet's test labels are not published: its val/ is what is reported on")
    else:
        train, test, test_name = reported_split(splits, layout.class_names, notes, layout.in_folders, layout.val_name)
    of_train = side is not None and len(train) > 0
    mean, std = channel_statistics(train.readable_images()) if of_train else statistics_for(chans)
    return Dataset(
        name=located.name,
        class_names=layout.class_names,
        mean=mean,
        std=std,
        side=side,
        streamed_side=None if side is not None else streamed_side,
        train=train,
        val=splits["val"] if located.has_val else None,
        test=test,
        test_name=test_name,
        flip=layout.flip,
        notes=notes,
        wnids=layout.wnids,
    )


def _look(
    located: LocatedDataset, workers: int, notes: list[str]
) -> tuple[dict[str, np.ndarray | None], bool, int | None, int | None]:
    """Returns (facts of each split, whether all images are grey, side, streamed_side), and adds to `notes`.

    Rules 1 do not look at the files: the facts are None, the rest is the layout's.
    """
    layout: Layout = located.layout
    if located.reading.rules == OLDEST:
        return dict.fromkeys(layout.splits), layout.grey, layout.side, layout.streamed_side
    paths = [path for files, _ in layout.splits.values() for path in files]
    ends = np.cumsum([len(files) for files, _ in layout.splits.values()])[:-1]
    facts = file_facts(layout.root, paths, workers)
    grey, side, streamed_side = _judge(facts, notes)
    if layout.side is not None and side is None:
        notes.append(DIFFERING)
    return dict(zip(layout.splits, np.split(facts, ends), strict=True)), grey, side, streamed_side


def _judge(facts: np.ndarray, notes: list[str]) -> tuple[bool, int | None, int | None]:
    """Returns (whether all images are grey, side, streamed_side) by the headers of all files.

    `side` is None unless all are equal, square and small; `streamed_side` unless they are equal, square and larger, up
    to 224 px. Adds to `notes` if grey and colour are mixed.
    """
    seen = facts[facts["kind"] > 0]
    grey, colour = (int((seen["kind"] == kind).sum()) for kind in (GREY, COLOUR))
    if grey and colour:
        notes.append(f"grey images: {grey:,} of {grey + colour:,}; all are read in colour")
    sizes = np.unique(seen[["width", "height"]]).tolist()
    width, height = sizes[0] if len(sizes) == 1 else (0, 1)
    square = width if width == height else None
    return (
        grey > 0 and not colour,
        square if square and square <= SMALL else None,
        square if square and SMALL < square <= MAX_KEPT else None,
    )


def _read_splits(
    located: LocatedDataset, facts: dict[str, np.ndarray | None], side: int | None, chans: int, workers: int
) -> dict[str, Split]:
    """Returns the splits, with their images in memory if all of them turn out to have `side`."""
    splits = {
        part: Split(np.asarray(labels, dtype=np.int64), paths=paths, reading=located.reading, facts=facts[part])
        for part, (paths, labels) in located.layout.splits.items()
    }
    in_memory = {}
    for part, split in splits.items() if side is not None else ():
        decoded = _decode_all(split.paths, side, chans, workers, located)
        if decoded is None:
            return splits
        images, reasons = decoded
        in_memory[part] = replace(split, images=images, reasons=reasons)
    return in_memory or splits


def _decode_all(
    paths: Sequence[str], side: int, chans: int, workers: int, located: LocatedDataset
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns (uint8 (N, side, side, chans), reason why each image is unreadable or None), or None if a size differs.

    Unreadable images are black. Threads suffice, as decoders release the interpreter lock.
    """
    from image_datasets.decode import as_array, read_pixels  # compare.py reads large images without torch

    images = np.zeros((len(paths), side, side, chans), dtype=np.uint8)
    reasons = np.full(len(paths), None)

    def decode(start: int) -> bool:
        for i in range(start, min(start + CHUNK, len(paths))):
            try:
                pixels = as_array(read_pixels(paths[i], chans, located.reading))
            except BadImage as error:
                if not located.skip_bad:
                    raise
                reasons[i] = error.reason
                continue
            if pixels.shape != images.shape[1:]:
                return False
            images[i] = pixels
        return True

    with thread_pool(workers) as pool:
        alike = all(pool.imap(decode, range(0, len(paths), CHUNK)))
    return (images, reasons) if alike else None
