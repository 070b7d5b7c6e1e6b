"""Locates the data set, and fills in the settings that depend on its files."""

from __future__ import annotations

import dataclasses
from typing import Any

import image_datasets
from image_datasets import resized
from image_datasets.dataset import LocatedDataset, Wanted
from image_datasets.reading import MAX_PIXELS, NEWEST, OLDEST
from settings.groups import FLAGS, Data
from utils import BadRequest


def locate_data(data: Data, given: dict[str, Any], with_train: bool = True) -> tuple[Data, LocatedDataset]:
    """Locates the data set without reading it.

    Args:
        given: the given flags, by key.
        with_train: refuse a data set without training images.

    Returns:
        The group with its reading rules and --val-fraction filled in, and the input of `image_datasets.load_dataset`.

    Raises BadRequest if the data set is missing, or a flag has no effect on it.
    """
    rules = data.data_rules or NEWEST
    upright = rules > OLDEST if data.exif_orientation is None else data.exif_orientation
    data = dataclasses.replace(
        data, data_rules=rules, exif_orientation=upright, max_pixels=data.max_pixels or MAX_PIXELS
    )
    skip_bad = data.on_bad_image == "skip"
    try:
        wanted = Wanted.of(
            vars(data),
            download=data.download,
            skip_bad=skip_bad or data.check_images,  # --check-images lists every bad file; do not fail on the first
            with_train=with_train,
        )
        found = image_datasets.locate(wanted)
    except OSError as error:
        raise BadRequest(f"{error.filename}: cannot be read ({error.strerror})") from None
    found = dataclasses.replace(found, skip_bad=skip_bad)
    if found.has_val and "val_fraction" in given:
        name = data.data_path or data.dataset
        raise BadRequest(f"--val-fraction has no effect: {name} has its own validation split besides the test split")
    for key in ("exif_orientation", "max_pixels", "num_workers", "on_bad_image", "check_images", "cache_resized"):
        if key in given and not found.has_files:
            raise BadRequest(f"--{FLAGS[key].name} has no effect: {data.dataset} is no set of image files")
    if data.cache_resized is not None:
        resized.check(found, data.cache_dir)
    if found.has_val:
        data = dataclasses.replace(data, val_fraction=None)
    if data.val_fraction is None and not (found.has_val or data.select_on == "reported" or data.val_fold):
        data = dataclasses.replace(data, val_fraction=0.1)
    return data, found
