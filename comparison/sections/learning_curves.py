"""The section "Learning curves": validation accuracy and losses over the epochs."""

from __future__ import annotations

import numpy as np

from comparison.cohorts import Cohort, Model
from comparison.context import Context
from comparison.document import Section
from comparison.drawing import COLOURS, WIDTH, colour, head, legend, tidy
from records import plots

LINES = ("-", "--", ":", "-.")


def section(context: Context) -> Section | None:
    """A picture of all runs. None if no model has a history."""
    figure = draw_learning(context.cohort, "Learning curves")
    if figure is None:
        return None
    text = "All runs. Training losses can be compared only where loss, mixing and label smoothing are the same."
    return Section("Learning curves", [context.picture("learning", figure, "Learning curves of all runs", text)])


def curves(model: Model, column: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(epochs (E,), values (runs, E)) up to the shortest run's end; None if a run lacks this column of metrics.csv."""
    if not all(len(run.history.get(column, ())) and np.isfinite(run.history[column]).any() for run in model.trainings):
        return None
    length = min(len(run.history[column]) for run in model.trainings)
    values = np.array([run.history[column][:length] for run in model.trainings])
    return model.trainings[0].history["epoch"][:length], values


def draw_learning(cohort: Cohort, title: str):
    """Accuracy and losses over epochs: each model's mean, and a band from its lowest to its highest run."""
    panels = [("val_top1", "validation top-1 (%)", 100, False), ("val_loss", "validation loss", 1, True),
              ("train_loss", "training loss", 1, True)]  # fmt: skip
    known = [panel for panel in panels if any(curves(model, panel[0]) for model in cohort.models)]
    if not known:
        return None
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    variants = list(dict.fromkeys(model.variant for model in cohort.models))
    shade = min(0.15, 1 / len(cohort.models))
    figure = plots.new_figure(figsize=(WIDTH, 3.9 + 0.22 * -(-len(cohort.models) // 3)))
    for n, (axis, (column, name, scale, logarithmic)) in enumerate(
        zip(np.atleast_1d(figure.subplots(1, len(known))), known, strict=True)
    ):
        for model in cohort.models:
            found = curves(model, column)
            if found is None:
                continue
            epochs, values = found[0], scale * found[1]
            ink, line = _style(cohort, variants, model)
            axis.plot(epochs, values.mean(0), line, color=ink, linewidth=1.8,
                      label=plots.plain(model.label, 40) if n == 0 else None)  # fmt: skip
            axis.fill_between(epochs, values.min(0), values.max(0), color=ink, alpha=shade, linewidth=0)
        axis.set_title(name, loc="left", fontsize=10)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        if logarithmic:
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.yaxis.set_minor_formatter(NullFormatter())
        tidy(axis)
    legend(figure)
    head(figure, title, "Lines: means over runs. Bands: from the lowest to the highest run.")
    return figure


def _style(cohort: Cohort, variants: list[str], model: Model) -> tuple[str, str]:
    """(colour, line style): the style distinguishes shares of the data, and variants that share a colour."""
    rounds = -(-len(variants) // len(COLOURS))
    i = variants.index(model.variant)
    return colour(i), LINES[(cohort.fractions.index(model.fraction) * rounds + i // len(COLOURS)) % len(LINES)]
