"""A split of a data set, and how training, validation and test images are separated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from image_datasets.reading import CURRENT, Reading
from utils import BadRequest, derive_seed, shorten

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601 weights of red, green and blue, like Pillow's
HELD_OUT = 0.2  # share held out as test split if a data set has none


class ImageReader(Protocol):
    """Reads the images of a split from somewhere other than their files; see image_datasets/resized."""

    def subset(self, index: np.ndarray) -> ImageReader:
        """A reader of the images at `index`."""

    def __getitem__(self, i: int) -> Any:
        """Input of `data_transform.image_transform`, or None if the image has to be read from its file."""


@dataclass(frozen=True)
class Split:
    """Labelled images, held in memory or as files.

    Attributes:
        targets: class indices, int64 (N,).
        images: uint8 (N, H, W, C), for small images.
        paths: file names, if the images come from files.
        copies: read instead of these files.
        reasons: (N,), for images in memory: why a file was unreadable, or None. Unreadable images are black, and
            dropped from every batch.
        reading: rules for reading the files.
        facts: (N,), of the files or of images that came in memory, see facts.py; None if nobody has looked.
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
        """The images at `index`, int64 (n,)."""
        images = None if self.images is None else self.images[index]
        paths = None if self.paths is None else [self.paths[i] for i in index]
        reasons = None if self.reasons is None else self.reasons[index]
        copies = self.copies and self.copies.subset(index)
        facts = None if self.facts is None else self.facts[index]
        return replace(
            self, targets=self.targets[index], images=images, paths=paths, copies=copies, reasons=reasons, facts=facts
        )

    def with_labels(self, kept: Sequence[int]) -> Split:
        """The images of the class indices `kept`, which become 0, 1, ... in this order."""
        new = {label: i for i, label in enumerate(kept)}
        part = self.subset(np.flatnonzero(np.isin(self.targets, kept)))
        return replace(part, targets=np.array([new[label] for label in part.targets.tolist()], dtype=np.int64))

    def bad(self) -> np.ndarray:
        """Indices of the images that are known to be unreadable."""
        return np.flatnonzero([] if self.reasons is None else [reason is not None for reason in self.reasons])

    def readable_images(self) -> np.ndarray:
        """The images in memory without the unreadable ones, uint8 (n, H, W, C)."""
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
    """Sorted indices of a random `fraction` of each class, at least one image each.

    The first images are taken of one random order per class, which depends on `seed` alone. So smaller subsets lie
    within larger ones.
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
    """Holds out a stratified `fraction`. Returns indices (kept, held out).

    Args:
        advice: for the message if a class has too few images.

    Raises BadRequest if no image of a class would be left.
    """
    held = stratified_prefix(targets, fraction, seed)
    return _without(targets, held, f"{fraction:g} of them", class_names, advice), held


def _without(targets: np.ndarray, held: np.ndarray, what: str, class_names: Sequence[str], advice: str) -> np.ndarray:
    """Indices of the images that are not held out. Raises BadRequest if no image of a class is among them."""
    kept = np.setdiff1d(np.arange(len(targets)), held)
    lost = np.setdiff1d(targets, targets[kept])
    if len(lost):
        few = shorten((f"{class_names[label]} has {int((targets == label).sum())}" for label in lost), 3)
        classes = "1 class has" if len(lost) == 1 else f"{len(lost)} classes have"
        raise BadRequest(f"{classes} too few training images to hold out {what} ({few}); {advice}")
    return kept


def split_test(train: Split, class_names: Sequence[str]) -> tuple[Split, Split]:
    """Returns (train, test) of a data set without test split: the same images whatever the seed of the run."""
    advice = "add images, remove such classes, or put test images into test/<class>/"
    kept, held = hold_out(train.targets, HELD_OUT, derive_seed("test split"), class_names, advice)
    return train.subset(kept), train.subset(held)


def split_train(
    train: Split, val_fraction: float, train_fraction: float, seed: int, class_names: Sequence[str]
) -> tuple[Split, Split | None]:
    """Returns (train, validation): carves out `val_fraction` first, then keeps `train_fraction` of the rest.

    Both are stratified. The validation images do not depend on `train_fraction`, whose subsets are nested. With
    val_fraction 0 there is no validation split.
    """
    val = None
    if val_fraction > 0:
        advice = "add images, remove such classes, or train on all with --val-fraction 0"
        kept, held = hold_out(train.targets, val_fraction, derive_seed("validation split", seed), class_names, advice)
        train, val = train.subset(kept), train.subset(held)
    if train_fraction < 1:
        train = train.subset(stratified_prefix(train.targets, train_fraction, derive_seed("train subset", seed)))
    return train, val


def hold_out_fold(targets: np.ndarray, fold: str, class_names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Holds out one of K stratified folds, which depend on `targets` alone. Returns indices (kept, held out).

    Args:
        fold: "I/K", the I-th of K folds, from 1.

    Raises BadRequest if no image of a class would be left.
    """
    number, count = map(int, fold.split("/"))
    order = np.random.default_rng(derive_seed("folds")).permutation(len(targets))
    by_class = order[np.argsort(targets[order], kind="stable")]  # dealt class by class, so folds differ by one image
    held = np.sort(by_class[number - 1 :: count])
    advice = "add images, or remove such classes"
    return _without(targets, held, f"fold {fold}", class_names, advice), held


def reported_split(
    splits: Mapping[str, Split],
    class_names: Sequence[str],
    notes: list[str],
    in_folders: bool = False,
    val_name: str = "val",
) -> tuple[Split, Split, str]:
    """Returns (training split, split that results are reported on, its name), and adds to `notes`.

    Results are reported on the test split, else on the validation split, else on a fixed fifth of the training images.

    Args:
        splits: those that the data set has, of train, val and test. Without train the training split is empty.
        in_folders: the splits are folders.
        val_name: the data set's own name for its validation split.
    """
    train = splits.get("train")
    if train is None:
        train = next(iter(splits.values())).subset(np.zeros(0, dtype=np.int64))
        notes.append("there are no training images: pixels are normalised by ImageNet's mean and deviation by default")
    if "test" in splits:
        return train, splits["test"], "test"
    slash = "/" if in_folders else ""
    if "val" in splits:
        missing = "test/" if in_folders else "test split"
        notes.append(f"there is no {missing}: {val_name}{slash} is what is reported on")
        return train, splits["val"], val_name
    missing = "neither test/ nor val/" if in_folders else "neither a test nor a validation split"
    notes.append(f"there is {missing}: a fixed, stratified fifth of train{slash} is held out as the test split")
    return *split_test(train, class_names), "test"
