"""Data sets of image files: any folder of class folders, ImageNet-1k, Tiny ImageNet.

Images that are all equally small are decoded once and kept as one array; others are read while training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from image_datasets import discovery, discovery_v1
from image_datasets.bad_images import BadImage
from image_datasets.dataset import Dataset, LocatedDataset, channel_statistics, statistics_for
from image_datasets.discovery import Files
from image_datasets.image_files import open_image
from image_datasets.reading import CURRENT, OLDEST, Reading
from utils import BadRequest, thread_pool

if TYPE_CHECKING:
    import numpy as np

    from image_datasets.splits import Split

SMALL = 64  # px: images up to this side are kept in memory
MAX_KEPT = 224  # px: streamed squares of one size keep it up to this side, unless --img-size says otherwise
PEEKED = 256  # files opened before the data set is read
CHUNK = 32  # small images that a thread decodes per task
DIFFERING = f"its images differ in size, so they are streamed and resized, to {MAX_KEPT} px unless --img-size says"


@dataclass(frozen=True)
class Layout:
    """The contents of a folder.

    Attributes:
        splits: file names and class indices of each split.
        side: of the images in pixels, if the first of each class are equal, square and small.
        grey: whether these are all grey.
        streamed_side: side of a sample of the images in pixels, if these are equal, square and not small.
        notes: what a user should know about it, a sentence each.
        wnids: WordNet ids of the classes, if the data set has them.
    """

    root: Path
    class_names: list[str]
    splits: dict[str, Files]
    side: int | None
    grey: bool
    streamed_side: int | None = None
    notes: tuple[str, ...] = ()
    wnids: list[str] | None = None

    def with_splits(self, splits: dict[str, Files], class_names: list[str]) -> Layout:
        """The same folder, restricted to these files and classes."""
        wnids = self.wnids and [self.wnids[self.class_names.index(name)] for name in class_names]
        return replace(self, splits=splits, class_names=class_names, wnids=wnids)


def check_root(name: str, path: str | None, download: bool, verify: bool, holds: str) -> Path:
    """Returns the folder of a data set of image files.

    Args:
        holds: what must lie in it, for the message.

    Raises BadRequest if the folder is not named or missing, or for flags without effect on such data sets.
    """
    if path is None:
        raise BadRequest(f"--dataset {name} needs --datapath: the folder that holds {holds}")
    if download:
        raise BadRequest(f"--download has no effect with --dataset {name}: it cannot be fetched, only read")
    if not verify:
        raise BadRequest(f"--no-verify-checksum has no effect with --dataset {name}: image files have no checksum")
    if not Path(path).is_dir():
        raise BadRequest(f"--datapath {path}: no such folder")
    return Path(path)


def locate(
    name: str, path: str | None, download: bool, verify: bool, skip_bad: bool, reading: Reading
) -> LocatedDataset:
    """See `registry.locate_dataset`."""
    root = check_root(name, path, download, verify, "train/")
    class_names, splits, notes = (discovery_v1 if reading.rules == OLDEST else discovery).find_images(name, root)
    side, grey = peek(splits["train"], skip_bad, reading)
    layout = Layout(root, class_names, splits, side, grey, common_side(splits, side, reading), tuple(notes))
    has_val = name == "folder" and "val" in splits and "test" in splits
    return LocatedDataset(name, layout, has_val=has_val, skip_bad=skip_bad, reading=reading)


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
    if side is not None and splits["train"].images is None:
        side = None
        notes.append(DIFFERING)
    train, test, test_name = _reported(located, splits, notes)
    mean, std = statistics_for(chans) if side is None else channel_statistics(train.readable_images())
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
        notes=notes,
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
    import numpy as np

    from image_datasets.facts import file_facts

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
    import numpy as np

    from image_datasets.facts import COLOUR, GREY

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
    import numpy as np

    from image_datasets.splits import Split

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


def _reported(located: LocatedDataset, splits: dict[str, Split], notes: list[str]) -> tuple[Split, Split, str]:
    """Returns (training split, split that results are reported on, its name), and adds to `notes`."""
    from image_datasets.splits import split_test

    train = splits["train"]
    if "test" in splits:
        if located.name != "tiny-imagenet":
            return train, splits["test"], "test"
        notes.append("tiny-imagenet's test labels are not published: its val/ is what is reported on")
        return train, splits["test"], "val"
    if "val" in splits:
        notes.append("there is no test/: val/ is what is reported on")
        return train, splits["val"], "val"
    notes.append("there is neither test/ nor val/: a fixed, stratified fifth of train/ is held out as the test split")
    return *split_test(train, located.layout.class_names), "test"


def peek(split: Files, skip_bad: bool, reading: Reading = CURRENT) -> tuple[int | None, bool]:
    """Looks at the first image of each class. Returns (their common side, whether all are grey).

    The side is None if they differ, are not square, or exceed 64 px.

    Args:
        skip_bad: take the first readable image of each class; otherwise raise BadRequest for an unreadable one.
    """
    sizes, grey, seen = set(), True, set()
    for path, label in zip(*split, strict=True):
        if label in seen:
            continue
        try:
            with open_image(path, reading) as image:
                sizes.add(image.size)
                grey = grey and image.mode in ("L", "1")
        except BadImage as error:
            if not skip_bad:
                raise
            reason = error
            continue
        seen.add(label)
    if not sizes:
        raise BadRequest(f"none of the {len(split[0]):,} training images can be read; the last: {reason}")
    width, height = next(iter(sizes))
    small = len(sizes) == 1 and width == height and width <= SMALL
    return (width if small else None), grey


def common_side(splits: dict[str, Files], side: int | None, reading: Reading) -> int | None:
    """Side of streamed images in pixels, if a few hundred of them are squares of one size up to 224 px, else None.

    `load` looks at all of them later. Always None under rules 1.
    """
    if side is not None or reading.rules == OLDEST:
        return None
    sizes = set()

    def look(path: str) -> bool:
        with contextlib.suppress(BadImage), open_image(path, reading) as image:
            sizes.add(image.size)
        width, height = next(iter(sizes), (1, 1))
        return len(sizes) < 2 and width == height <= MAX_KEPT

    paths = [path for files, _ in splits.values() for path in files]
    alike = all(map(look, paths[:: max(1, len(paths) // PEEKED)]))
    return next(iter(sizes))[0] if alike and sizes else None


def _decode_all(
    paths: Sequence[str], side: int, chans: int, workers: int, located: LocatedDataset
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns (uint8 (N, side, side, chans), reason why each image is unreadable or None), or None if a size differs.

    Unreadable images are black. Threads suffice, as decoders release the interpreter lock.
    """
    import numpy as np

    from image_datasets.decode import as_array, read_pixels  # imports torch, which `locate` must not

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
