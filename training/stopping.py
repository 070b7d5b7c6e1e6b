"""Stops a run by a signal or a time limit. It ends after the current step, and nothing is lost.

Exit statuses: 0 finished, 1 failed, 2 bad request. 143 (SIGTERM or a time limit), 138 (SIGUSR1), 130 (SIGINT) and 129
(SIGHUP, when the terminal is closed) mean that the run is saved but not finished: `--resume` continues it.
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
SAME_REQUEST_SECONDS = 1.0  # a repeated signal within this time is no second request
MARGIN = 120.0  # seconds before the end of a SLURM job at which a run stops by itself; at most a tenth of the job


class Stop:
    """Whether a run has to stop, and why.

    Args:
        max_minutes: time limit of the run. None: only that of its SLURM job, if it runs in one.

    Attributes:
        signal: the first signal that came.
        reason: the signal's name or the limit, once a stop is requested.
        status: exit status of the script, once a stop is requested.
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
        """Whether a stop is requested, by a signal or because the time is up."""
        if self.signal is not None:
            self.reason, self.status = signal.Signals(self.signal).name, 128 + self.signal
        elif not self.status and time.monotonic() >= self.deadline:
            self.reason, self.status = self.limit, TIME_LIMIT
        return bool(self.status)

    def check(self) -> None:
        """Raises Stopped if a stop is requested. For places with nothing to save.

        Does nothing among several processes, which have to stop together after a step.
        """
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
        """Within the block the first signal is only noted. A second one, over a second later, ends the process at once.

        That harms no file, because files are only replaced as a whole. Under nohup SIGHUP stays ignored.
        """

        with noting_signals(self._note, SAME_REQUEST_SECONDS, stay_ignored=HANGUP):
            yield

    def _note(self, number: int) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        if self.at_once_now:
            self._leave()


def _slurm_seconds_left() -> float | None:
    """Seconds until the run has to stop to be saved within the time limit of its job. None outside SLURM."""
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
