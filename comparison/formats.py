"""Numbers as text."""

from __future__ import annotations

import math


def percent(fraction: float) -> str:
    """A share of the training images: 0.25 -> `25 %`."""
    return f"{100 * fraction:g} %"


def folds_and_seeds(folds: int, seeds: int) -> str:
    """`5 folds`, or with more than one seed `5 folds x 2 seeds`."""
    return f"{folds} folds" + (f" x {seeds} seeds" if seeds > 1 else "")


def in_percent(value: float) -> str:
    """For columns in per cent: 0.1234 -> `12.3`; NaN -> a dash."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def show_p(p: float) -> str:
    """A p-value: 0.0001 -> `< 0.001`, 0.0123 -> `0.012`, 0.123 -> `0.12`; NaN -> a dash."""
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
