"""Settings that depend on the data set."""

from __future__ import annotations

from typing import Any

import models
from image_datasets.dataset import Dataset
from image_datasets.layout import SMALL
from settings.groups import Settings
from settings.recipes import RECIPES
from utils import BadRequest, sides


def settle(settings: Settings, dataset: Dataset) -> Settings:
    """Returns the settings with image size, channels, normalisation, crop and flip resolved for the data set.

    Raises BadRequest if --crop-padding, --train-size or --eval-crop has no effect.
    """
    data, augmentation = settings.data, settings.augmentation
    img_size = models.image_size(data.img_size, settings.model.model, dataset.natural_side)
    values: dict[str, Any] = {"img_size": img_size, "in_chans": data.in_chans or dataset.in_chans}
    if data.normalization == "dataset" and dataset.train.images is None:
        values["normalization"] = "imagenet"  # a streamed set's own statistics would need all its pixels
    if data.train_size == img_size:
        raise BadRequest(f"--train-size {data.train_size} has no effect: it is the size of --img-size")
    if augmentation.flip is None:
        values["flip"] = dataset.flip
    large = dataset.side is None or dataset.side > SMALL
    crop = augmentation.crop or ("resized" if augmentation.rand or large else "pad")
    if augmentation.crop_padding is not None and crop != "pad":
        raise BadRequest("--crop-padding has no effect: large images get --crop resized, unless --crop pad is given")
    if augmentation.crop_padding is None and crop == "pad":
        values["crop_padding"] = (dataset.side or min(sides(data.train_size or img_size))) // 8
    of_recipe = RECIPES.get(settings.optimization.recipe or "", {}).get("eval_crop")
    keeps_size = dataset.side is not None or dataset.streamed_side == img_size
    if data.eval_crop not in (None, of_recipe) and keeps_size:
        raise BadRequest("--eval-crop has no effect: these images are evaluated whole")
    return settings.replace(**values, crop=crop)
