"""What is known of a data set of image files once it is located. Opens a few headers; imports nothing heavy."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from image_datasets.bad_images import BadImage
from image_datasets.dataset import LocatedDataset, Wanted
from image_datasets.discovery import Files
from image_datasets.image_files import open_image
from image_datasets.reading import CURRENT, OLDEST, Reading
from utils import BadRequest

SMALL = 64  # px: images up to this side are kept in memory
MAX_KEPT = 224  # px: streamed squares of one size keep it up to this side, unless --img-size says otherwise
PEEKED = 256  # files opened before the data set is read
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Layout:
    """The files of a data set.

    Attributes:
        root: file names in the list of a run are relative to this folder.
        splits: file names and class indices of each split.
        side: of the images in pixels, if the first of each class are equal, square and small.
        grey: whether these are all grey.
        streamed_side: side of a sample of the images in pixels, if these are equal, square and not small.
        notes: what a user should know about it, a sentence each.
        wnids: WordNet ids of the classes, if the data set has them.
        val_name: the data set's own name for its validation split.
        in_folders: the splits are folders.
        flip: whether a mirror image still shows the same class.
    """

    root: Path
    class_names: list[str]
    splits: dict[str, Files]
    side: int | None
    grey: bool
    streamed_side: int | None = None
    notes: tuple[str, ...] = ()
    wnids: list[str] | None = None
    val_name: str = "val"
    in_folders: bool = False
    flip: bool = True

    def with_splits(self, splits: dict[str, Files], class_names: list[str]) -> Layout:
        """The same data set, restricted to these files and classes."""
        wnids = self.wnids and [self.wnids[self.class_names.index(name)] for name in class_names]
        return replace(self, splits=splits, class_names=class_names, wnids=wnids)

    def with_classes(self, class_names: Sequence[str]) -> Layout:
        """The same data set, restricted to the files of these classes, whose indices become 0, 1, ... in this order."""
        new = {self.class_names.index(name): i for i, name in enumerate(class_names)}
        splits = {}
        for part, (paths, labels) in self.splits.items():
            kept = [i for i, label in enumerate(labels) if label in new]
            splits[part] = [paths[i] for i in kept], [new[labels[i]] for i in kept]
        return self.with_splits(splits, list(class_names))


def located(
    wanted: Wanted, root: Path, class_names: list[str], splits: dict[str, Files], notes: Sequence[str], **more: object
) -> LocatedDataset:
    """A data set of these files. Looks at a few of them.

    Args:
        more: further attributes of `Layout`.

    Raises BadRequest if there is no image of some split, or one is unreadable.
    """
    for part, (paths, _) in splits.items():
        if not paths:
            raise BadRequest(f"{root}: its {part} split has no images")
    side, grey = peek(splits[next(part for part in PARTS if part in splits)], wanted.skip_bad, wanted.reading)
    streamed_side = common_side(splits, side, wanted.reading)
    layout = Layout(root, class_names, splits, side, grey, streamed_side, tuple(notes), **more)  # type: ignore[arg-type]
    has_val = {"val", "test"} <= splits.keys()
    return LocatedDataset(wanted.name, layout, has_val, wanted.skip_bad, wanted.reading)


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
