"""The parts of a report about single classes, errors and confidence."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np

from comparison import class_pictures, statistics
from comparison.class_pictures import MOST_CLASSES, MOST_PANELS, class_accuracy, confusion_share, two_places
from comparison.document import Section, Table
from comparison.groups import Model
from comparison.pairs import Pair
from comparison.sections import Context

MOST_ROWS = 20  # of a table of classes in the report; its files have all
MOST_DIFFERENT = 3  # classes of each pair


def classes(context: Context) -> Section:
    models, names = context.cohort.main, context.cohort.class_names
    accuracy = np.array([class_accuracy(model) for model in models])  # (M, K)
    support = np.bincount(context.cohort.targets, minlength=len(names))
    rows = [[name, str(support[i]), *(_percent(value) for value in accuracy[:, i])] for i, name in enumerate(names)]
    exact = [dict(zip((m.variant for m in models), column.tolist(), strict=True)) for column in accuracy.T]
    data = [{"class": name, "images": int(support[i]), **exact[i]} for i, name in enumerate(names)]
    published = [one for one in context.published if one.per_class]
    for one in published:
        for name, row, figures in zip(names, rows, data, strict=True):
            row.append(_percent(one.per_class.get(name, np.nan)))
            figures[one.label] = one.per_class.get(name)
    columns = ["class", "images", *(m.variant for m in models), *(one.label for one in published)]
    table = context.table("classes", "Accuracy of each class (%)", columns, rows,
                          f"Means over seeds.{context.restriction}", data, shown=len(names) <= MOST_ROWS)  # fmt: skip
    figure = class_pictures.draw_classes(models, names, "Accuracy of each class (%)")
    which = "" if len(names) <= MOST_CLASSES else (
        f" Of {len(names)} classes the {MOST_CLASSES} in which the models differ most." if len(models) > 1
        else f" Of {len(names)} classes the {MOST_CLASSES} hardest.")  # fmt: skip
    parts = [
        table,
        context.picture("classes", figure, "Accuracy of each class", f"Means over seeds.{which}{context.restriction}"),
    ]
    if context.main_pairs:
        parts.append(_most_different(context, support))
    parts += _confusions(context)
    return Section("Classes", parts)


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def _most_different(context: Context, support: np.ndarray) -> Table:
    names, rows = context.cohort.class_names, []
    for pair in context.main_pairs:
        first, second = class_accuracy(pair.first), class_accuracy(pair.second)
        gap = np.nan_to_num(first - second)
        rows += [
            [pair.variants, names[i], str(support[i]), _percent(first[i]), _percent(second[i]), f"{100 * gap[i]:+.1f}"]
            for i in np.argsort(-np.abs(gap), kind="stable")[:MOST_DIFFERENT]
            if gap[i]
        ]
    columns = ["models", "class", "images", "first (%)", "second (%)", "difference (points)"]
    note = "Chosen as the largest of many, these differences are larger than they would be on other images."
    return context.table("class_differences", "Classes in which two models differ most", columns, rows, note)


def _confusions(context: Context) -> list:
    models, names, parts = context.cohort.main, context.cohort.class_names, []
    shares = [confusion_share(model) for model in models]
    title = "Confusion matrices (per cent of each true class)"
    figure = class_pictures.draw_confusions(shares, [model.variant for model in models], names, title, signed=False)
    few = f" The first {MOST_PANELS} models are shown." if len(models) > MOST_PANELS else ""
    parts.append(
        context.picture("confusion", figure, "Confusion matrices", f"All seeds together.{few}{context.restriction}")
    )
    for i, (model, share) in enumerate(zip(models, shares, strict=True)):
        rows = [[name, *(f"{100 * value:.2f}" for value in share[j])] for j, name in enumerate(names)]
        title = f"Confusion matrix of {model.variant} (per cent of each true class)"
        parts.append(context.table(f"confusion_{i + 1}", title, ["true class", *names], rows, shown=False))
    pairs = few_pairs(context)
    if pairs:
        figure = class_pictures.draw_confusions(
            [confusion_share(pair.first) - confusion_share(pair.second) for pair in pairs],
            [pair.variants for pair in pairs], names, "Differences of confusion matrices", signed=True,
        )  # fmt: skip
        which = (
            "" if len(pairs) == len(context.pairs[context.cohort.fractions[0]]) else f" {len(pairs)} pairs are shown."
        )
        parts.append(context.picture("confusion_differences", figure, "Differences of confusion matrices",
            "Blue: the first model gives that answer more often. On the diagonal that is good, beside it bad."
            f"{which}{context.restriction}"))  # fmt: skip
    return parts


def few_pairs(context: Context) -> list[Pair]:
    """As many pairs as one picture shows: all, or those of the best model."""
    pairs = context.pairs[context.cohort.fractions[0]]
    if len(pairs) > 3 and context.baseline is None:
        best = context.cohort.best(context.metric, context.cohort.fractions[0])
        pairs = [pair for pair in pairs if best in (pair.first, pair.second)]
    return pairs[:MOST_PANELS]


def kappa_between(first: Model, second: Model) -> float:
    """The mean error consistency of every run of one model with every run of the other; of a model with itself, between
    its seeds. NaN where there is no such pair, or where it is not defined."""
    same = first is second
    runs = combinations(first.runs, 2) if same else product(first.runs, second.runs)
    values = [statistics.error_consistency(a.scores.right, b.scores.right) for a, b in runs]
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else np.nan


def consistency(context: Context) -> Section | None:
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
        rows.append(
            [
                pair.variants,
                *(two_places(kappa[place]) for place in ((i, j), (i, i), (j, j))),
                f"{100 * np.mean(wrong):.2f}",
            ]
        )
    columns = ["models", "κ between them", "κ within the first", "κ within the second", "both wrong (%)"]
    note = (
        "Error consistency (Geirhos et al. 2020): Cohen's κ of right and wrong answers to the same images; 1: they fail"
        " on the same images, 0: as often on the same as two that fail independently. Within a model: between its"
        f" seeds, against which the value between two models is to be held.{context.restriction}"
    )
    parts = [context.table("error_consistency", "Do they fail on the same images?", columns, rows, note)]
    if np.isfinite(kappa).any():
        figure = class_pictures.draw_consistency(kappa, models, "Error consistency")
        text = "Cohen's κ of right and wrong answers; on the diagonal between seeds of one model."
        parts.append(context.picture("error_consistency", figure, "Error consistency between models", text))
    return Section("Common errors", parts)


def calibration(context: Context) -> Section:
    models = context.cohort.main[:8]
    figure = class_pictures.draw_reliability(models, "Reliability: accuracy over confidence")
    few = " The first 8 models are shown." if len(context.cohort.main) > 8 else ""
    rows, data = [], []
    for model in context.cohort.main:
        for bin_, (share, confidence, accuracy) in enumerate(zip(*class_pictures.reliability(model), strict=True)):
            data.append(
                {
                    "model": model.variant,
                    "bin": bin_ + 1,
                    "images": share,
                    "confidence": confidence,
                    "accuracy": accuracy,
                }
            )
            rows.append([model.variant, str(bin_ + 1), _percent(share), _percent(confidence), _percent(accuracy)])
    columns = ["model", "bin", "images (%)", "confidence (%)", "accuracy (%)"]
    title = "The bins of the reliability diagram"
    table = context.table("reliability", title, columns, rows, "", data, shown=False)
    text = (
        "All seeds together, 15 bins of equal width. Under the diagonal a model is surer than it should be. ECE is the"
        f" mean distance from it, each bin weighted by its images.{few}{context.restriction}"
    )
    return Section("Calibration", [context.picture("reliability", figure, "Reliability diagrams", text), table])
