"""Data sets by name. `locate_dataset` looks at the disk without heavy imports; `load_dataset` reads."""

from __future__ import annotations

import importlib
from typing import NamedTuple

from image_datasets.dataset import Dataset, LocatedDataset
from image_datasets.reading import CURRENT, Reading
from utils import BadRequest, suggestion


class Entry(NamedTuple):
    """What is known of a data set before it is located.

    Attributes:
        module: defines locate(name, path, download, verify, skip_bad, reading) -> LocatedDataset
            and load(located, workers) -> Dataset.
        num_classes, side, in_chans: None if they depend on the folder, or if images differ in size.
    """

    module: str
    description: str
    num_classes: int | None = None
    side: int | None = None
    in_chans: int | None = None


DATASETS = {
    "cifar10": Entry("cifar", "60,000 images of 32 px, 10 classes (Krizhevsky 2009)", 10, 32, 3),
    "cifar100": Entry("cifar", "60,000 images of 32 px, 100 classes (Krizhevsky 2009)", 100, 32, 3),
    "digits": Entry("digits", "1,797 handwritten digits of 8 px, from scikit-learn; no download", 10, 8, 1),
    "folder": Entry("folder", "any train/<class>/..., with optional val/ and test/"),
    "imagenet100": Entry("imagenet100", "train.X1, train.X2, ..., val.X and Labels.json, the shards as distributed"),
    "imagenet1k": Entry("folder", "ILSVRC 2012 as train/<wnid>/... and val/<wnid>/...", 1000, None, 3),
    "tiny-imagenet": Entry("folder", "tiny-imagenet-200 as distributed, 64 px, 200 classes", 200, 64, 3),
}


def list_datasets() -> dict[str, str]:
    """Descriptions by name."""
    return {name: entry.description for name, entry in DATASETS.items()}


def check_name(name: str) -> None:
    """Raises BadRequest, with a suggestion, if `name` is not a data set."""
    if name not in DATASETS:
        raise BadRequest(f"unknown data set {name!r}.{suggestion(name, DATASETS)} Known: {', '.join(DATASETS)}")


def dimensions(name: str, path: str | None) -> tuple[int, int | None, int]:
    """Returns (classes, side of the images in pixels, channels); side is None if the images have no common one.

    Data sets with fixed dimensions need no folder. If one is given, it must hold the data set.

    Raises BadRequest as `locate_dataset` does.
    """
    check_name(name)
    entry = DATASETS[name]
    if entry.num_classes is not None:
        if path is not None:
            locate_dataset(name, path, download=False, verify=True)
        return entry.num_classes, entry.side, entry.in_chans
    layout = locate_dataset(name, path, download=False, verify=True).layout
    return len(layout.class_names), layout.side or layout.streamed_side, 1 if layout.grey else 3


def locate_dataset(
    name: str,
    path: str | None,
    download: bool,
    verify: bool,
    skip_bad: bool = False,
    reading: Reading = CURRENT,
) -> LocatedDataset:
    """Checks that a data set is there and laid out as expected. Reads no more than a few headers.

    Args:
        path: folder of the data; None for data sets that need none.
        download: allow `load_dataset` to fetch missing archives.
        verify: require archives and files to have their published checksum.
        skip_bad: accept unreadable image files.
        reading: rules for finding and reading image files.

    Raises BadRequest for an unknown name, and for data that is missing or laid out otherwise.
    """
    check_name(name)
    return _module(name).locate(name, path, download=download, verify=verify, skip_bad=skip_bad, reading=reading)


def load_dataset(located: LocatedDataset, workers: int = 0) -> Dataset:
    """Reads a located data set. `workers` threads read image files, and decode those that are kept in memory."""
    return _module(located.name).load(located, workers=workers)


def _module(name: str):
    return importlib.import_module(f"image_datasets.{DATASETS[name].module}")
