"""The training loop, straight down: batch, mix, forward, loss, backward, step, count.

Nothing in a step waits for the device. Sums stay there and are read when they are shown, or at the end of an epoch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from image_datasets.batch_plan import local_seed
from image_datasets.batches import EvalBatches
from training import distributed
from training.config import TrainConfig
from training.devices import autocast
from training.evaluation import select_best, summarize_epoch, validate
from training.optim import optimizer_step, train_mode
from training.progress import Progress
from training.saving import Saver
from training.state import Diverged, RunState, check_counted, check_finite, check_weights
from utils import Stopped, derive_seed, is_distributed


def train(
    state: RunState,
    forward: Callable[[torch.Tensor], Any],
    train_batches: TrainBatches,
    val_batches: EvalBatches | None,
    config: TrainConfig,
    progress: Progress,
    saver: Saver,
) -> None:
    """Trains `state` up to `config.epochs`, or until `config.patience` epochs in a row were no better than one before.

    After each epoch it validates, adds a row to the history, and saves.

    Without validation batches every epoch counts as the best so far, so the last one is reported.

    Args:
        forward: see `train_epoch`.

    Raises RunFailed if numbers are no longer finite, and Stopped if a stop is requested.
    """
    sizes = train_batches.sizes
    while state.epoch < config.epochs and state.epochs_since_best < config.patience:
        saver.start_clock()
        progress.start_epoch(state.epoch, config.epochs, sum(sizes), done=sum(sizes[: state.batch]))
        try:
            train_epoch(state, forward, train_batches, config, progress, saver)
            saver.wait()  # before validation starts processes: they would get a copy of a thread at work
            scores = validate(state, forward, val_batches, config, saver.stop)
            check_weights(state)
        except Diverged as diverged:
            if not config.roll_back:
                raise saver.as_run_failed(diverged) from None
            saver.roll_back(diverged, len(sizes) - 1, config.accumulate, config.average_decay)
            continue
        except Stopped:
            saver.check()
            raise
        row = summarize_epoch(state, config, scores)
        state.finish_epoch(row)
        is_best = select_best(state, scores, config.select_by)
        saver.save(is_best)
        progress.end_epoch(row, is_best)
    saver.wait()
    progress.close()


def train_epoch(
    state: RunState,
    forward: Callable[[torch.Tensor], Any],
    batches: TrainBatches,
    config: TrainConfig,
    progress: Progress,
    saver: Saver | None = None,
) -> None:
    """Trains from the position of `state` to the end of its epoch. The sums are then in `state.totals`.

    Args:
        forward: the model in `state`, possibly compiled or wrapped by DDP. It returns logits (N, K), or a tuple of them
            if the model has several heads (DeiT's distillation token).
        saver: writes checkpoints within the epoch.

    Raises Diverged, naming epoch and step, if the loss is not finite, RunFailed if no image counted, and Stopped if a
    stop is requested.
    """
    scaler = state.scaler  # does nothing unless the precision is fp16
    seed_parts = local_seed(batches.rank)
    no_sync = getattr(forward, "no_sync", contextlib.nullcontext)  # DDP averages gradients once per optimiser step
    train_mode(state.model)
    for batch in micro_batches(batches, state.epoch, state.batch, config):
        if batch.count or is_distributed():  # every rank must join the all-reduce
            # Mixing and dropout depend on (seed, epoch, batch) alone, not on earlier draws.
            torch.manual_seed(derive_seed(config.seed, "step", state.epoch, batch.number, *seed_parts))
            images, targets = config.mix(batch.images, batch.targets, state.epoch)
            with contextlib.nullcontext() if batch.ends_step else no_sync():
                with autocast(batches.device, config.precision):
                    outputs = forward(images)
                loss, logits = config.objective(outputs, images, targets, state.epoch, batch.number)
                scaler.scale(loss * batch.weight).backward()
            if batch.count:
                state.totals.add(loss.detach(), logits, targets, batch.number, scaled=scaler.is_enabled())

        state.batch += 1
        if batch.ends_step:
            if batch.readable_share > 0:
                lr = config.learning_rate(state.step)
                optimizer_step(state.model, state.optimizer, scaler, lr, config.clip_grad, batch.readable_share)
            if state.average is not None:
                state.average.update(state.model, config.average_decay(state.step))
            state.step += 1

        progress.step(batches.sizes[batch.number], state.totals, lr=config.learning_rate(max(0, state.step - 1)))
        if not is_distributed() and (batches.device.type == "cpu" or progress.just_shown):
            check_finite(state)  # otherwise it would wait for the device
        if batch.ends_step and saver is not None:
            saver.after_step()
    check_finite(state)
    check_counted(state, len(batches.sizes), may_skip=config.smallest_batch is not None)


class TrainBatches(Protocol):
    """What the loop needs of training batches. `image_datasets.batches` has two kinds."""

    @property
    def device(self) -> torch.device: ...
    @property
    def sizes(self) -> list[int]: ...
    @property
    def local_sizes(self) -> list[int]: ...
    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]: ...


@dataclass(frozen=True)
class MicroBatch:
    """The images of one forward and backward pass, and their part in an optimiser step.

    Attributes:
        number: position of the batch in its epoch, from 0.
        images: (N, C, H, W).
        targets: class indices (N,).
        count: N, or 0 for a dummy batch: black images without targets, which only keep DDP's processes in step.
        weight: factor for the mean loss of the batch. With it every image of an optimiser step has the same weight,
            across batches and ranks.
        ends_step: whether the optimiser steps after this batch.
        readable_share: fraction of the step's images, over all processes, that could be read. It is computed with the
            last batch of a step, and is 1 before.
    """

    number: int
    images: torch.Tensor
    targets: torch.Tensor
    count: int
    weight: float
    ends_step: bool
    readable_share: float


def micro_batches(batches: TrainBatches, epoch: int, start: int, config: TrainConfig) -> Iterator[MicroBatch]:
    """The batches of an epoch from number `start` on, which begins an optimiser step.

    A batch with too few readable images becomes a dummy batch, see `TrainConfig.smallest_batch`.
    """
    sizes, smallest = batches.sizes, config.smallest_batch or 0
    readable = 0  # images of the current step that this process could read
    for number, (images, targets) in enumerate(batches.epoch(epoch, start), start):
        count = len(images)
        if count < min(smallest, batches.local_sizes[number]):
            count, images, targets = 0, images.new_zeros(smallest, *images.shape[1:]), targets[:0]
        readable += count

        first = number - number % config.accumulate
        step_images = sum(sizes[first : first + config.accumulate])
        weight = max(count, 1) * batches.world_size / step_images
        ends_step = (number + 1) % config.accumulate == 0 or number + 1 == len(sizes)
        readable_share = 1.0
        if ends_step and config.smallest_batch is not None:
            readable_share = distributed.all_reduce_scalar(readable) / step_images
        yield MicroBatch(number, images, targets, count, weight, ends_step, readable_share)
        if ends_step:
            readable = 0
