"""Batches of image files: worker processes read, crop and resize them, the main process moves them to the device."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

from data_transform import Buffers
from image_datasets.bad_images import BadImage, Report
from image_datasets.batch_plan import EpochOrder, seed_draws
from image_datasets.decode import read_pixels
from image_datasets.splits import Split
from utils import BadRequest, RunFailed

Keys = list[tuple[int, int, int]]  # (epoch, image index, copies of the image before) of each image of a batch


class FileLoader:
    """Loads batches of image files onto the device.

    Iterating yields (uint8 images (n, C, H, W), class indices (n,), places of readable images or None for all).

    Args:
        transform: see `data_transform.image_transform`.
        shape: (C, H, W) of an image after `transform`.
        batches: yields the keys of each batch, anew for every pass.
        workers: processes; 0 loads in this one.
        seed: of the draws of `transform`; None if it has none.
        report: takes each unreadable image, whose place stays black; None: it stops the run.
    """

    def __init__(self, split: Split, transform: Callable, shape: tuple[int, int, int], batches: Iterable[Keys],
                 device: torch.device, workers: int, seed: int | None, report: Report | None):  # fmt: skip
        self.device, self.report = device, report
        self.dataset = _Files(split, transform, shape, seed, skip_bad=report is not None)
        self.loader = DataLoader(
            self.dataset,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=identity,
            persistent_workers=workers > 0,
            worker_init_fn=leave_signals_to_main_process,
            pin_memory=device.type == "cuda",
        )

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        for batch in self.loader:
            if isinstance(batch, _Damaged):
                raise RunFailed(str(batch))
            images, targets, bad = batch
            for path, reason in bad.values():
                self.report(path, reason)
            left = [place for place in range(len(images)) if place not in bad]
            kept = torch.tensor(left, dtype=torch.int64) if bad else None
            yield images.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True), kept


class EpochSampler:
    """Yields the keys of each batch of `epoch`, from number `start` on. Workers need nothing else to seed their draws.

    Args:
        bounds: (start, end) of each batch in the order of the epoch.
    """

    def __init__(self, bounds: list[tuple[int, int]], order: EpochOrder):
        self.bounds, self.order = bounds, order
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return len(self.bounds) - self.start

    def __iter__(self) -> Iterator[Keys]:
        epoch, order = self.epoch, self.order(self.epoch)
        copies = self.order.copies(order)
        for start, end in self.bounds[self.start :]:
            places = zip(order[start:end].tolist(), copies[start:end].tolist(), strict=True)
            yield [(epoch, i, copy) for i, copy in places]


class _Damaged(str):
    """What a worker returns instead of a batch with an unreadable image: the reason, naming the file."""


class _Files(torch.utils.data.Dataset):
    """The images of a split, one by one and in batches; the arguments are those of `FileLoader`.

    Args:
        skip_bad: leave an unreadable image black instead of raising.
    """

    def __init__(self, split: Split, transform: Callable, shape: tuple[int, int, int], seed: int | None,
                 skip_bad: bool):  # fmt: skip
        self.split, self.transform, self.shape, self.seed, self.skip_bad = split, transform, shape, seed, skip_bad

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[torch.Tensor, int]:
        """Returns (uint8 (C, H, W), class index) of an image in an epoch. Raises BadRequest if it is unreadable."""
        epoch, i, copy = key
        image = None if self.split.copies is None else self.split.copies[i]
        if image is None:
            image = read_pixels(self.split.paths[i], self.shape[0], self.split.reading)
        if self.seed is not None:
            seed_draws(self.seed, "image", epoch, i, *([copy] if copy else []))
        return self.transform(image), int(self.split.targets[i])

    def __getitems__(self, keys: Keys) -> tuple[torch.Tensor, torch.Tensor, dict] | _Damaged:
        """Returns (images, targets, {place: (file, reason)} of the unreadable ones).

        Each image is copied into its place at once, so the next one reuses its memory: to allocate every image of a
        batch takes longer than to resize it.
        """
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
        return batch, torch.from_numpy(self.split.targets[[i for _, i, _ in keys]]), bad


_PIXELS = Buffers(np.uint8)


def _take(shape: tuple[int, ...]) -> torch.Tensor:
    """Returns an uninitialised uint8 tensor; in a worker in shared memory, like torch's default collate.

    So the batch is not copied on its way to the main process.
    """
    if get_worker_info() is None:
        return _PIXELS.take(shape)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def identity(batch):
    """Collates nothing: the dataset returns whole batches."""
    return batch


def leave_signals_to_main_process(worker: int) -> None:
    """Makes a loader worker ignore signals to the process group: the main process still needs batches for its step.

    A worker that received SIGTERM and was forgotten exits after a minute. One whose main process is gone says nothing.
    """
    for name in ("SIGINT", "SIGUSR1", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)

    def say_what_matters(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not issubclass(kind, ConnectionError):  # of the thread that hands batches over
            sys.__excepthook__(kind, error, traceback)

    sys.excepthook = say_what_matters

    def leave_later(number: int, frame) -> None:
        last_call = threading.Timer(60, os._exit, (128 + number,))
        last_call.daemon = True
        last_call.start()

    signal.signal(signal.SIGTERM, leave_later)
