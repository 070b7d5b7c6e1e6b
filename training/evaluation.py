"""Scoring a model on a split, validation, and which epoch is the best."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from image_datasets.batches import EvalBatches
from training import distributed, metrics
from training.config import TrainConfig
from training.devices import autocast, without_tf32
from training.metrics import Totals, report
from training.state import Diverged, RunState
from training.stopping import Stop
from utils import RunFailed


@without_tf32()
def score(
    model: nn.Module,
    content: dict[str, Any],
    batches: EvalBatches,
    class_names: list[str],
    precision: str,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """The full report on a split with the weights that `content`, a checkpoint, was selected for, without TF32.

    Where the run has averaged weights, the loss and accuracies of both kinds are in "raw" and "ema".
    Also holds "logits" and "targets". `model` is left with the selected weights. Raises Stopped where `stop` says so.
    """
    selected = content["best"]["weights"]
    scores: dict[str, Any] = {}
    both = {"raw": content["model"], "ema": content["ema"]}
    for name in sorted(
        (name for name, weights in both.items() if weights is not None), key=lambda name: name == selected
    ):
        model.load_state_dict(both[name])
        model.eval()
        means, logits = evaluate(model, batches, len(class_names), precision, keep_logits=name == selected, stop=stop)
        if content["ema"] is not None:
            scores[name] = means
    if not bool(logits.isfinite().all()):
        raise RunFailed("the selected weights give logits that are not finite")
    targets = batches.seen_targets()
    return {**report(logits, targets, class_names), **scores, "logits": logits.numpy(), "targets": targets.numpy()}


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
    totals.sums = distributed.all_reduce_sum(totals.sums)
    if not totals.sums[0]:
        raise RunFailed(f"not one of {len(batches.split):,} images can be read, the first is {batches.split.paths[0]}")
    logits = None
    if keep_logits:
        logits = distributed.gather_rows(kept, batches.seen, len(batches.split), num_classes)
        batches.seen = distributed.union(batches.seen, len(batches.split))
        logits = logits[batches.seen]
    return totals.means(), logits


def _row(state: RunState, recipe: TrainConfig, scores: dict[str, dict]) -> dict[str, float | None]:
    """The finished epoch in the history."""
    mixed = "agreement_" if recipe.mix.mixers else ""
    state.totals.sums = distributed.all_reduce_sum(state.totals.sums)
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
    distributed.broadcast_buffers(state.model, state.ema and state.ema.model)
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
