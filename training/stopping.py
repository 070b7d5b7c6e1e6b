"""Leaving in time: a signal or a time limit ends a run after the step that it is in, and nothing is lost.

Exit statuses: 0 finished, 1 failed, 2 bad request; 143 (SIGTERM or a time limit), 138 (SIGUSR1), 130 (SIGINT) and 129
(SIGHUP: the terminal is closed) say that the run is saved and not finished: `--resume` continues it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import NoReturn

from utils import SIGNALS, Stopped, is_distributed, noting_signals

HANGUP = [number for number in SIGNALS if number.name == "SIGHUP"]  # Windows has none
TIME_LIMIT = 128 + signal.SIGTERM
SAME_REQUEST_SECONDS = 1.0  # in which a repeated signal is not a second one
MARGIN = 120.0  # seconds before the end of a SLURM job at which a run leaves by itself; of short jobs a tenth


class Stop:
    """Whether a run was told to leave, and why.

    Args:
        max_minutes: after which it leaves by itself; None: no limit but that of the SLURM job that it runs in.
    """

    def __init__(self, max_minutes: float | None = None):
        self.signal: int | None = None
        self.at_once_now = False
        self.reason = ""
        self.status = 0
        limits = [] if max_minutes is None else [(60 * max_minutes, f"--max-minutes {max_minutes:g}")]
        ends = _slurm_seconds_left()
        if ends is not None:
            limits.append((ends, "the time limit of the SLURM job"))
        seconds, self.limit = min(limits, default=(float("inf"), ""))
        self.deadline = time.monotonic() + seconds

    def requested(self) -> bool:
        """Whether the run has to leave now."""
        if self.signal is not None:
            self.reason, self.status = signal.Signals(self.signal).name, 128 + self.signal
        elif not self.status and time.monotonic() >= self.deadline:
            self.reason, self.status = self.limit, TIME_LIMIT
        return bool(self.status)

    def check(self) -> None:
        """Raises Stopped where the run has to leave, and there is nothing to save. Several processes leave together,
        after a step, and not here."""
        if not is_distributed() and self.requested():
            self._leave()

    def _leave(self) -> NoReturn:
        self.requested()
        raise Stopped(f"stopped by {self.reason}", self.status)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block, where there is nothing to save yet, a signal raises Stopped wherever the main thread is."""
        if self.signal is not None:
            self._leave()
        self.at_once_now = True
        try:
            yield
        finally:
            self.at_once_now = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block the first signal is only noted; a second one, more than a second later, ends the process at
        once, which harms no file: they are all replaced as a whole. Under nohup SIGHUP stays ignored."""

        with noting_signals(self._note, SAME_REQUEST_SECONDS, stay_ignored=HANGUP):
            yield

    def _note(self, number: int) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        if self.at_once_now:
            self._leave()


def _slurm_seconds_left() -> float | None:
    """Until the run has to leave so that it is saved before the job's time limit; None outside SLURM."""
    try:
        end = float(os.environ["SLURM_JOB_END_TIME"])
    except (KeyError, ValueError):
        return None
    left = end - time.time()
    try:
        whole = end - float(os.environ["SLURM_JOB_START_TIME"])
    except (KeyError, ValueError):
        whole = left
    return left - min(MARGIN, whole / 10)
