"""A split of a data set, and how training, validation and test images are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from image_datasets.reading import CURRENT, Reading
from utils import BadRequest, derive_seed, shorten

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601: what Pillow makes grey from red, green and blue with
HELD_OUT = 0.2  # share of a data set without a test split that is held out as its test split


class ImageReader(Protocol):
    """The images of a split, read from elsewhere than their files; image_datasets/resized has one."""

    def subset(self, index: np.ndarray) -> ImageReader:
        """Those at `index`."""

    def __getitem__(self, i: int) -> Any:
        """What `data_transform.image_transform` takes, or None where only the file has the image."""


@dataclass(frozen=True)
class Split:
    """Labelled images, held in memory or as files.

    Attributes:
        targets: class indices, int64 (N,).
        images: uint8 (N, H, W, C), for sets of small images.
        paths: file names, for sets that are read while training.
        copies: what is read in place of these files.
        reasons: of images in memory, why the file of each could not be read, None where it could: (N,). Those that
            could not are there in black, and left out of every batch.
        reading: the rules that files are read by.
        facts: of the files, or of images that came in memory, as image_datasets/facts.py gives them; None where nobody
            has looked.
    """

    targets: np.ndarray
    images: np.ndarray | None = None
    paths: Sequence[str] | None = None
    copies: ImageReader | None = None
    reasons: np.ndarray | None = None
    reading: Reading = CURRENT
    facts: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, index: np.ndarray) -> Split:
        images = None if self.images is None else self.images[index]
        paths = None if self.paths is None else [self.paths[i] for i in index]
        reasons = None if self.reasons is None else self.reasons[index]
        copies = self.copies and self.copies.subset(index)
        facts = None if self.facts is None else self.facts[index]
        return replace(
            self, targets=self.targets[index], images=images, paths=paths, copies=copies, reasons=reasons, facts=facts
        )

    def bad(self) -> np.ndarray:
        """The indices of the images that are known to be unreadable."""
        return np.flatnonzero([] if self.reasons is None else [reason is not None for reason in self.reasons])

    def readable_images(self) -> np.ndarray:
        return self.images if not len(self.bad()) else np.delete(self.images, self.bad(), axis=0)

    def with_channels(self, in_chans: int) -> Split:
        """The same images in grey (1) or colour (3). Files are converted when they are read."""
        images = self.images
        if images is None or images.shape[3] == in_chans:
            return self
        if in_chans == 3:
            images = np.repeat(images, 3, axis=3)
        else:
            images = (images @ np.array(LUMA, dtype=np.float32)).round().astype(np.uint8)[..., None]
        return replace(self, images=images)


def stratified_prefix(targets: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Sorted indices of `fraction` of each class, chosen at random by `seed`, at least one image of each class.

    Each class is put in one random order that does not depend on `fraction`, and its beginning is taken: a smaller
    subset lies within a larger one of the same seed.
    """
    order = np.random.default_rng(seed).permutation(len(targets))
    chosen = []
    for label in np.unique(targets):
        members = order[targets[order] == label]
        chosen.append(members[: max(1, int(fraction * len(members) + 0.5))])
    return np.sort(np.concatenate(chosen))


def hold_out(
    targets: np.ndarray, fraction: float, seed: int, class_names: Sequence[str], advice: str
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (kept, held out): a stratified `fraction` is held out.

    Args:
        advice: what helps where a class has too few images, for the message.

    Raises:
        BadRequest: no image would be left of a class.
    """
    held = stratified_prefix(targets, fraction, seed)
    kept = np.setdiff1d(np.arange(len(targets)), held)
    lost = np.setdiff1d(targets, targets[kept])
    if len(lost):
        few = shorten((f"{class_names[label]} has {int((targets == label).sum())}" for label in lost), 3)
        classes = "1 class has" if len(lost) == 1 else f"{len(lost)} classes have"
        raise BadRequest(f"{classes} too few training images to hold out {fraction:g} of them ({few}); {advice}")
    return kept, held


def split_test(train: Split, class_names: Sequence[str]) -> tuple[Split, Split]:
    """(train, test) of a set that has no test split of its own: the same images whatever the run's seed."""
    advice = "add images, remove such classes, or put test images into test/<class>/"
    kept, held = hold_out(train.targets, HELD_OUT, derive_seed("test split"), class_names, advice)
    return train.subset(kept), train.subset(held)


def split_train(
    train: Split, val_fraction: float, train_fraction: float, seed: int, class_names: Sequence[str]
) -> tuple[Split, Split | None]:
    """(train, validation): `val_fraction` is carved out first, then `train_fraction` of the rest is kept.

    Both are stratified; the validation images do not depend on `train_fraction`, and subsets for growing fractions are
    nested. With val_fraction 0 there is no validation split.
    """
    val = None
    if val_fraction > 0:
        advice = "add images, remove such classes, or train on all with --val-fraction 0"
        kept, held = hold_out(train.targets, val_fraction, derive_seed("validation split", seed), class_names, advice)
        train, val = train.subset(kept), train.subset(held)
    if train_fraction < 1:
        train = train.subset(stratified_prefix(train.targets, train_fraction, derive_seed("train subset", seed)))
    return train, val
