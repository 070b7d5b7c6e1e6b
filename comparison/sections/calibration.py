"""The section "Calibration": how confident models are, against how often they are right."""

from __future__ import annotations

import numpy as np

from comparison.cohorts import Model
from comparison.context import Context
from comparison.document import Section
from comparison.drawing import PALE, WIDTH, colour, head, tidy
from comparison.formats import in_percent
from comparison.metrics import ECE_BINS
from records import plots

MAX_MODELS = 8  # in the picture


def section(context: Context) -> Section:
    """A picture of reliability diagrams, and a file with their bins."""
    models = context.cohort.main[:MAX_MODELS]
    figure = draw_reliability(models, "Reliability: accuracy over confidence")
    few = f" The first {MAX_MODELS} models are shown." if len(context.cohort.main) > MAX_MODELS else ""
    rows, data = [], []
    for model in context.cohort.main:
        for bin_, (share, confidence, accuracy) in enumerate(zip(*reliability(model), strict=True)):
            data.append({"model": model.variant, "bin": bin_ + 1, "images": share, "confidence": confidence,
                         "accuracy": accuracy})  # fmt: skip
            rows.append([model.variant, str(bin_ + 1), in_percent(share), in_percent(confidence), in_percent(accuracy)])
    columns = ["model", "bin", "images (%)", "confidence (%)", "accuracy (%)"]
    title = "The bins of the reliability diagram"
    table = context.table("reliability", title, columns, rows, "", data, shown=False)
    text = (
        "All runs together, 15 bins of equal width. Under the diagonal a model is surer than it should be. ECE is the"
        f" mean distance from it, each bin weighted by its images.{few}{context.restriction}"
    )
    return Section("Calibration", [context.picture("reliability", figure, "Reliability diagrams", text), table])


def reliability(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(share of the images, mean confidence, accuracy) of each bin (ECE_BINS,), over all seeds; NaN in empty bins."""
    confidence, right = (np.concatenate([getattr(run.scores, name) for run in model.runs])
                         for name in ("confidence", "right"))  # fmt: skip
    bins = np.minimum(np.concatenate([run.scores.bins for run in model.runs]), ECE_BINS - 1)
    count = np.bincount(bins, minlength=ECE_BINS)
    with np.errstate(invalid="ignore"):
        return (count / count.sum(), np.bincount(bins, confidence, ECE_BINS) / count,
                np.bincount(bins, right, ECE_BINS) / count)  # fmt: skip


def draw_reliability(models: list[Model], title: str):
    """For each model, accuracy over confidence, and below it a histogram of confidence."""
    columns = min(4, len(models))
    rows = -(-len(models) // columns)
    figure = plots.new_figure(figsize=(max(6.0, WIDTH * columns / 4), 0.9 + 3.5 * rows))
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[3, 1] * rows)
    for axis in grid.flat:
        axis.set_visible(False)
    edges = np.linspace(0, 100, ECE_BINS + 1)
    for n, model in enumerate(models):
        row, column = divmod(n, columns)
        axis, below = grid[2 * row, column], grid[2 * row + 1, column]
        share, confidence, accuracy = reliability(model)
        axis.plot([0, 100], [0, 100], color=PALE, linewidth=1.5)
        axis.vlines(100 * confidence, 100 * confidence, 100 * accuracy, color=colour(n), alpha=0.35, linewidth=3)
        axis.scatter(100 * confidence, 100 * accuracy, 12 + 80 * share, color=colour(n), zorder=3, clip_on=False)
        axis.set(xlim=(0, 100), ylim=(0, 101), xticklabels=[])
        axis.set_title(f"{plots.plain(model.variant, 26)}\nECE {100 * model.mean('ece'):.1f} %", loc="left", fontsize=9)
        below.bar(edges[:-1], 100 * share, width=edges[1] * 0.9, align="edge", color=colour(n), alpha=0.6)
        below.set(xlim=(0, 100), xlabel="confidence (%)")
        for part, name in ((axis, "accuracy (%)"), (below, "images (%)")):
            part.set_visible(True)
            part.tick_params(labelsize=8)
            tidy(part)
            if column == 0:
                part.set_ylabel(name)
    head(figure, title)
    return figure
