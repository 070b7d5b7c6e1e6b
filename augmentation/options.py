"""Options: how training images are augmented, and how an image of any shape gets the model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CROP_SCALE, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # area and aspect ratio of random resized crops, arXiv:1409.4842
EVAL_CROP = 0.875  # share of the short side that the evaluation crop keeps: 256 -> 224 px


@dataclass(frozen=True)
class Augment:
    """How training images are augmented.

    Attributes:
        crop: "pad" (random crop after padding with zeros), "resized" (random area and aspect ratio, resized; Szegedy
            et al., arXiv:1409.4842), or "none".
        padding: pixels on each side, for crop="pad".
        flip: mirror left-right with probability 1/2.
        policy: operations drawn for each image: "none", "randaugment", "trivialaugment", "autoaugment" or "3augment",
            see augmentation/policies.py.
        magnitude: of RandAugment's operations, 0 to 30.
        ops: number of RandAugment's operations.
        erasing: probability of erasing a rectangle (Zhong et al., arXiv:1708.04896).
    """

    crop: str = "none"
    padding: int = 0
    flip: bool = False
    policy: str = "none"
    magnitude: int = 9
    ops: int = 2
    erasing: float = 0.0

    @property
    def stored_padding(self) -> int:
        """Pixels of padding with which images in memory are stored."""
        return self.padding if self.crop == "pad" else 0


@dataclass(frozen=True)
class Fit:
    """How an image of any shape gets the model's shape.

    Attributes:
        mode: "crop" (keeps the aspect ratio, loses what lies outside), "squeeze" (the whole image in another aspect
            ratio), or "letterbox" (the whole image in its own aspect ratio, with a margin).
        fill: colour of the margin, 0 to 255 per channel.
    """

    mode: str = "crop"
    fill: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, mode: str, mean: Sequence[float]) -> Fit:
        """With a margin in the mean colour, which normalises to 0."""
        return cls(mode, tuple(round(255 * value) for value in mean))


CROP = Fit()
