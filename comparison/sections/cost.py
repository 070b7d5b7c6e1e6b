"""What a model costs: its size, and the time and memory that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from comparison.groups import Model
from comparison.runs import Run
from utils import human


@dataclass(frozen=True)
class Cost:
    """A cost: its name and unit, and what a run says of it (None: nothing).

    Attributes:
        instead: the key of a cost that is better measured; where that is known, pictures leave this one out.
    """

    key: str
    title: str
    unit: str
    of_run: Callable[[Run], float | None]
    more_is_better: bool = False
    instead: str = ""

    def of(self, model: Model) -> float | None:
        """The mean over the model's runs; None where one of them does not know it."""
        values = [self.of_run(run) for run in model.runs]
        return None if any(not value for value in values) else float(np.mean(values))

    def show(self, model: Model) -> str:
        value = self.of(model)
        if value is None:
            return "–"
        return f"{human(value)}{self.unit}".strip() if value >= 1000 or self.unit == "B" else f"{value:.3g}"


def _of_training(run: Run) -> float | None:
    """Images per second over the whole training, with its validation."""
    images, seconds = run.summary.get("images", {}).get("train"), run.summary.get("train_seconds")
    return images * run.summary["epochs"] / seconds if images and seconds else None


def _measured(key: str) -> Callable[[Run], float | None]:
    return lambda run: (run.cost or {}).get(key)


COSTS = [
    Cost("params", "parameters", "", lambda run: run.summary["params"]),
    Cost("flops", "FLOPs per image", "", lambda run: run.summary["flops"]),
    Cost("train_seconds", "time of the training", "s", lambda run: run.summary.get("train_seconds")),
    Cost("images_per_second", "images/s of the training", "", _of_training, more_is_better=True,
         instead="measured_train_images_per_second"),
    Cost("peak_memory", "memory of the training", "B", lambda run: run.summary.get("peak_memory"),
         instead="measured_peak_memory"),
    Cost("measured_train_images_per_second", "training, images/s", "", _measured("train_images_per_second"),
         more_is_better=True),
    Cost("measured_inference_images_per_second", "inference, images/s", "", _measured("inference_images_per_second"),
         more_is_better=True),
    Cost("measured_inference_latency_ms", "latency of one batch", "ms", _measured("inference_latency_ms")),
    Cost("measured_peak_memory", "memory, measured alone", "B", _measured("peak_memory")),
]  # fmt: skip


def front(spent: np.ndarray, quality: np.ndarray, more_spent: bool, more_quality: bool) -> np.ndarray:
    """Indices of the Pareto front: no other model is at least as good in both, and better in one.

    Args:
        spent, quality: (M,); more_spent, more_quality: whether more of it is better.
    """
    cost = -spent if more_spent else spent
    loss = -quality if more_quality else quality
    no_worse = (cost[:, None] <= cost) & (loss[:, None] <= loss)  # [i, j]: i is no worse than j
    better = (cost[:, None] < cost) | (loss[:, None] < loss)
    return np.flatnonzero(~(no_worse & better).any(0))
