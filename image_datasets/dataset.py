"""A data set, located (only its folder was looked at) and loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from image_datasets.reading import CURRENT, Reading

if TYPE_CHECKING:
    import numpy as np

    from image_datasets.splits import Split

CHOICE = ("classes", "image_column", "label_column", "dataset_args")  # settings that choose images of a data set
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def statistics_for(
    in_chans: int, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, given those of RGB; grey images get the average of the three."""
    if in_chans == 3:
        return tuple(mean), tuple(std)
    return (sum(mean) / 3,), (sum(std) / 3,)


def name_of_fold(fold: str) -> str:
    """The name of the split that fold "I/K" is, when it is held out."""
    return "fold {} of {}".format(*fold.split("/"))


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images (N, H, W, C), for pixel values in [0, 1]."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(images)  # torch counts bytes directly, NumPy widens each to 8 bytes first
    counts = [torch.bincount(pixels[..., c].flatten(), minlength=256).numpy() for c in range(images.shape[-1])]
    values = np.arange(256) / 255
    means = [float((count * values).sum() / count.sum()) for count in counts]
    variances = [
        float((count * (values - mean) ** 2).sum() / count.sum()) for count, mean in zip(counts, means, strict=True)
    ]
    return tuple(means), tuple(max(variance, 1e-12) ** 0.5 for variance in variances)


@dataclass
class Dataset:
    """A loaded data set.

    Attributes:
        mean, std: per channel, for pixel values in [0, 1].
        side: height and width in pixels of images kept in memory; None if the images are streamed.
        train, val, test: `val` is None if the data set has no validation split of its own.
        test_name: the data set's own name for the split that results are reported on.
        flip: whether a mirror image still shows the same class.
        notes: what a user should know about how it was read, a sentence each.
        wnids: WordNet ids of the classes, if the data set has them.
        streamed_side: side of streamed images in pixels, if all are squares of one size and keep it.
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
        """Default side, in pixels, of the images that a model gets; None if the images have no common one."""
        return self.side or self.streamed_side

    @property
    def in_chans(self) -> int:
        """Channels of the images: 1 or 3."""
        return len(self.mean)

    def with_channels(self, in_chans: int) -> Dataset:
        """The same data set in grey (1) or colour (3); grey is ITU-R 601 luma, like Pillow's."""
        if in_chans == self.in_chans:
            return self
        from image_datasets.splits import LUMA

        if in_chans == 3:
            mean, std = self.mean * 3, self.std * 3
        else:  # close to the luma's own: the channels of natural images are nearly equal
            mean, std = ((sum(w * v for w, v in zip(LUMA, values, strict=True)),) for values in (self.mean, self.std))
        splits = {part: split and split.with_channels(in_chans) for part, split in
                  (("train", self.train), ("val", self.val), ("test", self.test))}  # fmt: skip
        return replace(self, mean=mean, std=std, **splits)

    def with_classes(self, class_names: Sequence[str]) -> Dataset:
        """The images of these classes alone."""
        kept = [self.class_names.index(name) for name in class_names]
        splits = {part: split and split.with_labels(kept) for part, split in
                  (("train", self.train), ("val", self.val), ("test", self.test))}  # fmt: skip
        wnids = self.wnids and [self.wnids[i] for i in kept]
        return replace(self, class_names=list(class_names), wnids=wnids, **splits)

    def with_fold_held_out(self, fold: str) -> Dataset:
        """The other folds of the training images as training split, and this one as the split that is reported on.

        Args:
            fold: "I/K", see `splits.hold_out_fold`.
        """
        from image_datasets.splits import hold_out_fold

        kept, held = hold_out_fold(self.train.targets, fold, self.class_names)
        train, test = self.train.subset(kept), self.train.subset(held)
        return replace(self, train=train, val=None, test=test, test_name=name_of_fold(fold))

    def normalized(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Dataset:
        """The same data set with another mean and deviation, given for RGB (see `statistics_for`)."""
        mean, std = statistics_for(self.in_chans, mean, std)
        return replace(self, mean=mean, std=std)


@dataclass(frozen=True)
class Wanted:
    """What the flags ask of a data set.

    Attributes:
        path: folder or file of the data; None for data sets that need none.
        download: fetch what is missing.
        verify: require archives and files to have their published checksum.
        skip_bad: accept unreadable image files.
        reading: rules for finding and reading image files.
        classes: the only classes to use, by name; None for all.
        image_column, label_column: of data sets that are tables; None: they are found by their names.
        arguments: further ones, of the library that reads the data set.
        with_train: a set without training images is refused.
    """

    name: str
    path: str | None = None
    download: bool = False
    verify: bool = True
    skip_bad: bool = False
    reading: Reading = CURRENT
    classes: Sequence[str] | None = None
    image_column: str | None = None
    label_column: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    with_train: bool = True

    @classmethod
    def of(cls, settings: Mapping[str, Any], **changes: Any) -> Wanted:
        """From the settings of a run. `changes` replace attributes."""
        values = {
            "name": settings["dataset"],
            "path": settings.get("data_path"),
            "verify": settings.get("verify_checksum", True),
            "reading": Reading.of(settings),
            "arguments": settings.get("dataset_args") or {},
            **{key: settings.get(key) for key in CHOICE if key != "dataset_args"},
        }
        return cls(**{**values, **changes})


@dataclass(frozen=True)
class LocatedDataset:
    """A data set that `locate_dataset` has found, not read yet.

    Attributes:
        layout: input of the data set's own `load`; for sets of image files a `layout.Layout`.
        has_val: it has a validation split besides the split that results are reported on.
        skip_bad: leave out unreadable image files instead of stopping the run.
        reading: rules for reading image files.
        classes: the only classes to use, where `layout` still has others; None for all.
    """

    name: str
    layout: Any
    has_val: bool = False
    skip_bad: bool = False
    reading: Reading = CURRENT
    classes: Sequence[str] | None = None

    @property
    def has_files(self) -> bool:
        """Whether the images are files, or members of larger files, that are known one by one."""
        return hasattr(self.layout, "splits")
