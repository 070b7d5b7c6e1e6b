"""A data set, located (only its folder was looked at) and loaded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from image_datasets.reading import CURRENT, Reading

if TYPE_CHECKING:
    import numpy as np

    from image_datasets.splits import Split

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def statistics_for(
    in_chans: int, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, given those of RGB; grey images get the average of the three."""
    if in_chans == 3:
        return tuple(mean), tuple(std)
    return (sum(mean) / 3,), (sum(std) / 3,)


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

    def normalized(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Dataset:
        """The same data set with another mean and deviation, given for RGB (see `statistics_for`)."""
        mean, std = statistics_for(self.in_chans, mean, std)
        return replace(self, mean=mean, std=std)


@dataclass(frozen=True)
class LocatedDataset:
    """A data set that `locate_dataset` has found, not read yet.

    Attributes:
        layout: input of the data set's own `load`.
        has_val: it has a validation split besides the split that results are reported on.
        skip_bad: leave out unreadable image files instead of stopping the run.
        reading: rules for reading image files.
    """

    name: str
    layout: Any
    has_val: bool = False
    skip_bad: bool = False
    reading: Reading = CURRENT
