"""The training loop, straight down: batch, mix, forward, loss, backward, step, count.

Nothing in a step waits for the device. Sums are read when they are shown, at the end of an epoch at the latest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import nn

from image_datasets.batches import EvalBatches, ResidentTrainBatches, StreamedTrainBatches, own
from training import distributed
from training.config import TrainConfig
from training.devices import autocast
from training.evaluation import _row, _update_best, _validate_all
from training.optim import train_mode
from training.progress import Progress
from training.saving import Saver
from training.state import Diverged, RunState, check_weights
from utils import RunFailed, Stopped, derive_seed, is_distributed

HELPS = "a lower --lr, a longer --warmup-epochs or --clip-grad 1 may help"  # against losses that are not finite
MIN_SCALE = 2.0**-10  # the scaler starts at 2**16 and halves with each step that it leaves out


def train_epoch(
    state: RunState,
    forward: Callable[[torch.Tensor], torch.Tensor],
    batches: ResidentTrainBatches | StreamedTrainBatches,
    recipe: TrainConfig,
    progress: Progress,
    saver: Saver | None = None,
) -> None:
    """Trains from where `state` is to the end of its epoch, whose sums `state.totals` holds then.

    Args:
        forward: the model in `state`, possibly compiled. A model with several heads (DeiT's distillation token) gives a
            tuple of logits, and answers by their mean.
        saver: writes the checkpoints within the epoch.

    Raises Diverged, naming epoch and step, where the loss is not finite, RunFailed where no image counted, and Stopped
    where the run has to leave.
    """
    scaler = state.scaler
    device = batches.device
    sizes, last = batches.sizes, len(batches.sizes) - 1
    seeds = own(batches.rank)
    no_sync = getattr(forward, "no_sync", contextlib.nullcontext)  # several processes average gradients once a step
    taken = 0  # images whose gradients wait for the step of the optimiser
    train_mode(state.model)
    for images, targets in batches.epoch(state.epoch, start=state.batch):
        batch = state.batch
        is_step = (batch + 1) % recipe.accumulate == 0 or batch == last
        group = batch - batch % recipe.accumulate  # the first of the batches that make up this optimiser step
        together = sum(sizes[group : group + recipe.accumulate])
        count = len(images)
        if count < min(recipe.smallest_batch or 0, batches.own_sizes[batch]):  # the others cannot be read
            count, images = 0, images.new_zeros(recipe.smallest_batch, *images.shape[1:])
        if count or is_distributed():  # black images of no weight, as all processes take part in averaging gradients
            # Mixing and dropout draw from here on, whatever was drawn before.
            torch.manual_seed(derive_seed(recipe.seed, "step", state.epoch, batch, *seeds))
            if count:
                images, targets = recipe.mix(images, targets)
            with contextlib.nullcontext() if is_step else no_sync():
                with autocast(device, recipe.precision):
                    outputs = forward(images)
                heads = [logits.float() for logits in (outputs if isinstance(outputs, tuple) else (outputs,))]
                loss = _loss(heads, images, targets, state, recipe) if count else 0 * sum(map(torch.sum, heads))
                # Each image counts the same, in whichever batch, and with whichever process, it is.
                scaled = loss * (max(count, 1) * batches.ranks / together)
                scaler.scale(scaled).backward()
            taken += count
        if count:
            logits = heads[0] if len(heads) == 1 else torch.stack(heads).mean(0)
            state.totals.add(loss.detach(), logits.detach(), targets, batch, scaled=scaler.is_enabled())

        state.batch += 1
        if is_step:
            read = together if recipe.smallest_batch is None else distributed.all_reduce_scalar(taken)
            if read:
                _take_step(state, recipe, read / together)
            state.step += 1
            taken = 0

        progress.step(sizes[batch], state.totals, lr=recipe.learning_rate(max(0, state.step - 1)))
        if not is_distributed() and (device.type == "cpu" or progress.just_shown):  # else reading it costs a wait
            _check_finite(state)
        if is_step and saver is not None:
            saver.after_step()
    _check_finite(state)
    if not distributed.all_reduce_sum(state.totals.sums)[0]:
        raise _nothing_counted(state, recipe, len(sizes))


def _loss(
    heads: list[torch.Tensor], images: torch.Tensor, targets: torch.Tensor, state: RunState, recipe: TrainConfig
) -> torch.Tensor:
    answers = None
    if recipe.distillation is not None:
        answers = recipe.distillation.teacher(images, state.epoch, state.batch)
    return recipe.loss(heads, answers, targets)


def _take_step(state: RunState, recipe: TrainConfig, share: float) -> None:
    """Args: share: of the step's images those that could be read; the gradients' sum becomes the mean over them."""
    model, optimizer, scaler = state.model, state.optimizer, state.scaler
    lr = recipe.learning_rate(state.step)
    for param_group in optimizer.param_groups:
        param_group["lr"] = lr * param_group["lr_scale"]
    scaler.unscale_(optimizer)
    if share < 1:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(share)
    if recipe.clip_grad is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    if state.ema is not None:
        state.ema.update(model, state.step)


def _check_finite(state: RunState) -> None:
    step = state.totals.first_bad_step()
    if step is None and state.scaler.get_scale() < MIN_SCALE:
        step = state.batch - 1
    step = distributed.all_reduce_max(-1 if step is None else step)
    if step >= 0:
        raise Diverged(f"the loss is not finite in epoch {state.epoch + 1}, step {step + 1}, for which {HELPS}", step)


def _nothing_counted(state: RunState, recipe: TrainConfig, batches: int) -> RunFailed:
    """Why not one image counted in the epoch that has ended."""
    epoch = state.epoch + 1
    ranges = [(told["first_batch"], told["last_batch"]) for told in state.rollbacks if told["epoch"] == epoch]
    left_out = len({batch for first, last in ranges for batch in range(first, last + 1)})
    if left_out == batches:
        return RunFailed(
            f"{len(ranges)} rollback{'s' * (len(ranges) > 1)} left out all {batches} batches of epoch {epoch}, as their"
            f" losses were not finite, for which {HELPS}"
        )
    if recipe.smallest_batch is None:  # a scaler left all steps out
        return Diverged(f"no loss is finite in epoch {epoch}, for which {HELPS}", state.batch - 1)
    rest = f" in the {batches - left_out} batches that rollbacks did not leave out" if left_out else ""
    return RunFailed(f"no training image could be read in epoch {epoch}{rest}")


def train(
    state: RunState,
    forward: Callable[[torch.Tensor], torch.Tensor],
    train_batches: ResidentTrainBatches | StreamedTrainBatches,
    val_batches: EvalBatches | None,
    recipe: TrainConfig,
    epochs: int,
    num_classes: int,
    progress: Progress,
    saver: Saver,
    select_by: str = "top1",
) -> None:
    """Trains `state` up to `epochs`: after each one validates, adds a row to the history, and saves.

    Without validation batches every epoch is the best so far: the last one is reported.

    Args:
        select_by: the validation metric of the best epoch, "top1", "map", "f1" or "loss".
    """
    while state.epoch < epochs:
        saver.start_clock()
        progress.start_epoch(state.epoch, epochs, sum(train_batches.sizes), sum(train_batches.sizes[: state.batch]))
        try:
            train_epoch(state, forward, train_batches, recipe, progress, saver)
            scores = _validate_all(state, forward, val_batches, num_classes, recipe.precision, select_by, saver.stop)
            check_weights(state)
        except Diverged as diverged:
            if not recipe.roll_back:
                raise saver.as_run_failed(diverged) from None
            saver.roll_back(diverged, len(train_batches.sizes) - 1, recipe.accumulate)
            continue
        except Stopped:
            saver.check()
            raise
        row = _row(state, recipe, scores)
        state.totals.reset()
        state.history.append(row)
        state.epoch += 1
        state.batch = 0
        is_best = _update_best(state, scores, select_by)
        saver.after_epoch(is_best)
        progress.end_epoch(row, is_best)
    progress.close()
