"""The training loop, straight down: batch, mix, forward, loss, backward, step, count.

Nothing in a step waits for the device. Sums are read when they are shown, at the end of an epoch at the latest.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from data_transform import Mix
from image_datasets.batch_plan import local_seed
from image_datasets.batches import EvalBatches, ResidentTrainBatches, StreamedTrainBatches
from training import distributed, metrics
from training.checkpoint import Diverged, RunState, check_weights
from training.distillation import Distillation
from training.losses import Criterion
from training.metrics import Totals
from training.optim import train_mode
from training.processes import autocast
from training.saving import Saver
from training.stopping import Stop
from training.tracking import Progress
from utils import RunFailed, Stopped, derive_seed

HELPS = "a lower --lr, a longer --warmup-epochs or --clip-grad 1 may help"  # against losses that are not finite
LEAST_SCALE = 2.0**-10  # the scaler starts at 2**16 and halves with each step that it leaves out


@dataclass(frozen=True)
class Recipe:
    """How the steps are made.

    Attributes:
        learning_rate: of optimiser step (from 0).
        precision: "fp32", "bf16" or "fp16" for the forward pass; weights stay in float32.
        accumulate: batches per optimiser step.
        clip_grad: largest global L2 norm of the gradients, None for no bound.
        distillation: the student learns a teacher's answers too.
        roll_back: where numbers are no longer finite, training goes on from the last checkpoint and leaves out the
            batches that led there.
        smallest_batch: a batch that has fewer images left, because files cannot be read, is left out. None: files that
            cannot be read stop the run.
    """

    criterion: Criterion
    mix: Mix
    learning_rate: Callable[[int], float]
    seed: int
    precision: str = "fp32"
    accumulate: int = 1
    clip_grad: float | None = None
    distillation: Distillation | None = None
    roll_back: bool = False
    smallest_batch: int | None = None

    def loss(self, heads: list[torch.Tensor], answers: torch.Tensor | None, targets: torch.Tensor) -> torch.Tensor:
        """The mean of the heads' losses, or with distillation the labels' for the first and the teacher's for the last.

        Args:
            heads: logits (N, K) of each; answers: the teacher's logits, where there is one.
        """
        if self.distillation is not None:
            return self.distillation.loss(heads, answers, targets, self.criterion)
        losses = [self.criterion(logits, targets) for logits in heads]
        return losses[0] if len(heads) == 1 else torch.stack(losses).mean()


def train_epoch(
    state: RunState,
    forward: Callable[[torch.Tensor], torch.Tensor],
    batches: ResidentTrainBatches | StreamedTrainBatches,
    recipe: Recipe,
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
    seeds = local_seed(batches.rank)
    no_sync = getattr(forward, "no_sync", contextlib.nullcontext)  # several processes average gradients once a step
    taken = 0  # images whose gradients wait for the step of the optimiser
    train_mode(state.model)
    for images, targets in batches.epoch(state.epoch, start=state.batch):
        batch = state.batch
        is_step = (batch + 1) % recipe.accumulate == 0 or batch == last
        group = batch - batch % recipe.accumulate  # the first of the batches that make up this optimiser step
        together = sum(sizes[group : group + recipe.accumulate])
        count = len(images)
        if count < min(recipe.smallest_batch or 0, batches.local_sizes[batch]):  # the others cannot be read
            count, images = 0, images.new_zeros(recipe.smallest_batch, *images.shape[1:])
        if count or distributed.many():  # black images of no weight, as all processes take part in averaging gradients
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
                scaled = loss * (max(count, 1) * batches.world_size / together)
                (scaled if scaler is None else scaler.scale(scaled)).backward()
            taken += count
        if count:
            logits = heads[0] if len(heads) == 1 else torch.stack(heads).mean(0)
            state.totals.add(loss.detach(), logits.detach(), targets, batch, scaled=scaler is not None)

        state.batch += 1
        if is_step:
            read = together if recipe.smallest_batch is None else distributed.total_of(taken)
            if read:
                _take_step(state, recipe, read / together)
            state.step += 1
            taken = 0

        progress.step(sizes[batch], state.totals, lr=recipe.learning_rate(max(0, state.step - 1)))
        if not distributed.many() and (device.type == "cpu" or progress.just_shown):  # else reading it costs a wait
            _check_finite(state)
        if is_step and saver is not None:
            saver.after_step()
    _check_finite(state)
    if not distributed.total(state.totals.sums)[0]:
        raise _nothing_counted(state, recipe, len(sizes))


def _loss(
    heads: list[torch.Tensor], images: torch.Tensor, targets: torch.Tensor, state: RunState, recipe: Recipe
) -> torch.Tensor:
    answers = None
    if recipe.distillation is not None:
        answers = recipe.distillation.teacher(images, state.epoch, state.batch)
    return recipe.loss(heads, answers, targets)


def _take_step(state: RunState, recipe: Recipe, share: float) -> None:
    """Args: share: of the step's images those that could be read; the gradients' sum becomes the mean over them."""
    model, optimizer, scaler = state.model, state.optimizer, state.scaler
    lr = recipe.learning_rate(state.step)
    for param_group in optimizer.param_groups:
        param_group["lr"] = lr * param_group["lr_scale"]
    if scaler is not None:
        scaler.unscale_(optimizer)
    if share < 1:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(share)
    if recipe.clip_grad is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad(set_to_none=True)
    if state.ema is not None:
        state.ema.update(model, state.step)


def _check_finite(state: RunState) -> None:
    step = state.totals.first_bad_step()
    if step is None and state.scaler is not None and state.scaler.get_scale() < LEAST_SCALE:
        step = state.batch - 1
    step = distributed.largest(-1 if step is None else step)
    if step >= 0:
        raise Diverged(f"the loss is not finite in epoch {state.epoch + 1}, step {step + 1}, for which {HELPS}", step)


def _nothing_counted(state: RunState, recipe: Recipe, batches: int) -> RunFailed:
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


@torch.inference_mode()
def evaluate(
    forward: Callable[[torch.Tensor], torch.Tensor],
    batches: EvalBatches,
    num_classes: int,
    precision: str,
    keep_logits: bool = False,
    stop: Stop | None = None,
) -> tuple[dict[str, float | None], torch.Tensor | None]:
    """Scores a model that is in eval mode: loss, top1 and top5, and its logits (N, num_classes) if asked for.

    These are of the images that can be read, of all processes: `batches.seen` says which.

    Raises Stopped where `stop` says so, and RunFailed where no image can be read.
    """
    device = batches.device
    totals = Totals(num_classes, device)
    kept = []
    for step, (images, targets) in enumerate(batches):
        if stop is not None:
            stop.check()
        with autocast(device, precision):
            logits = forward(images)
        logits = logits.float()
        totals.add(nn.functional.cross_entropy(logits, targets), logits, targets, step)
        if keep_logits:
            kept.append(logits)
    totals.sums = distributed.total(totals.sums)
    if not totals.sums[0]:
        raise RunFailed(f"not one of {len(batches.split):,} images can be read, the first is {batches.split.paths[0]}")
    logits = None
    if keep_logits:
        logits = distributed.rows(kept, batches.seen, len(batches.split), num_classes)
        batches.seen = distributed.union(batches.seen, len(batches.split))
        logits = logits[batches.seen]
    return totals.means(), logits


def train(
    state: RunState,
    forward: Callable[[torch.Tensor], torch.Tensor],
    train_batches: ResidentTrainBatches | StreamedTrainBatches,
    val_batches: EvalBatches | None,
    recipe: Recipe,
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
                raise saver.failure(diverged) from None
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


def _row(state: RunState, recipe: Recipe, scores: dict[str, dict]) -> dict[str, float | None]:
    """The finished epoch in the history."""
    mixed = "agreement_" if recipe.mix.mixers else ""
    state.totals.sums = distributed.total(state.totals.sums)
    means = state.totals.means()
    row = {
        "epoch": state.epoch + 1,
        "lr": recipe.learning_rate(state.step - 1),
        "train_loss": means["loss"],
        f"train_{mixed}top1": means["top1"],
        f"train_{mixed}top5": means["top5"],
    }
    for weights, values in scores.items():
        prefix = "val_" if weights == "raw" else "val_ema_"
        row.update({prefix + name: value for name, value in values.items()})
    return row


def _validate_all(
    state: RunState,
    forward: Callable[[torch.Tensor], torch.Tensor],
    batches: EvalBatches | None,
    num_classes: int,
    precision: str,
    select_by: str,
    stop: Stop,
) -> dict[str, dict[str, float | None]]:
    """What `_validate` gives for the weights, "raw", and for their average, "ema", where there is one; nothing
    without a validation split. Raises Diverged where a loss is not finite."""
    scores = {}
    distributed.share_buffers(state.model, state.ema and state.ema.model)
    for weights, model in (("raw", state.model), ("ema", state.ema and state.ema.model)):
        if model is not None and batches is not None:
            model.eval()
            # Only the raw model is compiled; the averaged one is not worth a second compilation.
            call = forward if weights == "raw" else model
            scores[weights] = _validate(call, batches, num_classes, precision, select_by, stop)
            if not math.isfinite(scores[weights]["loss"]):
                raise Diverged(
                    f"the validation loss of the {weights} weights is not finite after epoch {state.epoch + 1}",
                    state.batch - 1,
                )
    return scores


def _validate(
    forward: Callable[[torch.Tensor], torch.Tensor],
    batches: EvalBatches,
    num_classes: int,
    precision: str,
    select_by: str,
    stop: Stop,
) -> dict[str, float | None]:
    """Loss, top1, top5, and the metric that selects, where it is none of these."""
    needs_logits = select_by in ("map", "f1")
    means, logits = evaluate(forward, batches, num_classes, precision, keep_logits=needs_logits, stop=stop)
    if needs_logits:
        targets = batches.seen_targets()
        means[select_by] = metrics.mean_of_classes(select_by, logits, targets, num_classes)
    return means


def _update_best(state: RunState, scores: dict[str, dict], select_by: str) -> bool:
    """Keeps the epoch and weights with the best score, at a tie the lower validation loss; True if this is it."""
    if not scores:
        state.best = {"epoch": state.epoch, "weights": "raw" if state.ema is None else "ema"}
        return True

    def rank(weights: str) -> list[float]:
        means = scores[weights]
        return [-means["loss"]] if select_by == "loss" else [means[select_by], -means["loss"]]

    weights = max(scores, key=rank)
    if state.best and state.best["score"] >= rank(weights):
        return False
    state.best = {"epoch": state.epoch, "weights": weights, "top1": scores[weights]["top1"], "score": rank(weights)}
    return True
