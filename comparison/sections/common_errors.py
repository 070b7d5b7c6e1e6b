"""The section "Common errors": whether two models fail on the same images, and images that only one gets right."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np

from comparison import image_sheet, statistics
from comparison.cohorts import Model
from comparison.context import Context
from comparison.document import Part, Section
from comparison.drawing import INK, WIDTH, finish_heat_map, model_ticks
from records import plots


def section(context: Context) -> Section | None:
    """Cohen's kappa of pairs in a table and a heat map, and sheets of images. None if there is one model only."""
    models = context.cohort.main
    if len(models) < 2:
        return None
    kappa = np.full((len(models), len(models)), np.nan)
    for i, j in np.ndindex(kappa.shape):
        if i <= j:
            kappa[i, j] = kappa[j, i] = kappa_between(models[i], models[j])
    rows = []
    for pair in context.main_pairs:
        i, j = models.index(pair.first), models.index(pair.second)
        wrong = [(~a.scores.right & ~b.scores.right).mean() for a, b in product(pair.first.runs, pair.second.runs)]
        kappas = (_two_places(float(kappa[place])) for place in ((i, j), (i, i), (j, j)))
        rows.append([pair.variants, *kappas, f"{100 * np.mean(wrong):.2f}"])
    columns = ["models", "κ between them", "κ within the first", "κ within the second", "both wrong (%)"]
    note = (
        "Error consistency (Geirhos et al. 2020): Cohen's κ of right and wrong answers to the same images; 1: they fail"
        " on the same images, 0: as often on the same as two that fail independently. Within a model: between its"
        f" seeds, against which the value between two models is to be held.{context.restriction}"
    )
    parts: list[Part] = [context.table("error_consistency", "Do they fail on the same images?", columns, rows, note)]
    if np.isfinite(kappa).any():
        figure = draw_consistency(kappa, models, "Error consistency")
        text = "Cohen's κ of right and wrong answers; on the diagonal between seeds of one model."
        parts.append(context.picture("error_consistency", figure, "Error consistency between models", text))
    sheets = [] if context.dataset is None else image_sheet.make_sheets(context, context.dataset)
    return Section("Common errors", [*parts, *sheets])


def kappa_between(first: Model, second: Model) -> float:
    """The mean error consistency over all pairs of runs, one run of each model; of a model with itself, between seeds.

    NaN if there is no such pair, or if it is not defined.
    """
    same = first is second
    runs = combinations(first.runs, 2) if same else product(first.runs, second.runs)
    values = [statistics.error_consistency(a.scores.right, b.scores.right) for a, b in runs]
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else np.nan


def _two_places(value: float) -> str:
    return "–" if np.isnan(value) else f"{round(value, 2) + 0:.2f}"  # + 0 turns -0.00 into 0.00


def draw_consistency(kappa: np.ndarray, models: list[Model], title: str):
    """A heat map of Cohen's kappa between models (M, M); the diagonal is between seeds of one model."""
    m = len(models)
    cell = min(1.0, (WIDTH - 3.2) / m)  # inches
    figure = plots.new_figure(figsize=(3.2 + cell * m, 1.7 + cell * m))
    axis = figure.subplots()
    picture = axis.imshow(kappa, cmap="cividis", vmin=min(0.0, np.nanmin(kappa)), vmax=1)
    for i, j in np.ndindex(kappa.shape):
        known = not np.isnan(kappa[i, j])
        axis.text(j, i, _two_places(float(kappa[i, j])), ha="center", va="center", fontsize=10 if m <= 8 else 7,
                  color="white" if known and kappa[i, j] < 0.6 else INK)  # fmt: skip
    names = [plots.plain(model.variant, 26) for model in models]
    model_ticks(axis.xaxis, models)
    axis.set_yticks(range(m), names, fontsize=9)
    finish_heat_map(figure, axis, picture, "error consistency κ", title)
    return figure
