"""Data sets by name. `check_dataset` looks at the disk without importing anything heavy; `load_dataset` reads."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from image_datasets.reading import CURRENT, Reading
from utils import BadRequest, suggestion

if TYPE_CHECKING:
    from image_datasets.splits import Split

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def statistics_for(
    in_chans: int, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, deviation) per channel from those of three colours; of grey images, the mean of the three."""
    if in_chans == 3:
        return tuple(mean), tuple(std)
    return (sum(mean) / 3,), (sum(std) / 3,)


@dataclass
class Dataset:
    """What a training run needs to know of its data.

    Attributes:
        train, val, test: `val` is None where the data set has no validation split of its own.
        test_name: what the data set calls the split that results are reported on.
        mean, std: per channel, of pixel values in [0, 1].
        side: height and width of images that are kept in memory; None: they are streamed.
        streamed_side: of images that are streamed, where all are squares of one size and keep it.
        flip: whether a mirror image still shows the same class.
        notes: what a user should know of how it was read, a sentence each.
        wnids: the classes' WordNet ids, where the data set names them.
    """

    name: str
    class_names: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int | None
    train: Split
    test: Split
    test_name: str = "test"
    val: Split | None = None
    flip: bool = True
    notes: list[str] = field(default_factory=list)
    wnids: list[str] | None = None
    streamed_side: int | None = None

    @property
    def natural_side(self) -> int | None:
        """The side of the images that a model gets where nothing else is asked for."""
        return self.side or self.streamed_side

    @property
    def in_chans(self) -> int:
        return len(self.mean)

    def with_channels(self, in_chans: int) -> Dataset:
        """The same data set in grey (1) or colour (3); grey is ITU-R 601 luma, as Pillow's."""
        if in_chans == self.in_chans:
            return self
        from image_datasets.splits import LUMA

        if in_chans == 3:
            mean, std = self.mean * 3, self.std * 3
        else:  # channels of natural images are nearly equal, so their means are close to the luma's
            mean, std = ((sum(w * v for w, v in zip(LUMA, values, strict=True)),) for values in (self.mean, self.std))
        splits = {part: split and split.with_channels(in_chans) for part, split in
                  (("train", self.train), ("val", self.val), ("test", self.test))}  # fmt: skip
        return replace(self, mean=mean, std=std, **splits)

    def normalized(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Dataset:
        """The same data set with another mean and deviation, of three channels; grey images get the mean of these."""
        mean, std = statistics_for(self.in_chans, mean, std)
        return replace(self, mean=mean, std=std)


@dataclass(frozen=True)
class Found:
    """What `check_dataset` saw.

    Attributes:
        layout: for the data set's own `load`.
        has_val: there is a validation split besides the one that is reported on.
        skip_bad: image files that cannot be read are left out, and do not stop the run.
        reading: the rules that image files are read by.
    """

    name: str
    layout: Any
    has_val: bool = False
    skip_bad: bool = False
    reading: Reading = CURRENT


class Entry(NamedTuple):
    """What is known of a data set before it is seen.

    Attributes:
        module: has check(name, path, download, verify, skip_bad, reading) -> Found and load(found, workers) -> Dataset.
        num_classes, side, in_chans: None where the folder tells, or where images differ in size.
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
    return {name: entry.description for name, entry in DATASETS.items()}


def check_name(name: str) -> None:
    """Raises BadRequest, with a suggestion, where `name` is no data set."""
    if name not in DATASETS:
        raise BadRequest(f"unknown data set {name!r}.{suggestion(name, DATASETS)} Known: {', '.join(DATASETS)}")


def describe(name: str, path: str | None) -> tuple[int, int | None, int]:
    """(classes, side of the images or None where a model gets another, channels). No folder is needed where the name
    tells, but one that is given must hold the data set: else BadRequest, like `check_dataset`."""
    check_name(name)
    entry = DATASETS[name]
    if entry.num_classes is not None:
        if path is not None:
            check_dataset(name, path, download=False, verify=True)
        return entry.num_classes, entry.side, entry.in_chans
    layout = check_dataset(name, path, download=False, verify=True).layout
    return len(layout.class_names), layout.side or layout.streamed_side, 1 if layout.grey else 3


def check_dataset(
    name: str,
    path: str | None,
    download: bool,
    verify: bool,
    skip_bad: bool = False,
    reading: Reading = CURRENT,
) -> Found:
    """Raises BadRequest for an unknown name, and for data that is missing or not laid out as it should be.

    Args:
        path: the folder that holds the data; None for data sets that need none.
        download: missing archives may be fetched.
        verify: archives and files must have their published checksum.
        skip_bad: image files that cannot be read are no reason to refuse the data set.
        reading: the rules that image files are found and read by.
    """
    check_name(name)
    return _module(name).check(name, path, download=download, verify=verify, skip_bad=skip_bad, reading=reading)


def load_dataset(found: Found, workers: int = 0) -> Dataset:
    """Reads what `check_dataset` found. `workers` threads decode image files where the images are kept in memory."""
    return _module(found.name).load(found, workers=workers)


def _module(name: str):
    return importlib.import_module(f"image_datasets.{DATASETS[name].module}")
