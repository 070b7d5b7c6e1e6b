"""Writes checkpoints: after each epoch, within an epoch when one is due, and before the run stops.

A checkpoint is copied at once and written by a thread, while training goes on: to write, flush and verify a file takes
longer than many an epoch on a GPU.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from models.weight_files import check_sums
from records import checkpoint, kept_checkpoints
from records.checkpoint import FORMAT, copy_checkpoint
from records.log import say
from records.run_directory import RunDirectory
from training import distributed
from training.state import Diverged, RunState, check_weights, restore
from training.stopping import TIME_LIMIT, Stop
from utils import RunFailed, Stopped, human, is_distributed, is_main_process, replacing

MAX_ROLLBACKS = 3


class Saver:
    """Writes last.pth, previous.pth (the one before), best.pth and epoch-N.pth of a run, and rolls the run back.

    Args:
        settings: of the run, which a checkpoint holds too.
        data: what it takes to use the model on other images: class_names, mean, std and so on; held too.
        every: "N" optimiser steps or "Ns" seconds between two checkpoints within an epoch.
        log: called with the row of each finished epoch, and its number.
        keep: rules by which checkpoints of epochs are kept, see `records.kept_checkpoints`; None: no epoch-N.pth.
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
        keep: list[str] | None = None,
    ):
        self.directory, self.state, self.settings, self.data = directory, state, settings, data
        self.stop, self.log, self.keep = stop, log, keep
        self.seconds = float(every[:-1]) if every.endswith("s") else math.inf
        self.steps = math.inf if every.endswith("s") else int(every)
        self.vote = distributed.Vote()
        self.pending: Future | None = None  # the checkpoint that is being written
        self.unlogged: tuple[dict[str, Any], int] | None = None  # the arguments of `log`, when it is written
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

        Several processes act together, one step after any of them asked for it. Raises RunFailed if the checkpoint
        before could not be written.
        """
        if self.pending is not None and self.pending.done():
            self.wait()
        if is_distributed():
            stop_requested, checkpoint_due = self.vote.outcome() or (False, False)
        else:
            stop_requested, checkpoint_due = self.stop.requested(), self.checkpoint_due()
        if stop_requested or checkpoint_due:
            self.save()
        if stop_requested:
            self.wait()
            distributed.barrier()  # torchrun ends all processes with the first that leaves
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
        self.wait()
        state = self.state
        raise Stopped(
            f"stopped by {self.stop.reason or 'another process'} after epoch {state.epoch}, step {state.step}; saved in"
            f" {self.directory.path}, --resume continues it",
            self.stop.status or TIME_LIMIT,
        )

    def save(self, is_best: bool | None = None) -> None:
        """Copies the state, and starts to write it as last.pth. The one before becomes previous.pth.

        Args:
            is_best: whether the epoch that ended is the best one, and also becomes best.pth; None within an epoch.

        Raises Diverged if a weight is not finite, and RunFailed if the checkpoint before could not be written.
        """
        state = self.state
        distributed.broadcast_buffers(state.model, state.averaged_model)
        check_weights(state)
        state.train_seconds += time.perf_counter() - self.clock
        self.wait()
        content = {"format": FORMAT, **state.state_dict(), "settings": self.settings, **self.data}
        if is_main_process():
            content = snapshot(content)
            self.unlogged = None if is_best is None else (state.history[-1], state.epoch)
            history = None if is_best is None else list(state.history)
            writer = ThreadPoolExecutor(1)
            self.pending = writer.submit(self._write, content, history, bool(is_best))
            writer.shutdown(wait=False)  # the thread ends with its work
        self._saved_now()
        self.start_clock()

    def _write(self, content: dict[str, Any], history: list[dict[str, Any]] | None, is_best: bool) -> None:
        """Writes last.pth, and after an epoch best.pth, epoch-N.pth and the history; each after the one before."""
        save_newest(self.directory, content)
        if is_best:
            # A run that is killed before this line resumes and finds the best epoch in last.pth.
            checkpoint.copy_checkpoint(self.directory.last, self.directory.best)
        if history is not None:
            kept_checkpoints.keep(self.directory, history, self.keep, self.settings["select_by"])
            self.directory.write_metrics(history)

    def wait(self) -> None:
        """Waits until the newest checkpoint is on disk, off the clock. Raises RunFailed if it could not be written."""
        pending, self.pending = self.pending, None
        if pending is None:
            return
        began = time.perf_counter()
        pending.result()
        if self.unlogged is not None:
            self.log(*self.unlogged)
        self.clock += time.perf_counter() - began

    def close(self) -> None:
        """Waits for a checkpoint that is being written while another error ends the run."""
        try:
            self.wait()
        except (RunFailed, OSError) as error:
            say(f"warning: {error}")

    def as_run_failed(self, diverged: Diverged) -> RunFailed:
        """The error of a run that ends here. It says which checkpoint is kept."""
        self.close()
        last = self.directory.last
        left = f"the last good checkpoint is kept: {last}" if last.is_file() else "no checkpoint was saved before that"
        return RunFailed(f"{diverged}; {left}")

    def roll_back(self, diverged: Diverged, last: int, accumulate: int, average_decay: Callable[[int], float]) -> None:
        """Restores the newest checkpoint and skips the batches from there to where the numbers went wrong.

        The skipped steps count as taken, so the learning rate schedule does not shift.

        Args:
            last: number of the epoch's last batch, from 0.
            accumulate: batches per optimiser step.
            average_decay: see `TrainConfig`. An epoch's weights enter the mean also where its last step is skipped.

        Raises RunFailed after MAX_ROLLBACKS rollbacks, or if the checkpoint is of an earlier epoch.
        """
        self.wait()
        distributed.barrier()  # all processes read the same file
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
        if state.average is not None and state.batch == last + 1:
            state.average.update(state.model, average_decay(state.step - 1))
        rollbacks.append(
            {"epoch": epoch + 1, "first_batch": first + 1, "last_batch": state.batch, "reason": str(diverged)}
        )
        say(f"rolled back   {diverged}")
        say(f"              batches {first + 1} to {state.batch} of epoch {epoch + 1} are left out, and training goes"
            f" on from the last checkpoint ({len(rollbacks)} of at most {MAX_ROLLBACKS} times)")  # fmt: skip
        self.save()


def snapshot(state: dict[str, Any]) -> dict[str, Any]:
    """Copies the tensors in nested dicts, lists and tuples to the memory of the CPU. Waits for the device once."""
    copied = _copied(state)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return copied


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.device.type == "cuda":
        # To pinned memory, where copies do not wait for each other.
        return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
    if isinstance(value, torch.Tensor):
        return value.to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # keeps the _metadata of a state dict
        copied.update({key: _copied(item) for key, item in value.items()})
        return copied
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


def save_newest(directory: RunDirectory, content: dict[str, Any]) -> None:
    """Writes last.pth, a checkpoint. The one before becomes previous.pth.

    The new file takes its name when it is on disk and its checksums are right, so both files are complete checkpoints
    at all times.

    Raises RunFailed, naming the file and the space that it needs, if it cannot be written. The old files are kept.
    """
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
