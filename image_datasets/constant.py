"""Finds nearly constant images: white, black, or one colour. Often such a file is empty, or was read wrongly."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from multiprocessing.pool import ThreadPool

import numpy as np

from image_datasets.bad_images import BadImage
from image_datasets.decode import as_array, read_pixels
from image_datasets.splits import Split
from utils import shorten

DEVIATION = 2.0  # of 255: largest standard deviation of any channel of a nearly constant image
EDGE = 4  # of 255: a mean this close to white, or black, counts as it
MAX_FILES = 20_000  # files decoded, evenly spread over the split: a few minutes
MAX_PIXELS = 1 << 20  # pixels examined of an image, evenly spread
MAX_CLASSES = 5  # classes listed


def describe_constant(name: str, split: Split, class_names: list[str], chans: int, workers: int) -> list[str]:
    """Returns lines that warn of a split's nearly constant images: how many in all, how many and which of each class.

    Without such images there are no lines. Unreadable images are ignored.

    Args:
        name: of the split.
        workers: threads that decode the files of a streamed split.
    """
    index = np.arange(0, len(split), max(1, -(-len(split) // MAX_FILES))) if split.images is None else None
    kinds = _of_memory(split) if index is None else _of_files(split, index, chans, workers, name)
    found = {i: kind for i, kind in kinds.items() if kind}
    if not found:
        return []
    share = f"all {len(kinds):,}" if len(found) == len(kinds) else f"{len(found):,} of {len(kinds):,}"
    looked_at = " that were looked at" if index is not None and len(index) < len(split) else ""
    colours = ", ".join(f"{count:,} {kind}" for kind, count in Counter(found.values()).most_common())
    lines = [f"{name}: {share} images{looked_at} are nearly constant ({colours})"]
    by_class = defaultdict(list)
    for i in found:
        by_class[int(split.targets[i])].append(i)
    sizes = Counter(int(split.targets[i]) for i in kinds)
    largest = sorted(by_class.items(), key=lambda item: -len(item[1]))
    for label, members in largest[:MAX_CLASSES]:
        share = f"all {sizes[label]:,}" if len(members) == sizes[label] else f"{len(members):,} of {sizes[label]:,}"
        which = shorten((split.paths[i] if split.paths else f"image {i}" for i in members), 3)
        lines.append(f"  {class_names[label]}: {share}: {which}")
    if len(largest) > MAX_CLASSES:
        lines.append(f"  and images of {len(largest) - MAX_CLASSES:,} more classes")
    return lines


def _of_memory(split: Split) -> dict[int, str]:
    bad = set(split.bad().tolist())
    return {i: _kind(image) for i, image in enumerate(split.images) if i not in bad}


def _of_files(split: Split, index: np.ndarray, chans: int, workers: int, name: str) -> dict[int, str]:
    from tqdm import tqdm

    def look(i: int) -> str | None:
        try:
            return _kind(as_array(read_pixels(split.paths[i], chans, split.reading)))
        except BadImage:
            return None

    with ThreadPool(max(1, workers)) as pool:
        kinds = tqdm(pool.imap(look, index.tolist(), chunksize=32), f"looking at {name}", len(index), unit="img",
                     leave=False, disable=not sys.stderr.isatty())  # fmt: skip
        return {i: kind for i, kind in zip(index.tolist(), kinds, strict=True) if kind is not None}


def _kind(image: np.ndarray) -> str:
    """Returns "white", "black" or "of one colour" for a nearly constant image, uint8 (H, W, C), else ""."""
    step = max(1, int((image.shape[0] * image.shape[1] / MAX_PIXELS) ** 0.5))
    pixels = image[::step, ::step].reshape(-1, image.shape[2]).astype(np.float32)
    if pixels.std(0).max() >= DEVIATION:
        return ""
    mean = pixels.mean(0)
    return "white" if mean.min() > 255 - EDGE else "black" if mean.max() < EDGE else "of one colour"
