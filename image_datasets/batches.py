"""Batches on the device: gathered from one tensor there, or streamed from image files.

Both kinds yield normalised images (N, C, H, W) in channels-last memory and class indices (N,). The images of a
batch and their augmentation depend only on (seed, epoch, step) and the image index. An unreadable image, if it does not
stop the run, is dropped from its batch after all draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from data_transform import EVAL_CROP, Augment, Fit, Normalize, erase, image_transform, resize, send
from image_datasets.bad_images import Report
from image_datasets.batch_plan import EpochOrder, batch_bounds, local_seed, seed_draws, share_of
from image_datasets.file_loader import EpochSampler, FileLoader
from image_datasets.padded_images import PaddedImages, augment_batch
from image_datasets.splits import Split
from utils import BadRequest, sides

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


@dataclass
class _TrainBatches:
    """What both kinds of training batches share.

    Attributes:
        img_size: side in pixels of the images that the model gets, or (height, width).
        mean, std: per channel, for pixel values in [0, 1].
        batch_size: of each process.
        rank, world_size: this process, from 0, and the number of processes that share each batch.
        report: takes each unreadable image, which is dropped from its batch; None: it stops the run.
        eval_crop: share of the short side kept of streamed images without random crop.
        resize_mode: see `data_transform.Fit`.
        dtype: of the images.
        sampler, repeats: see `batch_plan.EpochOrder`.
        order: the image of each place in an epoch.
        sizes: of the whole batches, unreadable images included.
        local_sizes: of the parts of this process.
        bounds: (start, end) of these parts in the order of the epoch.
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
    world_size: int = 1
    report: Report | None = None
    eval_crop: float = EVAL_CROP
    resize_mode: str = "crop"
    dtype: torch.dtype = torch.float32
    sampler: str = "shuffle"
    repeats: int = 1

    def __post_init__(self):
        _report_known(self.split, self.report)
        self.fit = Fit.of(self.resize_mode, self.mean)
        whole = batch_bounds(len(self.split), self.batch_size, self.world_size)
        self.order = EpochOrder(self.split.targets, whole, self.seed, self.sampler, self.repeats)
        self.sizes = [end - start for start, end in whole]
        self.bounds = [share_of(bound, self.rank, self.world_size) for bound in whole]
        self.local_sizes = [end - start for start, end in self.bounds]
        if 0 in self.local_sizes:
            raise BadRequest(f"{len(self.split)} training images cannot be shared by {self.world_size} processes")
        self.normalize = Normalize(self.mean, self.std, self.device, self.dtype)

    def _seed(self, epoch: int, step: int) -> None:
        """Call before augmenting a batch. Each process draws for its own part."""
        seed_draws(self.seed, "augment", epoch, step, *local_seed(self.rank))

    def _finish(self, images: torch.Tensor) -> torch.Tensor:
        images = self.normalize(images)
        return erase(images, self.augment.erasing) if self.augment.erasing > 0 else images


class ResidentTrainBatches(_TrainBatches):
    """Batches of images that live on the device as one uint8 tensor, where whole batches are augmented at once."""

    def __post_init__(self):
        super().__post_init__()
        stored = torch.from_numpy(self.split.images)
        self.images = PaddedImages(stored, self.augment.stored_padding, self.device)
        self.targets = torch.from_numpy(self.split.targets).to(self.device)
        self.bad = torch.from_numpy(self.split.bad())

    def batches(self, epoch: int) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Returns (image indices, int64 (n,) on the device, places of readable images or None for all) per batch."""
        order = self.order(epoch)
        keep = ~torch.isin(order, self.bad)
        order = order.to(self.device)
        return [(order[a:b], None if keep[a:b].all() else keep[a:b].nonzero()[:, 0]) for a, b in self.bounds]

    def epoch(self, epoch: int, start: int = 0) -> Batches:
        """Yields the batches of an epoch, from number `start` on."""
        for step, (index, kept) in enumerate(self.batches(epoch)[start:], start):
            self._seed(epoch, step)
            images = augment_batch(self.images, index, self.augment, self.img_size, self.fit)
            yield _keep(self._finish(images), self.targets[index], kept)


class StreamedTrainBatches(_TrainBatches):
    """Batches of image files. `workers` processes decode, crop and resize them; the device does the rest."""

    def __init__(self, *args, workers: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.sampler = EpochSampler(self.bounds, self.order)
        self.loader = FileLoader(
            self.split,
            image_transform(self.augment, self.img_size, self.eval_crop, self.fit),
            (len(self.mean), *sides(self.img_size)),
            self.sampler,
            self.device,
            workers,
            seed=self.seed,
            report=self.report,
        )

    def epoch(self, epoch: int, start: int = 0) -> Batches:
        """Yields the batches of an epoch, from number `start` on."""
        self.sampler.epoch, self.sampler.start = epoch, start
        for step, (images, targets, kept) in enumerate(self.loader, start):
            self._seed(epoch, step)
            yield _keep(self._finish(images), targets, kept)


@dataclass
class EvalBatches:
    """A split in its own order, without randomness. Iterating yields (images, targets).

    Each process gets every `world_size`-th batch, from number `rank` on, so every image is in one of them.

    Attributes:
        workers: processes that decode images that are not in memory.
        eval_crop: share of the short side that the centre crop of these keeps.
        report, resize_mode, dtype: as for training batches.
        seen: indices of the images that the last iteration yielded, all but the unreadable ones.
    """

    split: Split
    img_size: int | Sequence[int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    batch_size: int
    workers: int = 0
    eval_crop: float = EVAL_CROP
    rank: int = 0
    world_size: int = 1
    report: Report | None = None
    resize_mode: str = "crop"
    dtype: torch.dtype = torch.float32

    def __post_init__(self):
        _report_known(self.split, self.report)
        self.fit = Fit.of(self.resize_mode, self.mean)
        self.seen = torch.empty(0, dtype=torch.int64)
        self.normalize = Normalize(self.mean, self.std, self.device, self.dtype)
        starts = range(0, len(self.split), self.batch_size)
        bounds = [(start, min(start + self.batch_size, len(self.split))) for start in starts]
        self.bounds = bounds[self.rank :: self.world_size]
        if self.split.images is not None:
            self.images = torch.from_numpy(self.split.images).to(self.device)
            self.targets = torch.from_numpy(self.split.targets).to(self.device)
        else:
            self.loader = FileLoader(
                self.split,
                image_transform(None, self.img_size, self.eval_crop, self.fit),
                (len(self.mean), *sides(self.img_size)),
                [[(0, i, 0) for i in range(*bound)] for bound in self.bounds],
                self.device,
                self.workers,
                seed=None,
                report=self.report,
            )

    def seen_targets(self) -> torch.Tensor:
        """Class indices of the images that the last iteration yielded, int64 (n,) on the CPU."""
        return torch.from_numpy(self.split.targets)[self.seen]

    def __iter__(self) -> Batches:
        for images, targets in self.unprepared():
            if len(images):
                yield self.prepare(images), targets

    def unprepared(self) -> Batches:
        """Yields the batches in uint8 (N, C, H, W): images in memory as stored, others cropped to img_size.

        N is 0 if no image of a batch is readable.
        """
        seen = []
        for (start, end), (images, targets, kept) in zip(self.bounds, self._batches(), strict=True):
            seen.append(torch.arange(start, end) if kept is None else start + kept)
            yield _keep(images, targets, kept)
        self.seen = torch.cat(seen) if seen else self.seen

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        if self.split.images is None:
            yield from self.loader
            return
        readable = ~torch.isin(torch.arange(len(self.split)), torch.from_numpy(self.split.bad()))
        for start, end in self.bounds:
            keep = readable[start:end]
            images = self.images[start:end].permute(0, 3, 1, 2)
            yield images, self.targets[start:end], None if keep.all() else keep.nonzero()[:, 0]

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Turns a batch of `unprepared` into the model's input: resized and normalised."""
        return self.normalize(resize(images, self.img_size, self.fit))


def _report_known(split: Split, report: Report | None) -> None:
    for i in split.bad() if report is not None else ():
        report(split.paths[i], split.reasons[i])


def _keep(images: torch.Tensor, targets: torch.Tensor, kept: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The images (N, C, H, W), in channels-last memory, and targets (N,) at the places `kept` (n,); None keeps all."""
    if kept is None:
        return images, targets
    kept = send(kept, images.device)
    return images.permute(0, 2, 3, 1)[kept].permute(0, 3, 1, 2), targets[kept]
