"""The pictures of a comparison that have one mark a model: quality, differences, cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from comparison import document, statistics
from comparison.cost import COSTS, Cost, front
from comparison.groups import Cohort, Model
from comparison.metric_names import METRICS
from comparison.pairs import Pair, Resampled
from comparison.study import Published
from records import plots
from utils import human, replacing

# Okabe and Ito's colours, which differ for colour-blind readers too, without the yellow, which is pale on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = "osD^vPX"
INK, PALE = "#1f2937", "#d1d5db"
WIDTH = 10.5  # inches
MOST_PAIRS = 28  # in one picture


def colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def marker(i: int) -> str:
    return MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]


def save(figure, folder: Path, name: str, vector: bool = True) -> None:
    """`name`.png, and unless it shows photographs, `name`.svg; the same figure gives the same bytes."""
    import matplotlib

    plots.save(figure, folder / document.PICTURES / f"{name}.png")
    if vector:
        figure.set_layout_engine("none")  # all is in its place since the first file
        with (
            replacing(folder / document.PICTURES / f"{name}.svg") as temporary,
            matplotlib.rc_context({"svg.hashsalt": name}),
        ):
            figure.savefig(temporary, dpi=150, metadata={"Date": None})


def tidy(axis, grid: str = "both") -> None:
    axis.grid(axis=grid, alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)


def head(figure, title: str, note: str = "") -> None:
    """A bold title at the left, and a line under it."""
    figure.suptitle(f"{title}\n" if note else title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    if note:
        height = figure.get_size_inches()[1]
        figure.text(0.01, 1 - 0.36 / height, note, ha="left", va="center", fontsize=9, color=plots.MUTED)


def drawn_interval(model: Model, metric: str) -> np.ndarray:
    """(low, high) over seeds, in the metric's scale; cut off where no value can be, as with few seeds it may reach
    there."""
    edges = np.array(statistics.seed_interval(model.values(metric)))
    return METRICS[metric].scale * np.clip(edges, 0, 1 if METRICS[metric].scale == 100 else None)


def error_bars(models: list[Model], metric: str) -> np.ndarray:
    """(2, M): how far the intervals over seeds reach below and above the means; 0 where there is none."""
    means = [METRICS[metric].scale * model.mean(metric) for model in models]
    edges = np.array([drawn_interval(model, metric) for model in models]).T
    return np.nan_to_num(np.abs(edges - means))


def _rows(count: int) -> float:
    """The height in inches of a picture with so many rows."""
    return 1.75 + 0.46 * count


def draw_quality(cohort: Cohort, resampled: Resampled, metric: str, published: list[Published], title: str):
    """Each model's mean with both intervals, its seeds, and the published figures beside them."""
    kind = METRICS[metric]
    order = list(dict.fromkeys(model.variant for model in cohort.models))
    published = [one for one in published if metric in one.metrics]
    alone = [one for one in published if one.variant not in order]
    figure = plots.new_figure(figsize=(WIDTH, _rows(len(cohort.models) + len(alone))))
    axis = figure.subplots()
    for y, model in enumerate(cohort.models):
        ink = colour(order.index(model.variant))
        values = kind.scale * model.values(metric)
        low, high = (kind.scale * edge for edge in statistics.image_interval(resampled.mean(model.runs, metric)))
        axis.plot([low, high], [y + 0.2, y + 0.2], color=plots.MUTED, linewidth=1.2, marker="|", markersize=6)
        axis.plot(drawn_interval(model, metric), [y, y], color=ink, linewidth=4, alpha=0.45, solid_capstyle="butt")
        axis.plot(values, np.full(len(values), y - 0.2), ".", color=ink, markersize=5)
        axis.plot(values.mean(), y, marker(order.index(model.variant)), color=ink, markersize=8)
    labels = [plots.plain(model.label, 44) for model in cohort.models]
    rows = {model.variant: cohort.models.index(model) for model in cohort.main}
    for one in published:
        y = len(labels) + alone.index(one) if one in alone else rows.get(one.variant, order.index(one.variant))
        axis.plot(kind.scale * one.metrics[metric], y, "D", markerfacecolor="white", markeredgecolor=INK, markersize=7)
    labels += [plots.plain(one.label, 44) for one in alone]
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.55)
    axis.set_xlabel(kind.heading)
    tidy(axis, "x")
    _explain(figure, bool(published))
    head(figure, title)
    return figure


def _explain(figure, published: bool) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D(
            [], [], color=plots.MUTED, marker="o", markersize=7, linewidth=4, alpha=0.7, label="mean, 95 % over seeds"
        ),
        Line2D([], [], color=plots.MUTED, marker="|", markersize=6, linewidth=1.2, label="95 % over test images"),
        Line2D([], [], color=plots.MUTED, marker=".", linestyle="", label="a seed"),
    ]
    if published:
        marks.append(Line2D([], [], marker="D", linestyle="", markerfacecolor="white", markeredgecolor=INK,
                            label="published"))  # fmt: skip
    figure.legend(handles=marks, loc="outside lower left", ncols=len(marks), frameon=False, fontsize=9)


def draw_differences(pairs: list[Pair], metric: str, title: str):
    """A forest plot: each pair's difference with both intervals."""
    kind, shown = METRICS[metric], pairs[:MOST_PAIRS]
    figure = plots.new_figure(figsize=(WIDTH, _rows(len(shown))))
    axis = figure.subplots()
    axis.axvline(0, color=INK, linewidth=1)
    for y, pair in enumerate(shown):
        found = pair.differences[metric]
        ink = COLOURS[0] if pair.adjusted[metric] < statistics.LEVEL else plots.MUTED
        low, high = (kind.scale * edge for edge in pair.on_images[metric])
        axis.plot([low, high], [y + 0.2, y + 0.2], color=plots.MUTED, linewidth=1.2, marker="|", markersize=6)
        low, high = (kind.scale * edge for edge in found.interval)
        axis.plot([low, high], [y, y], color=ink, linewidth=4, alpha=0.45, solid_capstyle="butt")
        by_seed = [kind.scale * (pair.first.of_seed(s).metric(metric) - pair.second.of_seed(s).metric(metric))
                   for s in pair.seeds]  # fmt: skip
        axis.plot(by_seed, np.full(len(by_seed), y - 0.2), ".", color=ink, markersize=5)
        axis.plot(kind.scale * found.mean, y, "o", color=ink, markersize=7)
    axis.set_yticks(range(len(shown)), [plots.plain(pair.title, 64) for pair in shown])
    axis.set_ylim(len(shown) - 0.5, -0.55)
    axis.set_xlabel(f"difference in {kind.title}" + (" (percentage points)" if kind.scale == 100 else ""))
    tidy(axis, "x")
    _explain(figure, False)
    head(figure, title)
    return figure


def draw_cost(models: list[Model], metric: str, title: str):
    """Quality over each cost that is known of every model, with the Pareto front. None where none is."""
    kind = METRICS[metric]
    known = [cost for cost in COSTS if _tells(cost, models)]
    known = [cost for cost in known if cost.instead not in [other.key for other in known]]
    if not known or len(models) < 2:
        return None
    columns = min(3, len(known))
    rows = -(-len(known) // columns)
    figure = plots.new_figure(figsize=(WIDTH, 0.9 + 2.7 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    quality = np.array([kind.scale * model.mean(metric) for model in models])
    for axis in grid.flat[len(known) :]:
        axis.set_visible(False)
    for n, (axis, cost) in enumerate(zip(grid.flat, known, strict=False)):
        spent = np.array([cost.of(model) for model in models], dtype=float)
        best = front(spent, quality, cost.more_is_better, kind.more_is_better)
        best = best[np.argsort(spent[best])]
        axis.plot(spent[best], quality[best], color=PALE, linewidth=2, zorder=1)
        for i, model in enumerate(models):
            axis.errorbar(spent[i], quality[i], yerr=error_bars([model], metric), fmt=marker(i), color=colour(i),
                          markersize=8 if i in best else 6, markerfacecolor=colour(i) if i in best else "white",
                          capsize=3, linewidth=1.2, label=None if n else plots.plain(model.variant, 40))  # fmt: skip
        axis.set_title(f"{cost.title}{f' ({cost.unit})' if cost.unit else ''}", loc="left", fontsize=10)
        _cost_axis(axis, spent)
        axis.annotate("better →" if cost.more_is_better else "← better", (1, 1.02), xycoords="axes fraction",
                      ha="right", va="bottom", fontsize=8, color=plots.MUTED)  # fmt: skip
        axis.tick_params(labelsize=9)
        tidy(axis)
    for axis in grid[:, 0]:
        axis.set_ylabel(kind.heading)
    figure.legend(loc="outside lower left", ncols=min(4, len(models)), frameon=False, fontsize=9)
    head(figure, title, "Filled marks and the line: the Pareto front. Bars: 95 % over seeds.")
    return figure


def _tells(cost: Cost, models: list[Model]) -> bool:
    """Whether it is known of every model, and not the same of all."""
    values = [cost.of(model) for model in models]
    return None not in values and max(values) > 1.01 * min(values)


def _cost_axis(axis, spent: np.ndarray) -> None:
    """Logarithmic; a few labelled ticks, whatever the range."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

    axis.set_xscale("log")
    low, high = spent.min() / 1.35, spent.max() * 1.35
    axis.set_xlim(low, high)
    if high < 5 * low:
        axis.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
    else:
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 60 * low else (1,), numticks=8))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter(lambda value, _: _short(value))


def _short(value: float) -> str:
    """1,500,000 as 1.5 M."""
    number, _, unit = human(float(value)).partition(" ")
    return f"{float(number):g} {unit}".strip()
