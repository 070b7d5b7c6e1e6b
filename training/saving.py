"""Writes checkpoints: after each epoch, within an epoch when one is due, and before the run stops."""

from __future__ import annotations

import math
import shutil
import time
import zipfile
from collections.abc import Callable
from typing import Any

import torch

from models.weight_files import check_sums
from records import checkpoint
from records.checkpoint import FORMAT, copy_checkpoint
from records.log import say
from records.run_directory import RunDirectory
from training import distributed
from training.state import Diverged, RunState, check_weights, restore
from training.stopping import TIME_LIMIT, Stop
from utils import RunFailed, Stopped, human, is_distributed, is_main_process, replacing

MAX_ROLLBACKS = 3


class Saver:
    """Writes last.pth, previous.pth (the one before) and best.pth of a run, and rolls the run back.

    Args:
        settings, data: what a checkpoint holds besides the state, see `save_newest`.
        every: "N" optimiser steps or "Ns" seconds between two checkpoints within an epoch.
        log: called with the row of each finished epoch, and its number.
    """

    def __init__(
        self,
        directory: RunDirectory,
        state: RunState,
        settings: dict[str, Any],
        data: dict[str, Any],
        every: str,
        stop: Stop,
        log: Callable[[dict[str, Any], int], None],
    ):
        self.directory, self.state, self.settings, self.data = directory, state, settings, data
        self.stop, self.log = stop, log
        self.seconds = float(every[:-1]) if every.endswith("s") else math.inf
        self.steps = math.inf if every.endswith("s") else int(every)
        self.vote = distributed.Vote()
        self._saved_now()
        self.start_clock()

    def start_clock(self) -> None:
        """Starts the clock of `train_seconds`, which `save` reads."""
        self.clock = time.perf_counter()

    def _saved_now(self) -> None:
        self.saved_step, self.saved_at = self.state.step, time.monotonic()

    def checkpoint_due(self) -> bool:
        """Whether enough steps or seconds have passed since the last checkpoint."""
        return self.state.step - self.saved_step >= self.steps or time.monotonic() - self.saved_at >= self.seconds

    def after_step(self) -> None:
        """After an optimiser step: saves if a checkpoint is due or a stop is requested. Then a stop raises Stopped.

        Several processes act together, one step after any of them asked for it.
        """
        if is_distributed():
            stop_requested, checkpoint_due = self.vote.outcome() or (False, False)
        else:
            stop_requested, checkpoint_due = self.stop.requested(), self.checkpoint_due()
        if stop_requested or checkpoint_due:
            self.save()
        if stop_requested:
            self._leave()
        if is_distributed():
            self.vote.cast(self.stop.requested(), self.checkpoint_due())

    def check(self) -> None:
        """Between steps: if a stop is requested, saves what is not saved yet and raises Stopped."""
        if self.stop.requested():
            if self.state.step != self.saved_step:
                self.save()
            self._leave()

    def _leave(self) -> None:
        state = self.state
        raise Stopped(
            f"stopped by {self.stop.reason or 'another process'} after epoch {state.epoch}, step {state.step}; saved in"
            f" {self.directory.path}, --resume continues it",
            self.stop.status or TIME_LIMIT,
        )

    def save(self) -> None:
        """Writes last.pth. The one before becomes previous.pth.

        Raises Diverged if a weight is not finite, and RunFailed if the file cannot be written, see `save_newest`.
        """
        distributed.broadcast_buffers(self.state.model, self.state.averaged_model)
        check_weights(self.state)
        self.state.train_seconds += time.perf_counter() - self.clock
        save_newest(self.directory, self.state, self.settings, self.data)
        self._saved_now()
        self.start_clock()

    def after_epoch(self, is_best: bool) -> None:
        """After an epoch: saves, writes best.pth if it is the best one, and records the history."""
        self.save()
        if not is_main_process():
            return
        if is_best:
            # A run that is killed before this line resumes and finds the best epoch in last.pth.
            checkpoint.copy_checkpoint(self.directory.last, self.directory.best)
        self.directory.write_metrics(self.state.history)
        self.log(self.state.history[-1], self.state.epoch)

    def as_run_failed(self, diverged: Diverged) -> RunFailed:
        """The error of a run that ends here. It says which checkpoint is kept."""
        last = self.directory.last
        left = f"the last good checkpoint is kept: {last}" if last.is_file() else "no checkpoint was saved before that"
        return RunFailed(f"{diverged}; {left}")

    def roll_back(self, diverged: Diverged, last: int, accumulate: int) -> None:
        """Restores the newest checkpoint and skips the batches from there to where the numbers went wrong.

        The skipped steps count as taken, so the learning rate schedule does not shift.

        Args:
            last: number of the epoch's last batch, from 0.
            accumulate: batches per optimiser step.

        Raises RunFailed after MAX_ROLLBACKS rollbacks, or if the checkpoint is of an earlier epoch.
        """
        state, rollbacks, epoch = self.state, self.state.rollbacks, self.state.epoch
        if len(rollbacks) >= MAX_ROLLBACKS:
            raise self.as_run_failed(diverged)
        restore(state, checkpoint.load_newest(self.directory), self.directory.last)
        state.rollbacks = rollbacks
        if state.epoch != epoch:  # the checkpoint from the start of this epoch is damaged
            raise self.as_run_failed(diverged)
        first = state.batch
        state.batch = min(last + 1, diverged.batch - diverged.batch % accumulate + accumulate)
        state.step += -(-(state.batch - first) // accumulate)
        rollbacks.append(
            {"epoch": epoch + 1, "first_batch": first + 1, "last_batch": state.batch, "reason": str(diverged)}
        )
        say(f"rolled back   {diverged}")
        say(f"              batches {first + 1} to {state.batch} of epoch {epoch + 1} are left out, and training goes"
            f" on from the last checkpoint ({len(rollbacks)} of at most {MAX_ROLLBACKS} times)")  # fmt: skip
        self.save()


def save_newest(directory: RunDirectory, state: RunState, settings: dict[str, Any], data: dict[str, Any]) -> None:
    """Writes last.pth, a checkpoint of `state`. The one before becomes previous.pth.

    The new file takes its name when it is on disk and its checksums are right, so both files are complete checkpoints
    at all times. All processes call this, and rank 0 writes.

    Args:
        data: what it takes to use the model on other images: class_names, mean, std and so on.

    Raises RunFailed, naming the file and the space that it needs, if it cannot be written. The old files are kept.
    """
    content = {"format": FORMAT, **state.state_dict(), "settings": settings, **data}
    if not is_main_process():
        return
    try:
        with replacing(directory.last) as temporary:
            with temporary.open("wb") as file:
                torch.save(content, file)
            check_sums(temporary)
            if directory.last.is_file():
                copy_checkpoint(directory.last, directory.previous)
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        reason = _reason(error)
        free = shutil.disk_usage(directory.path).free
        kept = "The checkpoint before it is kept: --resume continues from it"
        raise RunFailed(
            f"{directory.last}: cannot be saved ({reason}); it takes {human(_size(content))}B, {human(free)}B are free"
            f" there. {kept if directory.last.is_file() else 'No checkpoint was saved before it'}"
        ) from None


def _reason(error: BaseException) -> str:
    """The message of the system's error, if torch has raised one of its own on top of it."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.strerror):
        cause = cause.__context__
    return " ".join(str(error if cause is None else cause.strerror).split())[:200]


def _size(value: Any) -> int:
    """Bytes of the tensors in nested dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        return value.untyped_storage().nbytes()
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, (list, tuple)) else 0
