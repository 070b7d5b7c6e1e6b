"""Trackers show a run while it works, beside its run directory. None of them can stop the run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from records.log import say


class Tracker(Protocol):
    """Follows a run from its first epoch until `finish`, or `stop` if it ends early."""

    def log(self, values: dict[str, Any], step: int) -> None:
        """Logs the numbers of an epoch, counted from 1."""

    def finish(self, summary: dict[str, Any], pictures: dict[str, Path]) -> None:
        """Logs the numbers of the summary and those pictures that exist, and ends."""

    def stop(self, failed: bool, preempted: bool = False) -> None:
        """Ends without results.

        Args:
            preempted: a signal or a time limit stopped the run, and it will be resumed.
        """


class Trackers:
    """Several trackers as one."""

    def __init__(self, *trackers: Tracker):
        self.trackers = trackers

    def log(self, values: dict[str, Any], step: int) -> None:
        """See `Tracker`."""
        for tracker in self.trackers:
            tracker.log(values, step)

    def finish(self, summary: dict[str, Any], pictures: dict[str, Path]) -> None:
        """See `Tracker`."""
        for tracker in self.trackers:
            tracker.finish(summary, pictures)

    def stop(self, failed: bool, preempted: bool = False) -> None:
        """See `Tracker`."""
        for tracker in self.trackers:
            tracker.stop(failed, preempted)


class Fallible:
    """Base of trackers whose service may fail: the first failure is printed, and from then on they do nothing.

    Attributes:
        name: of the service, in printed lines.
        run: the service's handle of the run; None where it is not wanted, or given up.
    """

    name: str

    def __init__(self):
        self.run: Any = None

    def _try(self, seconds: float, action: Callable[[Any], None]) -> None:
        """Calls `action(run)`. An error, or no answer within `seconds`, ends the tracking."""
        if self.run is None:
            return
        try:
            run = self.run
            within(seconds, lambda: action(run))
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.run = None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        say(f"{self.name:14}given up: {reason}")


def within(seconds: float, action: Callable[[], Any]) -> Any:
    """Returns `action()`. Raises TimeoutError after `seconds`; the thread is then abandoned, not stopped."""
    result: list[Any] = []

    def act() -> None:
        try:
            result.append((action(), None))
        except BaseException as error:
            result.append((None, error))

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    if not result:
        raise TimeoutError(f"no answer within {seconds:g} s")
    value, error = result[0]
    if error is not None:
        raise error
    return value
