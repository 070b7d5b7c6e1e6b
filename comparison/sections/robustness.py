"""The section "Robustness": errors on corrupted images, from the runs that have robustness.json."""

from __future__ import annotations

import numpy as np

from comparison import statistics
from comparison.cohorts import Model
from comparison.context import Context
from comparison.document import Section
from comparison.drawing import WIDTH, colour, head, legend, marker, new_panels, tidy
from records import plots


def section(context: Context) -> Section | None:
    """A table of errors and a picture of accuracies. None if no run has robustness.json."""
    models = [model for model in context.cohort.main if any(run.robustness for run in model.trainings)]
    if not models:
        return None
    found = {id(model): [run.robustness for run in model.trainings if run.robustness] for model in models}
    shared = [set(one["corruptions"]) for reports in found.values() for one in reports]
    names = [name for name in found[id(models[0])][0]["corruptions"] if all(name in one for one in shared)]
    if not names:
        return None
    rows, data = [], []
    for model in models:
        reports = found[id(model)]
        errors = np.array([1 - np.mean([one["corruptions"][name] for name in names], axis=1) for one in reports])
        mean = np.array([one["mean_corruption_error"] for one in reports])
        half = _interval(model, mean).half
        shown = f"{100 * mean.mean():.2f}" + ("" if np.isnan(half) else f" ± {100 * half:.2f}")
        clean = 100 * np.mean([one["clean"]["top1"] for one in reports])
        each = [f"{100 * value:.1f}" for value in errors.mean(0)]
        rows.append([model.variant, str(len(reports)), f"{clean:.2f}", shown, *each])
        data.append({"model": model.variant, "n": len(reports), "mean_corruption_error": mean.mean(),
                     **dict(zip(names, errors.mean(0).tolist(), strict=True))})  # fmt: skip
    columns = ["model", "n", "clean top-1 (%)", "mean corruption error (%)",
               *(f"{name.replace('_', ' ')} (%)" for name in names)]  # fmt: skip
    note = (f"Errors are means over strengths, and over the runs that have robustness.json; not divided by those of a"
            f" reference network.{context.restriction}")  # fmt: skip
    table = context.table("robustness", "Error on corrupted images", columns, rows, note, data)
    title = "Accuracy on corrupted images"
    text = f"Top-1 at each strength.{context.restriction}"
    picture = context.picture("robustness", draw_robustness(models, names, title), title, text)
    return Section("Robustness", [table, picture])


def _interval(model: Model, values: np.ndarray) -> statistics.Interval:
    """The 95 % interval of the mean error over seeds, or over folds if every run of the model has one; NaN without.

    Args:
        values: (n,), one per run.
    """
    if not model.folds:
        return statistics.seed_interval(values)
    if len(values) < len(model.trainings):
        return statistics.NOTHING
    return statistics.over_folds(values.reshape(-1, model.folds).mean(0), model.held_out).interval


def draw_robustness(models: list[Model], corruptions: list[str], title: str):
    """Accuracy over the strength of each corruption: means over runs, and bands from lowest to highest run."""
    columns = min(4, len(corruptions))
    width = max(6.0, WIDTH * columns / 4)
    figure, grid = new_panels(len(corruptions), columns, width, above=1.3, height=2.3, sharey=True)
    for n, (axis, name) in enumerate(zip(grid.flat, corruptions, strict=False)):
        found = [np.array([[run.robustness["clean"]["top1"], *run.robustness["corruptions"][name]]
                           for run in model.trainings if run.robustness]) for model in models]  # fmt: skip
        strength = np.arange(found[0].shape[1])
        for i, model in enumerate(models):
            values = 100 * found[i]
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
    legend(figure)
    head(figure, title, "Lines: means over runs. Bands: from the lowest to the highest run.")
    return figure
