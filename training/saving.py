"""When a run's checkpoints are written: at the end of each epoch, in between when one is due, and before it leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from training import checkpoint, distributed
from training.checkpoint import Diverged, RunState
from training.run_directory import RunDirectory
from training.stopping import TIME_LIMIT, Stop
from training.tracking import say
from utils import RunFailed, Stopped

MOST_ROLLBACKS = 3


class Saver:
    """Writes last.pth, previous.pth (the one before) and best.pth of a run.

    Args:
        settings, data: what a checkpoint holds beside the state, see `checkpoint.save_newest`.
        every: "N" optimiser steps or "Ns" seconds between two checkpoints, besides those at the end of each epoch.
        log: gets the row of each finished epoch, and its number.
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
        self.seconds = float(every[:-1]) if every.endswith("s") else None
        self.steps = None if self.seconds is not None else int(every)
        self.vote = distributed.Vote()
        self._saved_now()
        self.start_clock()

    def start_clock(self) -> None:
        """From here on time counts as the run's."""
        self.clock = time.perf_counter()

    def _saved_now(self) -> None:
        self.saved_step, self.saved_at = self.state.step, time.monotonic()

    def due(self) -> bool:
        if self.steps is not None:
            return self.state.step - self.saved_step >= self.steps
        return time.monotonic() - self.saved_at >= self.seconds

    def after_step(self) -> None:
        """Called after each optimiser step. Saves where it is time for it, or where the run has to leave: then it
        raises Stopped."""
        told, due = (self.vote.outcome() or (False, False)) if distributed.many() else (self.stop.told(), self.due())
        if told or due:
            self.save()
        if told:
            self._leave()
        if distributed.many():
            self.vote.cast(self.stop.told(), self.due())

    def check(self) -> None:
        """Called between steps, where nothing of the model has changed since the last one: saves and raises Stopped
        where the run has to leave."""
        if self.stop.told():
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
        """Replaces last.pth, which becomes previous.pth. Raises RunFailed, with what the disk lacks, where it cannot;
        what was there is kept then."""
        distributed.share_buffers(self.state.model, self.state.ema and self.state.ema.model)
        checkpoint.check_weights(self.state)
        self.state.train_seconds += time.perf_counter() - self.clock
        checkpoint.save_newest(self.directory, self.state, self.settings, self.data)
        self._saved_now()
        self.start_clock()

    def after_epoch(self, is_best: bool) -> None:
        self.save()
        if not distributed.is_first():
            return
        if is_best:
            # Killed before this, the run finds on resuming that last.pth holds the best epoch.
            checkpoint.copy_checkpoint(self.directory.last, self.directory.best)
        self.directory.write_metrics(self.state.history)
        self.log(self.state.history[-1], self.state.epoch)

    def failure(self, diverged: Diverged) -> RunFailed:
        """What a run that ends here says, with what is left of it."""
        last = self.directory.last
        left = f"the last good checkpoint is kept: {last}" if last.is_file() else "no checkpoint was saved before that"
        return RunFailed(f"{diverged}; {left}")

    def roll_back(self, diverged: Diverged, last: int, accumulate: int) -> None:
        """Takes the state back to the newest checkpoint, and from there over the batches up to that where the numbers
        went wrong, as though they had been trained on: the schedule does not wait for them.

        Args:
            last: batch of the epoch, from 0.
            accumulate: batches of an optimiser step.

        Raises RunFailed where the run has been taken back often enough.
        """
        state, rollbacks, epoch = self.state, self.state.rollbacks, self.state.epoch
        if len(rollbacks) >= MOST_ROLLBACKS:
            raise self.failure(diverged)
        checkpoint.restore(state, checkpoint.load_newest(self.directory), self.directory.last)
        state.rollbacks = rollbacks
        if state.epoch != epoch:  # the checkpoint of this epoch's start is damaged
            raise self.failure(diverged)
        first = state.batch
        state.batch = min(last + 1, diverged.batch - diverged.batch % accumulate + accumulate)
        state.step += -(-(state.batch - first) // accumulate)
        rollbacks.append(
            {"epoch": epoch + 1, "first_batch": first + 1, "last_batch": state.batch, "reason": str(diverged)}
        )
        say(f"rolled back   {diverged}")
        say(f"              batches {first + 1} to {state.batch} of epoch {epoch + 1} are left out, and training goes"
            f" on from the last checkpoint ({len(rollbacks)} of at most {MOST_ROLLBACKS} times)")  # fmt: skip
        self.save()
