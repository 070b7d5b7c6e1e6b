"""Scores a model on a split, validates each epoch, and selects the best one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from image_datasets.batches import EvalBatches
from records.checkpoint import ranking, selected_kind
from training import distributed, metrics
from training.config import TrainConfig
from training.devices import autocast, without_tf32
from training.metrics import Totals, report
from training.state import Diverged, RunState
from training.stopping import Stop
from training.tta import augmented
from utils import RunFailed

MAX_CLASSES = 20  # whose recalls are columns of metrics.csv


@without_tf32()
def score(
    model: nn.Module,
    content: dict[str, Any],
    batches: EvalBatches,
    class_names: list[str],
    precision: str,
    stop: Stop | None = None,
    tta: str = "none",
) -> dict[str, Any]:
    """Returns the full report (`metrics.report`) on a split for the selected weights of a checkpoint, without TF32.

    It also holds "logits" (N, K) and "targets" (N,), and for a checkpoint with raw and averaged weights loss, top1 and
    top5 of both kinds in "raw" and "ema". With test-time augmentation "tta" holds its kind, loss, top1 and top5; all
    else is without it. `model` keeps the selected weights.

    Args:
        content: the checkpoint.
        tta: kind of test-time augmentation, see `training.tta`, or "none".

    Raises RunFailed if logits are not finite, and Stopped if a stop is requested.
    """

    def with_weights(kind: str, keep_logits: bool) -> tuple[dict[str, Any], torch.Tensor]:
        model.load_state_dict(content["ema" if kind == "ema" else "model"])
        model.eval()
        return evaluate(model, batches, len(class_names), precision, keep_logits, stop)

    selected, more = selected_kind(content), {}
    has_both = content["model"] is not None and content["ema"] is not None
    if has_both:
        other = "raw" if selected == "ema" else "ema"
        more[other], _ = with_weights(other, keep_logits=False)
    means, logits = with_weights(selected, keep_logits=True)
    if has_both:
        more[selected] = means
    if not bool(logits.isfinite().all()):
        raise RunFailed("the selected weights give logits that are not finite")
    targets = batches.seen_targets()
    if tta != "none":
        means, _ = evaluate(augmented(model, tta), batches, len(class_names), precision, stop=stop)
        if not math.isfinite(means["loss"]):
            raise RunFailed(f"the selected weights give logits that are not finite with --tta {tta}")
        more["tta"] = {"kind": tta, **means}
    return {**report(logits, targets, class_names), **more, "logits": logits.numpy(), "targets": targets.numpy()}


@torch.inference_mode()
def evaluate(
    forward: Callable[[torch.Tensor], torch.Tensor],
    batches: EvalBatches,
    num_classes: int,
    precision: str,
    keep_logits: bool = False,
    stop: Stop | None = None,
) -> tuple[dict[str, Any], torch.Tensor]:
    """Returns loss, top1 and top5 of a model in eval mode, and its logits (N, num_classes) on the CPU.

    Both are over all processes and over the images that could be read, whose indices are then in `batches.seen`.

    Args:
        forward: the model.
        keep_logits: without it no logits are returned, N is 0.

    Raises Stopped if a stop is requested, and RunFailed if no image can be read.
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
        all_logits = distributed.gather_rows(kept, batches.seen, len(batches.split), num_classes)
        batches.seen = distributed.union(batches.seen, len(batches.split))
        all_logits = all_logits[batches.seen]
    return totals.means(), all_logits


def validate(
    state: RunState,
    forward: Callable[[torch.Tensor], Any],
    batches: EvalBatches | None,
    config: TrainConfig,
    stop: Stop,
) -> dict[str, dict[str, Any]]:
    """Scores the weights ("raw"), and their moving average if there is one ("ema"). {} without a validation split.

    Each score holds loss, top1, top5, and the metric `config.select_by`. With `config.class_names` it also holds
    "recall", the mean of the classes' recalls, "lowest_recall", and for up to MAX_CLASSES classes "recall of NAME".

    Raises Diverged if a loss is not finite, and Stopped if a stop is requested.
    """
    averaged = state.averaged_model
    distributed.broadcast_buffers(state.model, averaged)
    if batches is None:
        return {}
    models: dict[str, tuple[nn.Module, Callable[[torch.Tensor], Any]]] = {"raw": (state.model, forward)}
    if averaged is not None:
        models["ema"] = (averaged, averaged)  # not compiled: it is not worth the time
    num_classes, select_by = state.totals.num_classes, config.select_by
    needs_logits = select_by in ("map", "f1") or config.class_names is not None
    scores = {}
    for weights, (model, call) in models.items():
        model.eval()
        means, logits = evaluate(call, batches, num_classes, config.precision, keep_logits=needs_logits, stop=stop)
        if select_by in ("map", "f1"):
            means[select_by] = metrics.mean_of_classes(select_by, logits, batches.seen_targets(), num_classes)
        if config.class_names is not None:
            means |= _recalls(logits, batches.seen_targets(), config.class_names)
        if not math.isfinite(means["loss"]):
            raise Diverged(
                f"the validation loss of the {weights} weights is not finite after epoch {state.epoch + 1}",
                state.batch - 1,
            )
        scores[weights] = means
    return scores


def _recalls(logits: torch.Tensor, targets: torch.Tensor, class_names: list[str]) -> dict[str, float]:
    """The mean of the classes' recalls, the lowest, and up to MAX_CLASSES of them by name."""
    recalls = metrics.of_classes("recall", logits, targets, len(class_names))
    present = torch.bincount(targets, minlength=len(class_names)) > 0
    found = {"recall": recalls[present].double().mean().item(), "lowest_recall": recalls[present].min().item()}
    if len(class_names) <= MAX_CLASSES:
        found |= {f"recall of {class_names[i]}": recalls[i].item() for i in present.nonzero()[:, 0].tolist()}
    return found


def summarize_epoch(state: RunState, config: TrainConfig, scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the row of the history for the epoch that ends.

    Args:
        scores: validation scores, see `validate`.
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
    """Selects the epoch that has just finished, and its better weights, if their score is the highest so far.

    At a tie the lower validation loss wins. Without a validation split every epoch is selected.

    Returns whether the epoch was selected.
    """
    if not scores:
        state.best = {"epoch": state.epoch, "weights": "raw" if state.average is None else "ema"}
        return True

    ranks = {weights: ranking(means, select_by) for weights, means in scores.items()}
    weights = max(ranks, key=ranks.__getitem__)
    if state.best and state.best["score"] >= ranks[weights]:
        return False
    state.best = {"epoch": state.epoch, "weights": weights, "top1": scores[weights]["top1"], "score": ranks[weights]}
    return True
