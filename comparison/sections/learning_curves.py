"""The pictures with a line a model: learning curves, accuracy over the amount of data, and over corruption."""

from __future__ import annotations

import numpy as np

from comparison.groups import Cohort, Model, percent
from comparison.metric_names import METRICS
from comparison.pictures import COLOURS, WIDTH, colour, error_bars, head, marker, tidy
from records import plots

LINES = ("-", "--", ":", "-.")


def curves(model: Model, column: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(epochs (E,), values (runs, E)) up to the shortest run; None where a run has no such column."""
    if not all(len(run.history.get(column, ())) and np.isfinite(run.history[column]).any() for run in model.runs):
        return None
    length = min(len(run.history[column]) for run in model.runs)
    return model.runs[0].history["epoch"][:length], np.array([run.history[column][:length] for run in model.runs])


def draw_learning(cohort: Cohort, title: str):
    """Accuracy and loss over the epochs, all runs: each model's mean, and a band from its worst to its best seed."""
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
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    head(figure, title, "Lines: means over seeds. Bands: from the lowest to the highest seed.")
    return figure


def _style(cohort: Cohort, variants: list[str], model: Model) -> tuple[str, str]:
    """Colour and line: the line tells shares of the data apart, and models that share a colour."""
    rounds = -(-len(variants) // len(COLOURS))
    i = variants.index(model.variant)
    return colour(i), LINES[(cohort.fractions.index(model.fraction) * rounds + i // len(COLOURS)) % len(LINES)]


def draw_data(cohort: Cohort, metric: str, title: str):
    """Quality over the share of the training images."""
    from matplotlib.ticker import NullLocator

    kind = METRICS[metric]
    variants = list(dict.fromkeys(model.variant for model in cohort.models))
    figure = plots.new_figure(figsize=(0.75 * WIDTH, 4.6))
    axis = figure.subplots()
    for i, variant in enumerate(variants):
        models = sorted((m for m in cohort.models if m.variant == variant), key=lambda m: m.fraction)
        means = [kind.scale * model.mean(metric) for model in models]
        axis.errorbar([model.fraction for model in models], means, yerr=error_bars(models, metric), fmt=f"-{marker(i)}",
                      color=colour(i), capsize=3, linewidth=1.8, label=plots.plain(variant, 40))  # fmt: skip
    axis.set_xscale("log")
    axis.set_xticks(cohort.fractions, [percent(fraction) for fraction in cohort.fractions])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("share of the training images")
    axis.set_ylabel(kind.heading)
    tidy(axis)
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    head(figure, title, "Bars: 95 % over seeds.")
    return figure


def draw_robustness(models: list[Model], corruptions: list[str], title: str):
    """Accuracy over the strength of each corruption: means over seeds, and a band from the lowest to the highest."""
    columns = min(4, len(corruptions))
    rows = -(-len(corruptions) // columns)
    figure = plots.new_figure(figsize=(max(6.0, WIDTH * columns / 4), 1.3 + 2.3 * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis in grid.flat[len(corruptions) :]:
        axis.set_visible(False)
    for n, (axis, name) in enumerate(zip(grid.flat, corruptions, strict=False)):
        for i, model in enumerate(models):
            found = [[run.robustness["clean"]["top1"], *run.robustness["corruptions"][name]]
                     for run in model.runs if run.robustness]  # fmt: skip
            values = 100 * np.array(found)
            strength = np.arange(values.shape[1])
            axis.plot(strength, values.mean(0), f"-{marker(i)}", color=colour(i), markersize=4, linewidth=1.6,
                      label=plots.plain(model.variant, 40) if n == 0 else None)  # fmt: skip
            axis.fill_between(strength, values.min(0), values.max(0), color=colour(i), alpha=0.15, linewidth=0)
        axis.set_title(name.replace("_", " "), loc="left", fontsize=10)
        axis.set_xticks(strength, ["clean", *map(str, strength[1:])])
        if n >= len(corruptions) - columns:
            axis.set_xlabel("strength")
        tidy(axis)
    for axis in grid[:, 0]:
        axis.set_ylabel("top-1 (%)")
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    head(figure, title, "Lines: means over seeds. Bands: from the lowest to the highest seed.")
    return figure
