"""From settings to the images of a run: data set, splits, batches."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import image_datasets
import models
from data_transform import EVAL_CROP, Augment, Mix, shown_share
from image_datasets import manifest, resized
from image_datasets.bad_images import BadImages
from image_datasets.batches import ResidentTrainBatches, StreamedTrainBatches
from image_datasets.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset, LocatedDataset
from image_datasets.image_check import check_images
from image_datasets.image_files import stored_size
from image_datasets.reading import OLDEST
from image_datasets.splits import Split, split_train
from training import distributed, options
from utils import BadRequest, in_px, shorten, sides

LOOKED_AT = 256  # images, evenly spread over the training set, whose shape tells whether the crop hides much


@dataclass
class Data:
    """The splits of a run, with what is needed to make batches of them.

    Attributes:
        unused: images that are in none of the splits: the rest of --train-fraction, and what was dropped.
        root: the folder of the data set, where it is one of image files.
    """

    dataset: Dataset
    train: Split
    val: Split | None
    img_size: int | list[int]
    selected_on: str
    bad_images: BadImages
    unused: list[Split] = field(default_factory=list)
    root: Path | None = None

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
            "image_digests": self.image_digests,
        }

    @functools.cached_property
    def image_digests(self) -> dict[str, str]:
        """By split, see `manifest.digest`."""
        splits = {"train": self.train, "val": self.val, "test": self.dataset.test}
        return manifest.digests(splits, self.dataset.class_names)

    def write_list(self, file: Path) -> None:
        """The list of the run's images, for data sets of image files whose content is known."""
        if self.root is not None and self.train.facts is not None:
            splits = {"train": [self.train], "test": [self.dataset.test], "unused": self.unused}
            if self.val is not None and self.val is not self.dataset.test:
                splits["val"] = [self.val]
            manifest.write(file, self.root, splits, self.dataset.class_names)


def load_data(s: SimpleNamespace, found: LocatedDataset) -> Data:
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
    split_seed = s.seed if s.split_seed is None else s.split_seed
    train_split, val = split_train(
        dataset.train, s.val_fraction or 0.0, s.train_fraction, split_seed, dataset.class_names
    )
    unused = _rest(dataset.train, [train_split, val])
    train_split = _without_duplicates(train_split, val or dataset.val, dataset, s.drop_duplicates, unused)
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
        selected_on = f"{s.val_fraction:g} of train, stratified, seed {split_seed}"
    else:
        selected_on = "last epoch"
    if s.ema is not None and val is None:
        selected_on = "last epoch, averaged weights"
    if dataset.val is not None and dataset.val is not val:
        unused.append(dataset.val)
    root = found.layout.root if dataset.train.paths is not None else None
    return Data(dataset, train_split, val, s.img_size, selected_on, BadImages(), unused, root)


def _rest(whole: Split, parts: list[Split | None]) -> list[Split]:
    """The images of `whole`, files, that are in none of its parts."""
    if whole.paths is None:
        return []
    taken = {path for part in parts if part is not None for path in part.paths}
    rest = np.array([i for i, path in enumerate(whole.paths) if path not in taken], dtype=np.int64)
    return [whole.subset(rest)] if len(rest) else []


def _without_duplicates(train: Split, val: Split | None, dataset: Dataset, drop: bool, unused: list[Split]) -> Split:
    """Tells how many training images also stand in the other splits, and how many stand under two classes; with `drop`
    leaves the former out, and adds them to `unused`. Of files by older rules nothing is known."""
    if train.facts is None:
        if drop:
            raise BadRequest("--drop-duplicates has no effect with --data-rules 1, which look at no file's content")
        return train
    splits = {"train": train, "validation": val, dataset.test_name: dataset.test}
    splits = {name: split for name, split in splits.items() if split is not None}
    keys = {name: manifest.image_keys(split) for name, split in splits.items()}
    every = (itertools.chain(*keys.values()), itertools.chain(*(split.targets.tolist() for split in splits.values())))
    if several := manifest.under_two_labels(*every):
        dataset.notes.append(f"images that stand under more than one class: {several:,}")
    taught = keys.pop("train")
    found, counts = np.zeros(len(train), dtype=bool), []
    for name, others in keys.items():
        also = np.fromiter(map((set(others) - {None}).__contains__, taught), bool, len(taught))
        found |= also
        counts += [f"{int(also.sum()):,} in {name}"] if also.any() else []
    if not found.any():
        return train
    images = f"training images that also stand in other splits: {int(found.sum()):,} ({', '.join(counts)})"
    if not drop:
        dataset.notes.append(f"{images}; --drop-duplicates leaves them out of training")
        return train
    lost = np.setdiff1d(train.targets, train.targets[~found])
    if len(lost):
        names = shorten((dataset.class_names[label] for label in lost), 3)
        raise BadRequest(f"--drop-duplicates: no training image would be left of {names}; {images}")
    dataset.notes.append(f"{images}; left out of training")
    if train.paths is not None:
        unused.append(train.subset(np.flatnonzero(found)))
    return train.subset(np.flatnonzero(~found))


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
            "batch_size": s.batch_size, "rank": distributed.rank(), "world_size": distributed.ranks(), "report": report,
            "eval_crop": data.eval_crop, "resize_mode": s.resize_mode}  # fmt: skip


def make_mix(s: SimpleNamespace, data: Data) -> Mix:
    return Mix(s.augmentation, len(data.dataset.class_names), s.cutmix_alpha, s.mixup_alpha, s.mix_prob)
