"""How batches reach the device: gathered from one tensor that lives there, or streamed from image files.

Both kinds give normalised float32 images (N, C, H, W) in channels-last memory and class indices (N,). Which images are
in batch `step` of an epoch, and how they are augmented, depends on (seed, epoch, step) and the image's index alone.
An image that cannot be read, where that does not stop the run, is left out of its batch when all draws have been made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from data_transform import EVAL_CROP, Augment, Fit, Normalize, erase, image_transform, resize, send
from image_datasets.bad_images import Report
from image_datasets.batch_plan import batch_bounds, epoch_order, local_seed, seed_draws, share_of
from image_datasets.file_loader import EpochSampler, FileLoader
from image_datasets.padded_images import PaddedImages, augment_batch
from image_datasets.splits import Split
from utils import BadRequest, sides

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


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
        rank, world_size: which of the processes that share each batch this is, from 0, and how many they are.
        sizes: of the batches; local_sizes: of the parts that this process has of them, and bounds: (start, end) of
            these in the order of the epoch; images that cannot be read are counted too.
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

    def __post_init__(self):
        _report_known(self.split, self.report)
        self.fit = Fit.of(self.resize_mode, self.mean)
        whole = batch_bounds(len(self.split), self.batch_size, self.world_size)
        self.sizes = [end - start for start, end in whole]
        self.bounds = [share_of(bound, self.rank, self.world_size) for bound in whole]
        self.local_sizes = [end - start for start, end in self.bounds]
        if 0 in self.local_sizes:
            raise BadRequest(f"{len(self.split)} training images cannot be shared by {self.world_size} processes")
        self.normalize = Normalize(self.mean, self.std, self.device)

    def _seed(self, epoch: int, step: int) -> None:
        """Before the augmentation of a batch: each process draws for its own part."""
        seed_draws(self.seed, "augment", epoch, step, *local_seed(self.rank))

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
        """The images' indices in each batch of an epoch, int64 (n,) on the device, and which places of it are
        kept when those that cannot be read are taken out, None: all."""
        order = epoch_order(len(self.split), self.seed, epoch)
        keep = ~torch.isin(order, self.bad)
        order = order.to(self.device)
        return [(order[a:b], None if keep[a:b].all() else keep[a:b].nonzero()[:, 0]) for a, b in self.bounds]

    def epoch(self, epoch: int, start: int = 0) -> Batches:
        """The epoch's batches from number `start` on."""
        for step, (index, kept) in enumerate(self.batches(epoch)[start:], start):
            self._seed(epoch, step)
            images = augment_batch(self.images, index, self.augment, self.img_size, self.fit)
            yield _keep(self._finish(images), self.targets[index], kept)


class StreamedTrainBatches(_TrainBatches):
    """Images are decoded, cropped and resized by `workers` processes while training, the rest is done on the device."""

    def __init__(self, *args, workers: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.sampler = EpochSampler(self.bounds, len(self.split), self.seed)
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
        """The epoch's batches from number `start` on."""
        self.sampler.epoch, self.sampler.start = epoch, start
        for step, (images, targets, kept) in enumerate(self.loader, start):
            self._seed(epoch, step)
            yield _keep(self._finish(images), targets, kept)


@dataclass
class EvalBatches:
    """A split in its own order, nothing random. Iterating gives (images, targets).

    Of several processes each has every `world_size`-th batch, from number `rank` on: every image is in one of them.
    Where the images are not kept in memory, `workers` processes decode them, and the centre crop keeps the share
    `eval_crop` of the short side.

    Attributes:
        report, resize_mode: as of the training's batches.
        seen: the indices of the images that the last iteration gave, all but those that cannot be read.
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

    def __post_init__(self):
        _report_known(self.split, self.report)
        self.fit = Fit.of(self.resize_mode, self.mean)
        self.seen = torch.empty(0, dtype=torch.int64)
        self.normalize = Normalize(self.mean, self.std, self.device)
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
                [[(0, i) for i in range(*bound)] for bound in self.bounds],
                self.device,
                self.workers,
                seed=None,
                report=self.report,
            )

    def seen_targets(self) -> torch.Tensor:
        """The classes of the images that the last iteration gave, int64 (n,) on the CPU."""
        return torch.from_numpy(self.split.targets)[self.seen]

    def __iter__(self) -> Batches:
        for images, targets in self.unprepared():
            if len(images):
                yield self.prepare(images), targets

    def unprepared(self) -> Batches:
        """The batches in uint8 (N, C, H, W): images that are kept in memory as they are stored, others cut to
        img_size. Where none of a batch can be read N is 0."""
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
        """What the model gets of a batch of `unprepared`."""
        return self.normalize(resize(images, self.img_size, self.fit))


def _report_known(split: Split, report: Report | None) -> None:
    for i in split.bad() if report is not None else ():
        report(split.paths[i], split.reasons[i])


def _keep(images: torch.Tensor, targets: torch.Tensor, kept: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The images (N, C, H, W), in channels-last memory, and targets (N,) at the places `kept` (n,); None: all."""
    if kept is None:
        return images, targets
    kept = send(kept, images.device)
    return images.permute(0, 2, 3, 1)[kept].permute(0, 3, 1, 2), targets[kept]
