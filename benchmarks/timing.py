"""Timing several sides fairly. Imports nothing heavy."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any


class Repeated:
    """Measures the mean time of `work` over enough repetitions to take `seconds`.

    The first call, the warm-up, determines their number.

    Args:
        work: called with the number of repetitions.
        synchronize: waits for the device.
        result: converts the seconds of one repetition to the value that is returned.
    """

    def __init__(
        self,
        work: Callable[[int], Any],
        seconds: float,
        synchronize: Callable[[], None],
        result: Callable[[float], float] = float,
    ):
        self.work, self.seconds, self.synchronize, self.result = work, seconds, synchronize, result
        self.count: int | None = None

    def __call__(self) -> float:
        if self.count is None:
            self.work(1)  # compiles, allocates, chooses algorithms
            self.count = max(1, math.ceil(self.seconds / self._time(1)))
        return self.result(self._time(self.count) / self.count)

    def _time(self, count: int) -> float:
        self.synchronize()
        began = time.perf_counter()
        self.work(count)
        self.synchronize()
        return time.perf_counter() - began


def alternate(sides: dict[str, Callable[[], float]], repeats: int, warmups: int = 1) -> dict[str, list[float]]:
    """Measures each side in turn, `repeats` times (ABAB...), after `warmups` rounds that do not count.

    Returns the measurements by side. Those with the same index were taken one right after the other.
    """
    for _ in range(warmups):
        for measure in sides.values():
            measure()
    values: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, measure in sides.items():
            values[name].append(measure())
    return values


def milliseconds(seconds: float) -> float:
    """Converts seconds."""
    return 1000 * seconds


def images_per_second(
    epoch: Callable[[int], Iterable],
    seconds: float,
    synchronize: Callable[[], None],
    workers: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Measures the rate of a source of batches in its steady state, for `seconds`.

    Args:
        epoch: from the number of an epoch to its batches (images, targets).
        workers: processes that make the batches. Batches prepared during the wait for the first one do not count, and
            every process contributes the same number of batches.
    """
    group = max(1, workers)
    batches = itertools.chain.from_iterable(map(epoch, itertools.count()))
    for _ in range(3 * group):
        next(batches)
    synchronize()
    images, began = 0, clock()
    while clock() - began < seconds or images == 0:
        images += sum(len(next(batches)[1]) for _ in range(group))
    synchronize()
    return images / (clock() - began)


def spread(values: list[float]) -> dict[str, Any]:
    """Median, lowest, highest and all values."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "all": values}
