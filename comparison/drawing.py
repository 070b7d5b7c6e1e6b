"""What the report's pictures share: colours, titles, legends, panels, rows with two intervals, heat maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from comparison import document
from comparison.cohorts import Model
from comparison.metric_names import METRICS
from comparison.statistics import Values
from records import plots
from utils import replacing

# Okabe and Ito's colours, which colour-blind readers can tell apart; without yellow, too pale on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = "osD^vPX"
INK, PALE = "#1f2937", "#d1d5db"
WIDTH = 10.5  # inches


def colour(i: int) -> str:
    """The colour of the i-th model."""
    return COLOURS[i % len(COLOURS)]


def marker(i: int) -> str:
    """The marker of the i-th model; models that share a colour have different ones."""
    return MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]


def save(figure, folder: Path, name: str, vector: bool = True) -> None:
    """Writes `name`.png, and `name`.svg if `vector`. The same figure always gives the same bytes."""
    import matplotlib

    plots.save(figure, folder / document.PICTURES / f"{name}.png")
    if vector:
        figure.set_layout_engine("none")  # the PNG has laid it out
        with (
            replacing(folder / document.PICTURES / f"{name}.svg") as temporary,
            matplotlib.rc_context({"svg.hashsalt": name}),
        ):
            figure.savefig(temporary, dpi=150, metadata={"Date": None})


def tidy(axis, grid: str = "both") -> None:
    """Draws a pale grid behind the marks, and no frame at the top and right."""
    axis.grid(axis=grid, alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)


def head(figure, title: str, note: str = "") -> None:
    """Writes a bold title at the left, and a note below it."""
    figure.suptitle(f"{title}\n" if note else title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    if note:
        height = figure.get_size_inches()[1]
        figure.text(0.01, 1 - 0.36 / height, note, ha="left", va="center", fontsize=9, color=plots.MUTED)


def legend(figure, columns: int = 3, **more) -> None:
    """Adds a legend below the panels."""
    figure.legend(loc="outside lower left", ncols=columns, frameon=False, fontsize=9, **more)


def new_panels(count: int, columns: int, width: float, above: float, height: float, **more):
    """Returns (figure, axes (rows, columns)) for `count` panels, with the surplus axes hidden.

    Args:
        width: of the figure, in inches.
        above: space above the panels, in inches.
        height: of a panel, in inches.
    """
    rows = -(-count // columns)
    figure = plots.new_figure(figsize=(width, above + rows * height))
    grid = figure.subplots(rows, columns, squeeze=False, **more)
    for axis in grid.flat[count:]:
        axis.set_visible(False)
    return figure, grid


def drawn_interval(model: Model, metric: str) -> np.ndarray:
    """(low, high) over seeds or folds, in the metric's scale, clipped to possible values, which it may exceed."""
    edges = np.array(model.interval(metric))
    return METRICS[metric].scale * np.clip(edges, 0, 1 if METRICS[metric].scale == 100 else None)


def error_bars(models: list[Model], metric: str) -> np.ndarray:
    """(2, M): how far the intervals over seeds or folds extend below and above the means; 0 without an interval."""
    means = [METRICS[metric].scale * model.mean(metric) for model in models]
    edges = np.array([drawn_interval(model, metric) for model in models]).T
    return np.nan_to_num(np.abs(edges - means))


# ------------------------------------------------------------------------------------------- rows with two intervals


def new_rows(count: int):
    """(figure, axis) with room for `count` rows."""
    figure = plots.new_figure(figsize=(WIDTH, 1.75 + 0.46 * count))
    return figure, figure.subplots()


def draw_row(
    axis, y: int, over_images: Values, over_runs: Values, values: Values, mean: float, ink: str, mark: str, size: int
) -> None:
    """Draws both intervals (low, high), the value of each seed or fold (n,), and their mean."""
    axis.plot(over_images, [y + 0.2, y + 0.2], color=plots.MUTED, linewidth=1.2, marker="|", markersize=6)
    axis.plot(over_runs, [y, y], color=ink, linewidth=4, alpha=0.45, solid_capstyle="butt")
    axis.plot(values, np.full(len(values), y - 0.2), ".", color=ink, markersize=5)
    axis.plot(mean, y, mark, color=ink, markersize=size)


def finish_rows(figure, axis, labels: list[str], xlabel: str, title: str, over: str, published: bool = False) -> None:
    """Adds the rows' labels, the title, and a legend of the marks.

    Args:
        over: what the thick intervals are over, "seeds" or "folds".
        published: whether the legend has the mark of published figures.
    """
    from matplotlib.lines import Line2D

    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.55)
    axis.set_xlabel(xlabel)
    tidy(axis, "x")
    marks = [
        Line2D([], [], color=plots.MUTED, marker="o", markersize=7, linewidth=4, alpha=0.7,
               label=f"mean, 95 % over {over}"),
        Line2D([], [], color=plots.MUTED, marker="|", markersize=6, linewidth=1.2, label="95 % over images"),
        Line2D([], [], color=plots.MUTED, marker=".", linestyle="", label=f"a {over[:-1]}"),
    ]  # fmt: skip
    if published:
        marks.append(Line2D([], [], marker="D", linestyle="", markerfacecolor="white", markeredgecolor=INK,
                            label="published"))  # fmt: skip
    legend(figure, len(marks), handles=marks)
    head(figure, title)


# --------------------------------------------------------------------------------------------------------- heat maps


def finish_heat_map(figure, axis, picture, unit: str, title: str) -> None:
    """Adds the colour bar and the title."""
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(picture, ax=axis, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(unit)
    head(figure, title)


def model_ticks(axis, models: list[Model]) -> None:
    """Labels an axis with the models' names, rotated if they are long."""
    names = [plots.plain(model.variant, 26) for model in models]
    long = max(map(len, names)) * len(names) > 60  # letters side by side
    axis.set_ticks(range(len(names)), names, rotation=35 if long else 0, ha="right" if long else "center", fontsize=9)
    for label in axis.get_ticklabels():
        label.set_rotation_mode("anchor")
