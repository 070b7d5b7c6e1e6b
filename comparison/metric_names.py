"""The metrics of a run, and how they are shown. Imports nothing heavy, as the checks of flags use it."""

from __future__ import annotations

from dataclasses import dataclass

from utils import decimal


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        scale: its values are multiplied by this: 100 for shares, which are shown in per cent.
        decimals: digits after the point.
    """

    title: str
    scale: float = 100.0
    decimals: int = 2
    more_is_better: bool = True

    def show(self, value: float | None) -> str:
        """The value as text; a dash for None and NaN."""
        return "–" if value is None or value != value else decimal(self.scale * value, self.decimals)

    @property
    def unit(self) -> str:
        """The unit of differences."""
        return "points" if self.scale == 100 else "nats"

    @property
    def heading(self) -> str:
        """The heading of columns and axes."""
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
