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

    def with_weights(kind: str, keep_logits: bool) -> tuple[dict[str, Any], torch.Tensor]:
        model.load_state_dict(content["ema" if kind == "ema" else "model"])
        model.eval()
        return evaluate(model, batches, len(class_names), precision, keep_logits, stop)

    selected, both = content["best"]["weights"], {}
    if content["ema"] is not None:
        other = "raw" if selected == "ema" else "ema"
        both[other], _ = with_weights(other, keep_logits=False)
    means, logits = with_weights(selected, keep_logits=True)
    if content["ema"] is not None:
        both[selected] = means
    if not bool(logits.isfinite().all()):
        raise RunFailed("the selected weights give logits that are not finite")
    targets = batches.targets_given()
    return {**report(logits, targets, class_names), **both, "logits": logits.numpy(), "targets": targets.numpy()}


@torch.inference_mode()
def evaluate(
    forward: Callable[[torch.Tensor], torch.Tensor],
    batches: EvalBatches,
    num_classes: int,
    precision: str,
    keep_logits: bool = False,
    stop: Stop | None = None,
) -> tuple[dict[str, Any], torch.Tensor]:
    """Scores a model that is in eval mode: (loss, top1 and top5; logits (N, num_classes) if they are kept, else none).

    These are of the images that can be read, of all processes: `batches.given` says which.

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
        first = "" if batches.split.paths is None else f", the first is {batches.split.paths[0]}"
        raise RunFailed(f"not one of {len(batches.split):,} images can be read{first}")
    all_logits = torch.empty(0, num_classes)
    if keep_logits:
        all_logits = distributed.gather_rows(kept, batches.given, len(batches.split), num_classes)
        batches.given = distributed.union(batches.given, len(batches.split))
        all_logits = all_logits[batches.given]
    return totals.means(), all_logits


def validate(
    state: RunState,
    forward: Callable[[torch.Tensor], Any],
    batches: EvalBatches | None,
    config: TrainConfig,
    stop: Stop,
) -> dict[str, dict[str, Any]]:
    """Scores the weights, "raw", and their average, "ema", if there is one; {} without a validation split.

    Each has loss, top1, top5, and `config.select_by`, if it is none of these.

    Raises Diverged if a loss is not finite, and Stopped if a stop was requested.
    """
    averaged = state.averaged_model
    distributed.broadcast_buffers(state.model, averaged)
    if batches is None:
        return {}
    models: dict[str, tuple[nn.Module, Callable[[torch.Tensor], Any]]] = {"raw": (state.model, forward)}
    if averaged is not None:
        models["ema"] = (averaged, averaged)  # not worth a second compilation
    num_classes, select_by = state.totals.num_classes, config.select_by
    needs_logits = select_by in ("map", "f1")
    scores = {}
    for weights, (model, call) in models.items():
        model.eval()
        means, logits = evaluate(call, batches, num_classes, config.precision, keep_logits=needs_logits, stop=stop)
        if needs_logits:
            means[select_by] = metrics.mean_of_classes(select_by, logits, batches.targets_given(), num_classes)
        if not math.isfinite(means["loss"]):
            raise Diverged(
                f"the validation loss of the {weights} weights is not finite after epoch {state.epoch + 1}",
                state.batch - 1,
            )
        scores[weights] = means
    return scores


def summarize_epoch(state: RunState, config: TrainConfig, scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The row of the history for the epoch that ends.

    Args:
        scores: of the validation split, see `validate`.
    """
    mixed = "agreement_" if config.mix.mixers else ""
    state.totals.sums = distributed.all_reduce_sum(state.totals.sums)
    means = state.totals.means()
    row = {
        "epoch": state.epoch + 1,
        "lr": config.learning_rate(state.step - 1),
        "train_loss": means["loss"],
        f"train_{mixed}top1": means["top1"],
        f"train_{mixed}top5": means["top5"],
    }
    for weights, values in scores.items():
        prefix = "val_" if weights == "raw" else "val_ema_"
        row.update({prefix + name: value for name, value in values.items()})
    return row


def select_best(state: RunState, scores: dict[str, dict[str, Any]], select_by: str) -> bool:
    """Makes the finished epoch the best one if its score is the highest so far; at a tie the lower validation loss
    counts. Of raw and averaged weights the better ones are selected.

    Returns whether this is the best epoch so far, as every epoch is without a validation split.
    """
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
