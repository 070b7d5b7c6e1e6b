"""The state of a run is one object, which a checkpoint stores and a resumed run restores."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from records import kept_checkpoints, membership
from records.checkpoint import copy_checkpoint, holds_best, load_checkpoint, load_newest
from records.log import say
from records.run_directory import RunDirectory
from training import distributed
from training.averaging import ModelAverage
from training.metrics import Totals
from utils import BadRequest, RunFailed, is_main_process, rank, world_size

HELPS = "a lower --lr, a longer --warmup-epochs or --clip-grad 1 may help"  # if the loss is not finite
ARITHMETIC = 2  # raised when steps on GPUs or in bf16 round otherwise than before; see CHANGELOG.md
MIN_SCALE = 2.0**-10  # the scaler starts at 2**16 and halves with each step that it skips


class Diverged(RunFailed):
    """A loss or a weight is not finite.

    Args:
        batch: number of the batch, from 0, in the current epoch.
    """

    def __init__(self, message: str, batch: int):
        super().__init__(message)
        self.batch = batch


@dataclass
class RunState:
    """Everything that changes while a run trains.

    Attributes:
        totals: sums over the current epoch so far.
        average: the averaged weights, if the run has some.
        scaler: of the loss; disabled unless the precision is fp16.
        epoch: finished epochs.
        batch: finished batches of the current epoch.
        step: optimiser steps taken.
        history: one row of numbers per finished epoch.
        best: "epoch" and "weights" ("raw" or "ema") of the best epoch so far, and with a validation split its "top1"
            and "score", by which epochs are ranked. Empty before the first epoch ends.
        train_seconds: time spent in training steps and validation.
        rollbacks: one entry per rollback, with the batches that it left out.
        class_weights: of the loss, as they were when the run began; None if it has none.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    totals: Totals
    average: ModelAverage | None = None
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler(enabled=False))
    epoch: int = 0
    batch: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    train_seconds: float = 0.0
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    class_weights: list[float] | None = None

    PLAIN = ("epoch", "batch", "step", "history", "best", "train_seconds", "rollbacks", "class_weights")

    def state_dict(self) -> dict[str, Any]:
        """Everything that a checkpoint stores of the state. All processes call it: totals has a row for each."""
        return {
            "arithmetic": ARITHMETIC,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.averaged_model is None else self.averaged_model.state_dict(),
            "scaler": self.scaler.state_dict() or None,  # None if it is disabled
            "totals": distributed.all_gather(self.totals.sums.cpu()),
            **{name: copy.deepcopy(getattr(self, name)) for name in self.PLAIN},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned.

        Raises BadRequest within an epoch if the number of processes has changed.
        """
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.averaged_model is not None:
            self.averaged_model.load_state_dict(state["ema"])
        self.scaler.load_state_dict(state.get("scaler") or {})  # a disabled scaler ignores it
        rows = state["totals"].view(-1, len(self.totals.sums))
        if state["batch"] and len(rows) != world_size():
            raise BadRequest(
                f"the last checkpoint is of {len(rows)} process{'es' if len(rows) > 1 else ''}, within epoch"
                f" {state['epoch'] + 1}: only as many can go on from there (others can from the end of an epoch)"
            )
        self.totals.reset()
        if len(rows) == world_size():
            self.totals.sums.copy_(rows[rank()])
        for name in self.PLAIN:
            if name in state:  # older checkpoints lack the last ones
                setattr(self, name, state[name])

    def finish_epoch(self, row: dict[str, Any]) -> None:
        """Adds `row` to the history and moves to the start of the next epoch."""
        self.totals.reset()
        self.history.append(row)
        self.epoch += 1
        self.batch = 0

    @property
    def averaged_model(self) -> nn.Module | None:
        """The model with averaged weights, if there is one."""
        return None if self.average is None else self.average.model

    @property
    def epochs_since_best(self) -> int:
        """Finished epochs after the best one."""
        return self.epoch - self.best.get("epoch", self.epoch)


def check_finite(state: RunState) -> None:
    """Raises Diverged if a loss of the current epoch is not finite, or if the scaler skips step after step.

    Waits for the device and for all processes.
    """
    step = state.totals.first_bad_step()
    if step is None and state.scaler.get_scale() < MIN_SCALE:
        step = state.batch - 1
    step = distributed.all_reduce_max(-1 if step is None else step)
    if step >= 0:
        raise Diverged(f"the loss is not finite in epoch {state.epoch + 1}, step {step + 1}, for which {HELPS}", step)


def check_counted(state: RunState, batches: int, may_skip: bool) -> None:
    """Raises RunFailed, with the reason, if no image counted in the epoch that ends.

    Args:
        batches: number of batches in an epoch.
        may_skip: whether images that cannot be read are left out.
    """
    if distributed.all_reduce_sum(state.totals.sums)[0]:
        return
    epoch = state.epoch + 1
    ranges = [(row["first_batch"], row["last_batch"]) for row in state.rollbacks if row["epoch"] == epoch]
    left_out = len({batch for first, last in ranges for batch in range(first, last + 1)})
    if left_out == batches:
        raise RunFailed(
            f"{len(ranges)} rollback{'s' * (len(ranges) > 1)} left out all {batches} batches of epoch {epoch}, as their"
            f" losses were not finite, for which {HELPS}"
        )
    if not may_skip:  # the scaler skipped all steps
        raise Diverged(f"no loss is finite in epoch {epoch}, for which {HELPS}", state.batch - 1)
    rest = f" in the {batches - left_out} batches that rollbacks did not leave out" if left_out else ""
    raise RunFailed(f"no training image could be read in epoch {epoch}{rest}")


def check_weights(state: RunState) -> None:
    """Raises Diverged if a weight is not finite. The loss does not show it: it is computed before the step."""
    values = [value for value in state.model.state_dict().values() if value.is_floating_point() and value.numel()]
    largest = torch.stack(torch._foreach_norm(values, torch.inf))  # one kernel for many tensors; it keeps NaN
    if not bool(largest.isfinite().all()):
        raise Diverged(f"weights are not finite in epoch {state.epoch + 1}, step {state.batch}", state.batch - 1)


def restore(state: RunState, content: dict[str, Any], path: Path) -> None:
    """Restores `state` from the checkpoint `content`, which was read from `path`.

    Raises BadRequest if it does not fit the settings of the run.
    """
    try:
        state.load_state_dict(content)
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadRequest(f"{path}: does not fit the settings of this run ({reason})") from None


def resume(
    state: RunState,
    directory: RunDirectory,
    class_names: list[str],
    image_digests: dict[str, str],
    precision: str,
    keep: list[str] | None = None,
) -> None:
    """Restores `state` from the newest readable checkpoint, and makes sure that best.pth holds its best epoch.

    Args:
        keep: rules by which the checkpoint is also kept as epoch-N.pth, see `records.kept_checkpoints`.
        precision: of the training; the note that another version rounds otherwise is for bf16, fp16 and GPUs.
        class_names, image_digests: of the data set as it is now (see `manifest.digests`).

    Raises BadRequest if a checkpoint is of another run or of other images, or if the weights of the best epoch are
    lost.
    """
    content = load_newest(directory)
    membership.check_resumed(content, directory.last, class_names, image_digests)
    restore(state, content, directory.last)
    exact = precision == "fp32" and state.totals.sums.device.type == "cpu"
    if content.get("arithmetic", 1) != ARITHMETIC and not exact:
        say("note          the version that saved the checkpoint rounds otherwise on GPUs and in bf16: the run goes on,"
            " but not with the same bits (see CHANGELOG.md)")  # fmt: skip
    if not state.best or not is_main_process():
        return
    if state.batch == 0:  # a process killed before it kept the newest checkpoint of an epoch
        kept_checkpoints.keep(directory, state.history, keep, content["settings"]["select_by"])
    if holds_best(content):
        copy_checkpoint(directory.last, directory.best)
        return
    try:
        load_checkpoint(directory.best)
    except BadRequest as error:
        previous = load_checkpoint(directory.previous) if directory.previous.is_file() else None
        if previous is None or not holds_best({**previous, "best": state.best}):
            raise BadRequest(f"{error}; the weights of epoch {state.best['epoch']}, the best so far, are nowhere else:"
                             " --overwrite starts the run again") from None  # fmt: skip
        copy_checkpoint(directory.previous, directory.best)
