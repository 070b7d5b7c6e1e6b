"""Data sets whose images come as arrays and stay in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from image_datasets.class_names import name_numbers
from image_datasets.dataset import Dataset, LocatedDataset, channel_statistics, statistics_for
from image_datasets.facts import array_facts
from image_datasets.splits import Split, reported_split
from utils import BadRequest, shorten


class Arrays(NamedTuple):
    """The images of a data set.

    Attributes:
        parts: images, uint8 (N, H, H, C) with 1 or 3 channels, and class indices (N,), by split: train, val, test.
        flip: whether a mirror image still shows the same class.
        notes: what a user should know about how they were read, a sentence each.
    """

    class_names: list[str]
    parts: dict[str, tuple[np.ndarray, np.ndarray]]
    flip: bool = True
    notes: tuple[str, ...] = ()
    wnids: list[str] | None = None


def load(located: LocatedDataset, arrays: Arrays) -> Dataset:
    """The data set of these arrays. Splits that are missing are made as for folders."""
    splits = {
        part: Split(labels.astype(np.int64), np.ascontiguousarray(images), facts=array_facts(images))
        for part, (images, labels) in arrays.parts.items()
    }
    for part, split in splits.items():
        if not len(split):
            raise BadRequest(f"{located.name}: the {part} split has no images")
    notes = list(arrays.notes)
    train, test, test_name = reported_split(splits, arrays.class_names, notes)
    chans = test.images.shape[3]
    mean, std = channel_statistics(train.images) if len(train) else statistics_for(chans)
    return Dataset(
        name=located.name,
        class_names=arrays.class_names,
        mean=mean,
        std=std,
        side=test.images.shape[1],
        train=train,
        val=splits["val"] if located.has_val else None,
        test=test,
        test_name=test_name,
        flip=arrays.flip,
        notes=notes,
        wnids=arrays.wnids,
    )


def checked_images(source: str, images: np.ndarray) -> np.ndarray:
    """The images as (N, H, H, C). Raises BadRequest, beginning with `source`, for any other array."""
    if images.dtype != np.uint8:
        raise BadRequest(f"{source}: holds {images.dtype}, and nothing says which value is black and which is white;"
                         " save them as uint8, 0 to 255")  # fmt: skip
    shape = images.shape
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise BadRequest(f"{source}: has the shape {shape}, not (N, H, W) for grey or (N, H, W, 3) for colour images")
    if images.shape[1] != images.shape[2]:
        raise BadRequest(f"{source}: the images are {shape[1]} x {shape[2]} px; images in memory must be squares")
    return images


def used_classes(
    parts: Mapping[str, tuple[Any, Iterable[int]]], source: str, names: Sequence[str] | None
) -> tuple[list[str], list[int], list[str]]:
    """Returns (names of the classes, their labels in `parts` in ascending order, notes), see `name_numbers`.

    Args:
        parts: images and labels of each split.
        names: of the labels 0, 1, ...; None: the numbers are the names.

    Raises BadRequest, beginning with `source`, for fewer than two classes and for images of unknown ones.
    """
    labels = {part: {int(label) for label in found} for part, (_, found) in parts.items()}
    every = set().union(*labels.values())
    used = labels.get("train", every)
    if min(every, default=0) < 0:
        raise BadRequest(f"{source}: has the label {min(every)}; classes are numbered from 0")
    for part, found in labels.items():
        if unknown := sorted(found - used):
            raise BadRequest(f"{source}: its {part} split has classes without training images: {shorten(unknown)}")
    if names is not None and max(every, default=0) >= len(names):
        raise BadRequest(f"{source}: has the label {max(every)}, but names of {len(names)} classes, numbered from 0")
    named, notes = name_numbers(used, names, with_train="train" in labels)
    if len(named) < 2:
        raise BadRequest(f"{source}: has images of one class only; at least two are needed")
    return list(named.values()), list(named), notes
