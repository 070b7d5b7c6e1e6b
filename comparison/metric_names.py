"""The metrics of a run, and how they are shown. Nothing heavy is imported here: the flag checks use it."""

from __future__ import annotations

from dataclasses import dataclass

from utils import decimal


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: `scale` x its value, with `decimals`, called `title`; whether more is better."""

    title: str
    scale: float = 100.0
    decimals: int = 2
    more_is_better: bool = True

    def show(self, value: float | None) -> str:
        return "–" if value is None or value != value else decimal(self.scale * value, self.decimals)

    @property
    def unit(self) -> str:
        return "points" if self.scale == 100 else "nats"

    @property
    def heading(self) -> str:
        return f"{self.title} (%)" if self.scale == 100 else self.title


METRICS = {
    "top1": Metric("top-1"),
    "top5": Metric("top-5"),
    "loss": Metric("loss", 1.0, 4, more_is_better=False),
    "precision": Metric("precision"),
    "recall": Metric("recall"),
    "f1": Metric("F1"),
    "map": Metric("mAP"),
    "ece": Metric("ECE", more_is_better=False),
}
