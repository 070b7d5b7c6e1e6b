"""How long something takes, measured fairly. Nothing heavy is imported here."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any


class Repeated:
    """A measurement of how long `work` takes, as a mean over so many repetitions that they take `seconds`. Their number
    is found at the first measurement, the warm-up.

    Args:
        work: called with the number of repetitions.
        synchronize: waits for the device.
        result: turns the seconds of one repetition into the value that is returned.
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

    Returns the measurements by side, in their order: those at the same place were taken one after the other.
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
    return 1000 * seconds


def images_per_second(
    epoch: Callable[[int], Iterable],
    seconds: float,
    synchronize: Callable[[], None],
    workers: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The rate of a source of batches in its steady state.

    Args:
        epoch: the batches (images, targets) of an epoch by its number; they are drawn for `seconds`, epoch after epoch.
        workers: processes that make the batches. Those that they prepare while the first one is waited for do not
            count, and every process has the same number of batches counted.
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
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "all": values}
