"""How long something takes, measured fairly. Nothing heavy is imported here."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


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


def spread(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "all": values}


def synchronizer(device: torch.device) -> Callable[[], None]:
    """A function that waits until the device has done all that it was asked for."""
    import torch

    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None
