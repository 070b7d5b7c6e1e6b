"""From settings to the images of a run: data set, splits, batches."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

import image_datasets
import models
from data_transform import EVAL_CROP, Augment, Mix, shown_share
from image_datasets import resized
from image_datasets.bad_images import BadImages
from image_datasets.batches import ResidentTrainBatches, StreamedTrainBatches
from image_datasets.folder import stored_size
from image_datasets.image_check import check_images
from image_datasets.reading import OLDEST
from image_datasets.registry import IMAGENET_MEAN, IMAGENET_STD, Dataset, Found
from image_datasets.splits import Split, split_train
from training import distributed, options
from utils import BadRequest, in_px, sides

LOOKED_AT = 256  # images, evenly spread over the training set, whose shape tells whether the crop hides much


@dataclass
class Data:
    """The splits of a run, with what is needed to make batches of them."""

    dataset: Dataset
    train: Split
    val: Split | None
    img_size: int | list[int]
    selected_on: str
    bad_images: BadImages

    @property
    def resident(self) -> bool:
        return self.dataset.train.images is not None

    @property
    def eval_crop(self) -> float:
        """Images that keep their size are not cropped."""
        return 1.0 if self.resident or self.dataset.streamed_side == self.img_size else EVAL_CROP

    def sizes(self) -> str:
        """That of the images that the model gets, and where they were stored in another, that."""
        side, unknown = self.dataset.natural_side, self.train.reading.rules == OLDEST
        if side == self.img_size or (side is None and unknown):
            return in_px(self.img_size)
        return f"{in_px(self.img_size)} (from {'several sizes' if side is None else f'{side} px'})"

    def for_checkpoint(self) -> dict[str, Any]:
        """What using the model on other images takes."""
        return {
            "class_names": self.dataset.class_names,
            "wnids": self.dataset.wnids,
            "mean": self.dataset.mean,
            "std": self.dataset.std,
            "img_size": self.img_size,
            "in_chans": self.dataset.in_chans,
            "eval_crop": self.eval_crop,
            "selected_on": self.selected_on,
        }


def load_data(s: SimpleNamespace, found: Found) -> Data:
    """Reads the data set and settles what was left to it: image size, channels, flip, crop."""
    if s.check_images:
        check_images(found, s.num_workers)
    dataset = image_datasets.load_dataset(found, workers=s.num_workers)
    dataset = dataset.with_channels(s.in_chans or dataset.in_chans)
    s.in_chans = dataset.in_chans
    if s.normalization == "dataset" and dataset.train.images is None:
        s.normalization = "imagenet"  # nobody has looked at all pixels of a set that is streamed
    if s.normalization == "half":
        dataset = dataset.normalized((0.5,) * 3, (0.5,) * 3)
    elif s.normalization != "dataset":
        published = models.published_statistics(s.model) if s.normalization == "pretrained" else None
        dataset = dataset.normalized(*(published or (IMAGENET_MEAN, IMAGENET_STD)))
    s.img_size = options.image_size(s.img_size, s.model, dataset.natural_side)
    _check_shape(s, dataset)
    if s.flip is None:
        s.flip = dataset.flip
    if s.crop is None:
        s.crop = "resized" if s.rand or dataset.side is None else "pad"
    if s.crop_padding is not None and s.crop != "pad":
        raise BadRequest("--crop-padding has no effect: large images get --crop resized, unless --crop pad is given")
    if s.crop == "pad" and s.crop_padding is None:
        s.crop_padding = (dataset.side or min(sides(s.img_size))) // 8
    train_split, val = split_train(dataset.train, s.val_fraction or 0.0, s.train_fraction, s.seed)
    if s.cache_resized is not None:
        carved = [train_split] if val is None else [train_split, val]
        train_split, *rest = resized.with_copies(
            carved, found, s.cache_resized, s.cache_dir, s.img_size, dataset.in_chans, s.num_workers
        )
        val = rest[0] if rest else None
        dataset.notes.append(f"training images are read from a resized copy ({resized.KINDS[s.cache_resized]})")
    if s.select_on == "reported":
        val, selected_on = dataset.test, f"{dataset.test_name}, the split that is reported, so the result is optimistic"
    elif dataset.val is not None:
        val, selected_on = dataset.val, "val"
    elif val is not None:
        selected_on = f"{s.val_fraction:g} of train, stratified, seed {s.seed}"
    else:
        selected_on = "last epoch"
    if s.ema is not None and val is None:
        selected_on = "last epoch, averaged weights"
    return Data(dataset, train_split, val, s.img_size, selected_on, BadImages())


def _check_shape(s: SimpleNamespace, dataset: Dataset) -> None:
    """Notes where the centre crop hides much. Raises BadRequest where --resize-mode has no effect."""
    square = dataset.natural_side is not None and isinstance(s.img_size, int)
    if s.resize_mode != "crop":
        if square and (dataset.side is not None or dataset.streamed_side == s.img_size):
            raise BadRequest(f"--resize-mode {s.resize_mode} has no effect: the images are squares of"
                             f" {dataset.natural_side} px, and so are those of the model")  # fmt: skip
        return
    if square or dataset.train.paths is None or dataset.train.reading.rules == OLDEST:
        return
    paths = dataset.train.paths[:: max(1, len(dataset.train.paths) // LOOKED_AT)]
    sizes = [stored_size(path, dataset.train.reading) for path in paths]
    shares = sorted(shown_share(*size, s.img_size) for size in sizes if size is not None)
    if shares and shares[len(shares) // 2] < 0.5:
        hidden = 100 * (1 - shares[len(shares) // 2])
        dataset.notes.append(f"the centre crop of evaluation hides {hidden:.0f} % of a typical image (the median of"
                             f" {len(shares):,}); --resize-mode squeeze or letterbox shows all of it")  # fmt: skip


def make_train_batches(
    s: SimpleNamespace, data: Data, device: torch.device
) -> ResidentTrainBatches | StreamedTrainBatches:
    augment = Augment(s.crop, s.crop_padding or 0, s.flip, s.rand, s.random_erasing)
    common = {**batch_arguments(s, data, device, "train"), "seed": s.seed}
    if data.resident:
        return ResidentTrainBatches(data.train, augment, **common)
    return StreamedTrainBatches(data.train, augment, workers=s.num_workers, **common)


def batch_arguments(s: SimpleNamespace, data: Data, device: torch.device, split: str) -> dict[str, Any]:
    """What batches of every split, "train", "val" or "test", are made with."""
    report = data.bad_images.of(split) if s.on_bad_image == "skip" else None
    return {"img_size": data.img_size, "mean": data.dataset.mean, "std": data.dataset.std, "device": device,
            "batch_size": s.batch_size, "rank": distributed.rank(), "ranks": distributed.ranks(), "report": report,
            "eval_crop": data.eval_crop, "resize_mode": s.resize_mode}  # fmt: skip


def make_mix(s: SimpleNamespace, data: Data) -> Mix:
    return Mix(s.augmentation, len(data.dataset.class_names), s.cutmix_alpha, s.mixup_alpha, s.mix_prob)
