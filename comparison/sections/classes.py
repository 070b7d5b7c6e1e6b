"""The pictures of single classes and of errors: heat maps, confusion matrices, reliability."""

from __future__ import annotations

import numpy as np

from comparison.groups import Model
from comparison.metrics import ECE_BINS
from comparison.pictures import INK, PALE, WIDTH, colour, head, tidy
from records import plots

MOST_CLASSES = 30  # rows of the heat map
NUMBERED = 10  # classes up to which cells carry numbers
MOST_PANELS = 6


def class_accuracy(model: Model) -> np.ndarray:
    """(K,), the mean over seeds."""
    return np.mean([run.scores.per_class() for run in model.runs], axis=0)


def confusion_share(model: Model) -> np.ndarray:
    """(K, K): the share of each true class (in rows) that gets each answer, over all seeds; 0 without images."""
    total = np.sum([run.scores.confusion() for run in model.runs], axis=0)
    return total / np.maximum(total.sum(1, keepdims=True), 1)


def draw_classes(models: list[Model], class_names: list[str], title: str):
    """A heat map of accuracies; of many classes those in which the models differ most (or the hardest of one model)."""
    accuracy = 100 * np.array([class_accuracy(model) for model in models])  # (M, K)
    rank = np.ptp(accuracy, axis=0) if len(models) > 1 else -accuracy[0]
    shown = np.sort(np.argsort(-np.nan_to_num(rank, nan=-1e9), kind="stable")[:MOST_CLASSES])
    rows = len(shown)
    figure = plots.new_figure(figsize=(min(WIDTH, 3.2 + 1.5 * len(models)), 1.6 + 0.3 * rows))
    axis = figure.subplots()
    table = accuracy[:, shown].T
    low = np.nanmin(table)
    picture = axis.imshow(table, cmap="cividis", vmin=low, vmax=100, aspect="auto")
    for i, j in np.ndindex(table.shape):
        if not np.isnan(table[i, j]):
            dark = table[i, j] < low + 0.55 * (100 - low)
            axis.text(j, i, f"{table[i, j]:.1f}", ha="center", va="center", fontsize=8, color="white" if dark else INK)
    axis.set_yticks(range(rows), [plots.plain(class_names[i], 28) for i in shown], fontsize=9)
    _model_ticks(axis.xaxis, models)
    return _finished(figure, axis, picture, "accuracy (%)", title)


def _finished(figure, axis, picture, unit: str, title: str):
    """The heat map with its colour bar and title."""
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(picture, ax=axis, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(unit)
    head(figure, title)
    return figure


def _model_ticks(axis, models: list[Model]) -> None:
    names = [plots.plain(model.variant, 26) for model in models]
    long = max(map(len, names)) * len(names) > 60  # letters, side by side
    axis.set_ticks(range(len(names)), names, rotation=35 if long else 0, ha="right" if long else "center", fontsize=9)
    for label in axis.get_ticklabels():
        label.set_rotation_mode("anchor")


def draw_confusions(shares: list[np.ndarray], titles: list[str], class_names: list[str], title: str, signed: bool):
    """Confusion matrices beside each other, in per cent of the true class.

    Args:
        shares: (K, K) each; signed: they are differences of two models.
    """
    shares, k = shares[:MOST_PANELS], len(class_names)
    columns = 2 if k > NUMBERED or len(shares) == 4 else 3
    columns = min(columns, len(shares))
    rows = -(-len(shares) // columns)
    width = min(WIDTH, 5.2 * columns)
    figure = plots.new_figure(figsize=(width, 0.7 + rows * (0.35 + 0.82 * width / columns)))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axis in grid.flat[len(shares) :]:
        axis.set_visible(False)
    top = max(float(np.abs(share).max()) for share in shares) or 1.0
    for n, (axis, share) in enumerate(zip(grid.flat, shares, strict=False)):
        if signed:
            picture = axis.imshow(100 * share, cmap="RdBu", vmin=-100 * top, vmax=100 * top)
        else:  # the square root keeps rare confusions visible beside a strong diagonal
            picture = axis.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1)
        _confusion_ticks(axis, class_names, n % columns == 0)
        if k <= NUMBERED:
            _confusion_numbers(axis, 100 * share, signed, 100 * top)
        axis.set_title(plots.plain(titles[n], 48), loc="left", fontsize=9)
        axis.spines[:].set_visible(False)
    bar = figure.colorbar(picture, ax=grid, fraction=0.03, pad=0.02, shrink=0.7)
    bar.outline.set_visible(False)
    if signed:
        bar.set_label("difference (percentage points)", labelpad=8)
    else:
        bar.set_ticks([0, 0.1**0.5, 0.5, 0.5**0.5, 1], labels=["0", "10", "25", "50", "100 %"])
    head(figure, title)
    return figure


def _confusion_ticks(axis, class_names: list[str], first: bool) -> None:
    k = len(class_names)
    ticks = range(0, k, max(1, -(-k // 25)))
    names = [plots.plain(class_names[i], 14) for i in ticks]
    axis.set_xticks(ticks, names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=7)
    axis.set_yticks(ticks, names, fontsize=7)
    axis.set_xlabel("answer", fontsize=9)
    if first:
        axis.set_ylabel("true class", fontsize=9)


def _confusion_numbers(axis, percent: np.ndarray, signed: bool, top: float) -> None:
    for i, j in np.ndindex(percent.shape):
        value = percent[i, j]
        if abs(value) >= 0.5:
            bright = abs(value) > 0.6 * top if signed else value > 45
            axis.text(j, i, f"{value:+.0f}" if signed else f"{value:.0f}", ha="center", va="center", fontsize=7,
                      color="white" if bright else INK)  # fmt: skip


def two_places(value: float) -> str:
    return "–" if np.isnan(value) else f"{round(value, 2) + 0:.2f}"  # + 0: no minus before 0.00


def draw_consistency(kappa: np.ndarray, models: list[Model], title: str):
    """A heat map of Cohen's kappa between models (M, M); on the diagonal between seeds of one model."""
    m = len(models)
    cell = min(1.0, (WIDTH - 3.2) / m)  # inches
    figure = plots.new_figure(figsize=(3.2 + cell * m, 1.7 + cell * m))
    axis = figure.subplots()
    picture = axis.imshow(kappa, cmap="cividis", vmin=min(0.0, np.nanmin(kappa)), vmax=1)
    for i, j in np.ndindex(kappa.shape):
        known = not np.isnan(kappa[i, j])
        axis.text(j, i, two_places(kappa[i, j]), ha="center", va="center", fontsize=10 if m <= 8 else 7,
                  color="white" if known and kappa[i, j] < 0.6 else INK)  # fmt: skip
    names = [plots.plain(model.variant, 26) for model in models]
    _model_ticks(axis.xaxis, models)
    axis.set_yticks(range(m), names, fontsize=9)
    return _finished(figure, axis, picture, "error consistency κ", title)


def reliability(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(share of the images, mean confidence, accuracy) of each of 15 bins, over all seeds; NaN in empty bins."""
    confidence, right = (np.concatenate([getattr(run.scores, name) for run in model.runs])
                         for name in ("confidence", "right"))  # fmt: skip
    bins = np.minimum(np.concatenate([run.scores.bins for run in model.runs]), ECE_BINS - 1)
    count = np.bincount(bins, minlength=ECE_BINS)
    with np.errstate(invalid="ignore"):
        return (count / count.sum(), np.bincount(bins, confidence, ECE_BINS) / count,
                np.bincount(bins, right, ECE_BINS) / count)  # fmt: skip


def draw_reliability(models: list[Model], title: str):
    """For each model: accuracy over confidence, and below it how many images have such a confidence."""
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
