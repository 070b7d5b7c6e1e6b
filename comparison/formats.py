"""Numbers as a report shows them."""

from __future__ import annotations

import math


def percent(fraction: float) -> str:
    """A share of the training images: 0.25 as `25 %`."""
    return f"{100 * fraction:g} %"


def in_percent(value: float) -> str:
    """0.1234 as `12.3`, for columns whose heading has the sign; a dash for NaN."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def show_p(p: float) -> str:
    """A p-value; a dash for NaN."""
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
