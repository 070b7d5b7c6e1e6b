"""Builds the data of a run from its settings: data set, splits, batches."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import image_datasets
import models
from data_transform import EVAL_CROP, Augment, Mix, shown_share
from image_datasets import manifest, resized
from image_datasets.bad_images import BadImages
from image_datasets.batches import EvalBatches, ResidentTrainBatches, StreamedTrainBatches
from image_datasets.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset, LocatedDataset
from image_datasets.image_check import check_images
from image_datasets.image_files import stored_size
from image_datasets.padded_images import PaddedImages
from image_datasets.reading import OLDEST
from image_datasets.splits import Split, split_train
from settings.groups import Augmentation, Data
from utils import BadRequest, in_px, rank, shorten, sides, world_size

NORMALIZATIONS = ("dataset", "imagenet", "half")  # those that need no published weights
LOOKED_AT = 256  # evenly spaced training images whose shapes show whether the crop hides much


@dataclass
class RunData:
    """The splits of a run, and how to make batches of them.

    Attributes:
        val: the split that selects the checkpoint; None: the last epoch is reported.
        img_size: of the model's input in pixels, a side or (height, width).
        train_size: of the images in training; None: img_size.
        given_crop: value of --eval-crop.
        sampler: order of the training images, see `image_datasets.batch_plan.EpochOrder`.
        selected_on: description of the split that selects the checkpoint.
        carved: (share, seed) of a validation split carved from the training images.
        skip_bad: leave unreadable images out of their batches.
        workers: processes that decode images.
        unused: images in no split: the rest of --train-fraction, dropped duplicates, an unused validation split.
        root: folder of a data set of image files.
    """

    dataset: Dataset
    train: Split
    val: Split | None
    img_size: int | list[int]
    selected_on: str
    resize_mode: str = "crop"
    carved: tuple[float, int] | None = None
    train_size: int | list[int] | None = None
    given_crop: float | None = None
    sampler: str = "shuffle"
    skip_bad: bool = False
    workers: int = 0
    bad_images: BadImages = field(default_factory=BadImages)
    unused: list[Split] = field(default_factory=list)
    root: Path | None = None

    @property
    def resident(self) -> bool:
        """Whether the images are kept in memory instead of streamed from files."""
        return self.dataset.train.images is not None

    @property
    def eval_crop(self) -> float:
        """Share of the short side that the evaluation crop keeps; 1 for images that keep their size."""
        if self.resident or self.dataset.streamed_side == self.img_size:
            return 1.0
        return self.given_crop or EVAL_CROP

    def sizes(self) -> str:
        """Describes the size of the model's images and, if different, their stored size."""
        side, unknown = self.dataset.natural_side, self.train.reading.rules == OLDEST
        training = "" if self.train_size is None else f", {in_px(self.train_size)} in training"
        if side == self.img_size or (side is None and unknown):
            return in_px(self.img_size) + training
        return f"{in_px(self.img_size)}{training} (from {'several sizes' if side is None else f'{side} px'})"

    def for_checkpoint(self) -> dict[str, Any]:
        """Returns what a checkpoint needs to use its model on other images."""
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
        """Digest of each split by its name, see `manifest.digest`."""
        splits = {"train": self.train, "val": self.val, "test": self.dataset.test}
        return manifest.digests(splits, self.dataset.class_names)

    def write_list(self, file: Path) -> None:
        """Writes the list of the run's images, if they are files of known content."""
        if self.root is not None and self.train.facts is not None:
            splits = {"train": [self.train], "test": [self.dataset.test], "unused": self.unused}
            if self.val is not None and self.val is not self.dataset.test:
                splits["val"] = [self.val]
            manifest.write(file, self.root, splits, self.dataset.class_names)

    def train_batches(
        self, group: Augmentation, device: torch.device, batch_size: int, seed: int, dtype: torch.dtype = torch.float32
    ) -> ResidentTrainBatches | StreamedTrainBatches:
        """Returns augmented batches of the training split: this rank's part of each.

        Args:
            batch_size: of each rank.
            dtype: of the images.
        """
        augment = _augment(group)
        common = {**self._batch_arguments("train", device, batch_size), "seed": seed, "dtype": dtype,
                  "sampler": self.sampler, "repeats": group.repeated_aug}  # fmt: skip
        common["img_size"] = self.train_size or self.img_size
        if self.resident:
            return ResidentTrainBatches(self.train, augment, **common)
        return StreamedTrainBatches(self.train, augment, workers=self.workers, **common)

    def stored_bytes(self, group: Augmentation, device: torch.device) -> int:
        """Bytes that the images of all splits will take on the device."""
        if self.train.images is None:
            return 0
        evaluated = [] if device.type == "cpu" else [self.val, self.dataset.test]  # there already, on a CPU
        arrays = [split.images for split in evaluated if split is not None]
        size = sum(images.nbytes for images in arrays if images is not None)
        return size + PaddedImages.nbytes(self.train.images.shape, _augment(group).stored_padding)

    def eval_batches(
        self,
        name: str,
        device: torch.device,
        batch_size: int,
        split: Split | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> EvalBatches:
        """Returns batches of a split without augmentation.

        Args:
            name: "train", "val" or "test".
            split: a subset of that split, to use instead of all of it.
            dtype: of the images.
        """
        whole = {"train": self.train, "val": self.val, "test": self.dataset.test}[name]
        assert whole is not None, f"there is no {name} split"
        arguments = self._batch_arguments(name, device, batch_size)
        return EvalBatches(split or whole, workers=self.workers, dtype=dtype, **arguments)

    def _batch_arguments(self, name: str, device: torch.device, batch_size: int) -> dict[str, Any]:
        report = self.bad_images.of(name) if self.skip_bad else None
        return {"img_size": self.img_size, "mean": self.dataset.mean, "std": self.dataset.std, "device": device,
                "batch_size": batch_size, "rank": rank(), "world_size": world_size(), "report": report,
                "eval_crop": self.eval_crop, "resize_mode": self.resize_mode}  # fmt: skip


def _augment(group: Augmentation) -> Augment:
    return Augment(
        crop=group.crop,
        padding=group.crop_padding or 0,
        flip=group.flip,
        policy=group.auto_augment,
        magnitude=group.auto_augment_magnitude,
        ops=group.auto_augment_ops,
        erasing=group.random_erasing,
    )


def read_dataset(group: Data, found: LocatedDataset) -> Dataset:
    """Reads the data set as it is stored. With --check-images decodes every file first."""
    if group.check_images:
        check_images(found, group.num_workers)
    return image_datasets.load_dataset(found, workers=group.num_workers)


def make_data(
    group: Data, dataset: Dataset, found: LocatedDataset, model: str, split_seed: int, averaged: bool = False
) -> RunData:
    """Normalises and splits a data set for a run.

    Args:
        group: resolved for this data set, see `settings.settle`.
        found: location of the data set.
        model: name of the model; --normalization pretrained uses the statistics of its published weights.
        split_seed: decides the carved validation split and the images of --train-fraction.
        averaged: the run keeps averaged weights.

    Raises BadRequest if a flag has no effect on these images, or no training image is left.
    """
    dataset = dataset.with_channels(group.in_chans)
    dataset = replace(normalized(dataset, group.normalization, model), notes=list(dataset.notes))
    check_shape(group, dataset)
    unused = []
    if group.val_fold is not None:
        unused = [split for split in (dataset.val, dataset.test) if split is not None and split.paths is not None]
        dataset = dataset.with_fold_held_out(group.val_fold)
    train, val = split_train(
        dataset.train, group.val_fraction or 0.0, group.train_fraction, split_seed, dataset.class_names
    )
    unused += _rest(dataset.train, [train, val])
    train = _without_duplicates(train, val or dataset.val, dataset, group.drop_duplicates, unused)
    if group.cache_resized is not None:
        parts = [train] if val is None else [train, val]
        evaluated = round(max(sides(group.img_size)) * EVAL_CROP / (group.eval_crop or EVAL_CROP))
        largest = max(evaluated, *sides(group.train_size or 1))
        train, *rest = resized.with_copies(
            parts, found, group.cache_resized, group.cache_dir, largest, dataset.in_chans, group.num_workers
        )
        val = rest[0] if rest else None
        dataset.notes.append(f"training images are read from a resized copy ({resized.KINDS[group.cache_resized]})")
    carved = None
    if group.val_fraction and group.select_on == "validation":
        carved = (group.val_fraction, split_seed)
    val, selected_on = _selecting(group, dataset, val, split_seed)
    if averaged and val is None:
        selected_on = "last epoch, averaged weights"
    if dataset.val is not None and dataset.val is not val:
        unused.append(dataset.val)
    return RunData(
        dataset,
        train,
        val,
        group.img_size,
        selected_on,
        group.resize_mode,
        carved,
        skip_bad=group.on_bad_image == "skip",
        workers=group.num_workers,
        unused=unused,
        root=found.layout.root if dataset.train.paths is not None else None,
        train_size=group.train_size,
        given_crop=group.eval_crop,
        sampler=group.sampler,
    )


def normalized(dataset: Dataset, kind: str, model: str) -> Dataset:
    """Returns the data set with the mean and deviation of a --normalization."""
    if kind == "dataset":
        return dataset
    if kind == "half":
        return dataset.normalized((0.5,) * 3, (0.5,) * 3)
    published = models.published_statistics(model) if kind == "pretrained" else None
    return dataset.normalized(*(published or (IMAGENET_MEAN, IMAGENET_STD)))


def _selecting(group: Data, dataset: Dataset, carved: Split | None, split_seed: int) -> tuple[Split | None, str]:
    """Returns (the split that selects the checkpoint or None, its description)."""
    if group.select_on == "reported":
        return dataset.test, f"{dataset.test_name}, the split that is reported, so the result is optimistic"
    if dataset.val is not None:
        return dataset.val, "val"
    if carved is not None:
        return carved, f"{group.val_fraction:g} of train, stratified, seed {split_seed}"
    return None, "last epoch"


def _rest(whole: Split, parts: list[Split | None]) -> list[Split]:
    """Returns the image files of `whole` that are in none of its parts, as a list of at most one split."""
    if whole.paths is None:
        return []
    taken = {path for part in parts if part is not None for path in part.paths or ()}
    rest = np.array([i for i, path in enumerate(whole.paths) if path not in taken], dtype=np.int64)
    return [whole.subset(rest)] if len(rest) else []


def _without_duplicates(train: Split, val: Split | None, dataset: Dataset, drop: bool, unused: list[Split]) -> Split:
    """Notes how many training images are in other splits too, and how many images have several classes.

    With `drop`, returns the training split without the former and adds them to `unused`. Without known content
    (--data-rules 1) nothing is compared. Raises BadRequest if `drop` has no effect or leaves a class empty.
    """
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


def check_shape(group: Data, dataset: Dataset) -> None:
    """Notes if the centre crop hides much of the images. Raises BadRequest if --resize-mode has no effect."""
    square = dataset.natural_side is not None and isinstance(group.img_size, int)
    if group.resize_mode != "crop":
        if square and (dataset.side is not None or dataset.streamed_side == group.img_size):
            raise BadRequest(f"--resize-mode {group.resize_mode} has no effect: the images are squares of"
                             f" {dataset.natural_side} px, and so are those of the model")  # fmt: skip
        return
    if square or dataset.train.paths is None or dataset.train.reading.rules == OLDEST:
        return
    paths = dataset.train.paths[:: max(1, len(dataset.train.paths) // LOOKED_AT)]
    sizes = [stored_size(path, dataset.train.reading) for path in paths]
    shares = sorted(shown_share(*size, group.img_size) for size in sizes if size is not None)
    if shares and shares[len(shares) // 2] < 0.5:
        hidden = 100 * (1 - shares[len(shares) // 2])
        dataset.notes.append(f"the centre crop of evaluation hides {hidden:.0f} % of a typical image (the median of"
                             f" {len(shares):,}); --resize-mode squeeze or letterbox shows all of it")  # fmt: skip


def make_mix(group: Augmentation, num_classes: int) -> Mix:
    """Returns the CutMix and MixUp of a batch that the flags ask for."""
    off_epoch = math.inf if group.mixup_off_epoch is None else group.mixup_off_epoch
    return Mix(group.augmentation, num_classes, group.cutmix_alpha, group.mixup_alpha, group.mix_prob, off_epoch)
