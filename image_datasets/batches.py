"""How batches reach the device: gathered from one tensor that lives there, or streamed from image files.

Both kinds give normalised float32 images (N, C, H, W) in channels-last memory and class indices (N,). Which images are
in batch `step` of an epoch, and how they are augmented, depends on (seed, epoch, step) and the image's index alone.
An image that cannot be read, where that does not stop the run, is left out of its batch when all draws have been made.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data_transform import (
    EVAL_CROP,
    Augment,
    Buffers,
    Fit,
    Normalize,
    erase,
    image_transform,
    resize,
    send,
)
from image_datasets.bad_images import BadImage, Report
from image_datasets.decode import read_pixels
from image_datasets.padded_images import PaddedImages, augment_batch
from image_datasets.splits import Split
from utils import BadRequest, RunFailed, derive_seed, sides

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


def batch_bounds(count: int, batch_size: int, ranks: int = 1) -> list[tuple[int, int]]:
    """(start, end) of each batch; all images are covered. A last batch that has but one image for one of the processes
    that share it, for which batch normalisation is undefined, is joined to the one before.

    Args:
        batch_size: of each of the `ranks` processes.
    """
    starts = list(range(0, count, batch_size * ranks))
    if len(starts) > 1 and batch_size > 1 and count - starts[-1] < 2 * ranks:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


def share_of(bound: tuple[int, int], rank: int, ranks: int) -> tuple[int, int]:
    """The part of a batch that process `rank` has: parts are equal, or differ by one image."""
    start, end = bound
    return start + (end - start) * rank // ranks, start + (end - start) * (rank + 1) // ranks


def _seed(*parts: int | str) -> None:
    """Seeds the CPU's generator, from which every augmentation draws. torch.manual_seed would seed all accelerators
    too, for as much time as a batch of small images takes."""
    torch.default_generator.manual_seed(derive_seed(*parts))


def own(rank: int) -> tuple[int, ...]:
    """What the seed of a process's own draws has behind those of the first."""
    return (rank,) if rank else ()


def epoch_order(count: int, seed: int, epoch: int) -> torch.Tensor:
    """The order in which an epoch visits the images, int64 (count,)."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


@dataclass
class _TrainBatches:
    """What both kinds of training batches need.

    Attributes:
        img_size: side of the images that the model gets, or their height and width.
        mean, std: per channel, of pixel values in [0, 1].
        eval_crop: share of the short side that is kept of images that are streamed and not cropped at random.
        resize_mode: see `data_transform.Fit`.
        report: takes each image that cannot be read, and its batch has one image fewer; None: it stops the run.
        batch_size: of each process.
        rank, ranks: which of the processes that share each batch this is, from 0, and how many they are.
        sizes: of the batches; own_sizes: of the parts that this process has of them, and bounds: (start, end) of these
            in the order of the epoch; images that cannot be read are counted too.
    """

    split: Split
    augment: Augment
    img_size: int | Sequence[int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    batch_size: int
    seed: int
    rank: int = 0
    ranks: int = 1
    report: Report | None = None
    eval_crop: float = EVAL_CROP
    resize_mode: str = "crop"

    def __post_init__(self):
        _report_known(self.split, self.report)
        self.fit = Fit.of(self.resize_mode, self.mean)
        whole = batch_bounds(len(self.split), self.batch_size, self.ranks)
        self.sizes = [end - start for start, end in whole]
        self.bounds = [share_of(bound, self.rank, self.ranks) for bound in whole]
        self.own_sizes = [end - start for start, end in self.bounds]
        if 0 in self.own_sizes:
            raise BadRequest(f"{len(self.split)} training images cannot be shared by {self.ranks} processes")
        self.normalize = Normalize(self.mean, self.std, self.device)

    def _seed(self, epoch: int, step: int) -> None:
        """Before the augmentation of a batch: each process draws for its own part."""
        _seed(self.seed, "augment", epoch, step, *own(self.rank))

    def _finish(self, images: torch.Tensor) -> torch.Tensor:
        images = self.normalize(images)
        return erase(images, self.augment.erasing) if self.augment.erasing > 0 else images


class ResidentTrainBatches(_TrainBatches):
    """All images as one uint8 tensor on the device; every step of the augmentation is done there, on whole batches."""

    def __post_init__(self):
        super().__post_init__()
        padding = self.augment.padding if self.augment.crop == "pad" else 0
        self.images = PaddedImages(torch.from_numpy(self.split.images), padding, self.device)
        self.targets = torch.from_numpy(self.split.targets).to(self.device)
        self.bad = torch.from_numpy(self.split.bad())

    def batches(self, epoch: int) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """The images' indices in each batch of an epoch, int64 (n,) on the device, and which places are left when those
        that cannot be read are taken out of it, None: all."""
        order = epoch_order(len(self.split), self.seed, epoch)
        keep = ~torch.isin(order, self.bad)
        order = order.to(self.device)
        return [(order[a:b], None if keep[a:b].all() else keep[a:b].nonzero()[:, 0]) for a, b in self.bounds]

    def epoch(self, epoch: int, start: int = 0) -> Batches:
        """The epoch's batches from number `start` on."""
        for step, (index, places) in enumerate(self.batches(epoch)[start:], start):
            self._seed(epoch, step)
            images = augment_batch(self.images, index, self.augment, self.img_size, self.fit)
            yield _take_places(self._finish(images), self.targets[index], places)


class StreamedTrainBatches(_TrainBatches):
    """Images are decoded, cropped and resized by `workers` processes while training, the rest is done on the device."""

    def __init__(self, *args, workers: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.sampler = _EpochSampler(self.bounds, len(self.split), self.seed)
        transform = image_transform(self.augment, self.img_size, self.eval_crop, self.fit)
        self.loader = _file_loader(self, transform, True, self.sampler, workers)

    def epoch(self, epoch: int, start: int = 0) -> Batches:
        """The epoch's batches from number `start` on."""
        self.sampler.epoch, self.sampler.start = epoch, start
        for step, batch in enumerate(self.loader, start):
            images, targets, places = _to_device(batch, self)
            self._seed(epoch, step)
            yield _take_places(self._finish(images), targets, places)


@dataclass
class EvalBatches:
    """A split in its own order, nothing random. Iterating gives (images, targets).

    Of several processes each has every `ranks`-th batch, from number `rank` on: every image is in one of them.
    Where the images are not kept in memory, `workers` processes decode them, and the centre crop keeps the share
    `eval_crop` of the short side.

    Attributes:
        report, resize_mode: as of the training's batches.
        given: the indices of the images that the last iteration gave, all but those that cannot be read.
    """

    split: Split
    img_size: int | Sequence[int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    batch_size: int
    workers: int = 0
    eval_crop: float = EVAL_CROP
    seed: int = 0
    rank: int = 0
    ranks: int = 1
    report: Report | None = None
    resize_mode: str = "crop"

    def __post_init__(self):
        _report_known(self.split, self.report)
        self.fit = Fit.of(self.resize_mode, self.mean)
        self.given = torch.empty(0, dtype=torch.int64)
        self.normalize = Normalize(self.mean, self.std, self.device)
        starts = range(0, len(self.split), self.batch_size)
        bounds = [(start, min(start + self.batch_size, len(self.split))) for start in starts]
        self.bounds = bounds[self.rank :: self.ranks]
        if self.split.images is not None:
            self.images = torch.from_numpy(self.split.images).to(self.device)
            self.targets = torch.from_numpy(self.split.targets).to(self.device)
        else:
            sampler = [[(0, i) for i in range(*bound)] for bound in self.bounds]
            transform = image_transform(None, self.img_size, self.eval_crop, self.fit)
            self.loader = _file_loader(self, transform, False, sampler, self.workers)

    def targets_given(self) -> torch.Tensor:
        """The classes of the images that the last iteration gave, int64 (n,) on the CPU."""
        return torch.from_numpy(self.split.targets)[self.given]

    def __iter__(self) -> Batches:
        for images, targets in self.unprepared():
            if len(images):
                yield self.prepare(images), targets

    def unprepared(self) -> Batches:
        """The batches in uint8 (N, C, H, W): images that are kept in memory as they are stored, others cut to
        img_size. Where none of a batch can be read N is 0."""
        given = []
        for (start, end), (images, targets, places) in zip(self.bounds, self._batches(), strict=True):
            given.append(torch.arange(start, end) if places is None else start + places)
            yield _take_places(images, targets, places)
        self.given = torch.cat(given) if given else self.given

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        if self.split.images is None:
            for batch in self.loader:
                yield _to_device(batch, self)
            return
        readable = ~torch.isin(torch.arange(len(self.split)), torch.from_numpy(self.split.bad()))
        for start, end in self.bounds:
            keep = readable[start:end]
            images = self.images[start:end].permute(0, 3, 1, 2)
            yield images, self.targets[start:end], None if keep.all() else keep.nonzero()[:, 0]

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """What the model gets of a batch of `unprepared`."""
        return self.normalize(resize(images, self.img_size, self.fit))


class _EpochSampler:
    """Gives the loader each batch as a list of (epoch, image index): workers need no other state to seed themselves."""

    def __init__(self, bounds: list[tuple[int, int]], count: int, seed: int):
        self.bounds, self.count, self.seed = bounds, count, seed
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return len(self.bounds) - self.start

    def __iter__(self):
        order = epoch_order(self.count, self.seed, self.epoch).tolist()
        epoch = self.epoch
        for bound in self.bounds[self.start :]:
            yield [(epoch, i) for i in order[slice(*bound)]]


class _Damaged(str):
    """What a worker returns in place of a batch of which an image cannot be read: the reason, naming the file."""


class _Files(torch.utils.data.Dataset):
    """Args: shape: of an image after `transform`, (C, H, W); skip_bad: one that cannot be read stays black."""

    def __init__(self, split: Split, transform: Callable, random: bool, shape: tuple[int, ...], seed: int,
                 skip_bad: bool):  # fmt: skip
        self.split, self.transform, self.random, self.seed = split, transform, random, seed
        self.shape, self.skip_bad = shape, skip_bad

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int]:
        """(uint8 (C, H, W), class index) of an image in an epoch. Raises BadRequest where it cannot be read."""
        epoch, i = key
        image = None if self.split.copies is None else self.split.copies[i]
        if image is None:
            image = read_pixels(self.split.paths[i], self.shape[0], self.split.reading)
        if self.random:
            _seed(self.seed, "image", epoch, i)
        return self.transform(image), int(self.split.targets[i])

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor, dict] | _Damaged:
        """A batch, and which of its places hold no image, with the file and the reason. Every image is put into its
        place at once, so that the memory of the next one is this one's: a batch of images each in memory of its own
        takes longer to get from the system than to resize."""
        chans, height, width = self.shape
        batch = _take((len(keys), height, width, chans)).permute(0, 3, 1, 2)
        bad = {}
        for place, key in enumerate(keys):
            try:
                batch[place], _ = self[key]
            except BadRequest as error:
                if not (self.skip_bad and isinstance(error, BadImage)):
                    return _Damaged(error)
                batch[place] = 0
                bad[place] = (error.path, error.reason)
        return batch, torch.from_numpy(self.split.targets[[i for _, i in keys]]), bad


_PIXELS = Buffers(np.uint8)


def _take(shape: tuple[int, ...]) -> torch.Tensor:
    """An uninitialised uint8 tensor; in a worker in memory that it shares with the main process, as torch's own
    collation has it, for else the batch would be copied there."""
    if torch.utils.data.get_worker_info() is None:
        return _PIXELS.take(shape)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def _as_it_is(batch):
    return batch


def let_the_main_process_decide(worker: int) -> None:
    """In a loader worker: signals that are sent to the whole group of processes are the main process's to act on, which
    finishes its step with the batches that come from here. One that it has forgotten leaves after a minute."""
    for name in ("SIGINT", "SIGUSR1", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)

    def leave_later(number: int, frame) -> None:
        last_call = threading.Timer(60, os._exit, (128 + number,))
        last_call.daemon = True
        last_call.start()

    signal.signal(signal.SIGTERM, leave_later)


def _file_loader(owner, transform: Callable, random: bool, batch_sampler, workers: int) -> torch.utils.data.DataLoader:
    shape = (len(owner.mean), *sides(owner.img_size))
    return torch.utils.data.DataLoader(
        _Files(owner.split, transform, random, shape, owner.seed, owner.report is not None),
        batch_sampler=batch_sampler,
        num_workers=workers,
        collate_fn=_as_it_is,
        persistent_workers=workers > 0,
        worker_init_fn=let_the_main_process_decide,
        pin_memory=owner.device.type == "cuda",
    )


def _to_device(batch, owner) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """(images, targets, the places that hold an image, None: all) of what a worker sent. Reports the others."""
    if isinstance(batch, _Damaged):
        raise RunFailed(str(batch))
    images, targets, bad = batch
    for path, reason in bad.values():
        owner.report(path, reason)
    left = [place for place in range(len(images)) if place not in bad]
    places = torch.tensor(left, dtype=torch.int64) if bad else None
    return images.to(owner.device, non_blocking=True), targets.to(owner.device, non_blocking=True), places


def _report_known(split: Split, report: Report | None) -> None:
    for i in split.bad() if report is not None else ():
        report(split.paths[i], split.reasons[i])


def _take_places(
    images: torch.Tensor, targets: torch.Tensor, places: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a batch the images (N, C, H, W), in channels-last memory, and targets (N,) at some places (n,); None: all."""
    if places is None:
        return images, targets
    places = send(places, images.device)
    return images.permute(0, 2, 3, 1)[places].permute(0, 3, 1, 2), targets[places]
