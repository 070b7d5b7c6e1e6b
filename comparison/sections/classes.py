"""The section "Classes": the accuracy of each class, and confusion matrices."""

from __future__ import annotations

import numpy as np

from comparison.cohorts import Model
from comparison.context import MAX_PANELS, Context
from comparison.document import Part, Section, Table
from comparison.drawing import INK, WIDTH, finish_heat_map, head, model_ticks, new_panels
from comparison.formats import in_percent
from records import plots

MAX_ROWS = 20  # with more classes their table is in a file only
MAX_CLASSES = 30  # rows of the heat map
MAX_NUMBERED = 10  # with more classes the cells of confusion matrices have no numbers
MAX_DIFFERENT = 3  # classes reported for each pair


def section(context: Context) -> Section:
    """A table and a heat map of accuracies, the largest differences of each pair, and confusion matrices."""
    models, names = context.cohort.main, context.cohort.class_names
    accuracy = np.array([class_accuracy(model) for model in models])  # (M, K)
    support = np.bincount(context.cohort.targets, minlength=len(names))
    rows = [[name, str(support[i]), *(in_percent(value) for value in accuracy[:, i])] for i, name in enumerate(names)]
    exact = [dict(zip((m.variant for m in models), column.tolist(), strict=True)) for column in accuracy.T]
    data = [{"class": name, "images": int(support[i]), **exact[i]} for i, name in enumerate(names)]
    published = [one for one in context.published if one.per_class]
    for one in published:
        for name, row, figures in zip(names, rows, data, strict=True):
            row.append(in_percent(one.per_class.get(name, np.nan)))
            figures[one.label] = one.per_class.get(name)
    means = "All folds together, means over seeds." if context.cohort.folds else "Means over seeds."
    columns = ["class", "images", *(m.variant for m in models), *(one.label for one in published)]
    table = context.table("classes", "Accuracy of each class (%)", columns, rows,
                          f"{means}{context.restriction}", data, shown=len(names) <= MAX_ROWS)  # fmt: skip
    figure = draw_classes(models, names, "Accuracy of each class (%)")
    which = "" if len(names) <= MAX_CLASSES else (
        f" Of {len(names)} classes the {MAX_CLASSES} in which the models differ most." if len(models) > 1
        else f" Of {len(names)} classes the {MAX_CLASSES} hardest.")  # fmt: skip
    text = f"{means}{which}{context.restriction}"
    parts: list[Part] = [table, context.picture("classes", figure, "Accuracy of each class", text)]
    if context.main_pairs:
        parts.append(_most_different(context, support))
    parts += _confusions(context)
    return Section("Classes", parts)


def _most_different(context: Context, support: np.ndarray) -> Table:
    names, rows = context.cohort.class_names, []
    for pair in context.main_pairs:
        first, second = class_accuracy(pair.first), class_accuracy(pair.second)
        gap = np.nan_to_num(first - second)
        for i in np.argsort(-np.abs(gap), kind="stable")[:MAX_DIFFERENT]:
            if gap[i]:
                accuracies = in_percent(float(first[i])), in_percent(float(second[i]))
                rows.append([pair.variants, names[i], str(support[i]), *accuracies, f"{100 * gap[i]:+.1f}"])
    columns = ["models", "class", "images", "first (%)", "second (%)", "difference (points)"]
    note = "Chosen as the largest of many, these differences are larger than they would be on other images."
    return context.table("class_differences", "Classes in which two models differ most", columns, rows, note)


def class_accuracy(model: Model) -> np.ndarray:
    """(K,): the accuracy of each class, as a mean over seeds."""
    return np.mean([run.scores.per_class() for run in model.runs], axis=0)


def draw_classes(models: list[Model], class_names: list[str], title: str):
    """A heat map of accuracies. With many classes: those in which models differ most, or a single model's hardest."""
    accuracy = 100 * np.array([class_accuracy(model) for model in models])  # (M, K)
    rank = np.ptp(accuracy, axis=0) if len(models) > 1 else -accuracy[0]
    shown = np.sort(np.argsort(-np.nan_to_num(rank, nan=-1e9), kind="stable")[:MAX_CLASSES])
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
    model_ticks(axis.xaxis, models)
    finish_heat_map(figure, axis, picture, "accuracy (%)", title)
    return figure


def _confusions(context: Context) -> list[Part]:
    models, names = context.cohort.main, context.cohort.class_names
    shares = [confusion_share(model) for model in models]
    title = "Confusion matrices (per cent of each true class)"
    figure = draw_confusions(shares, [model.variant for model in models], names, title, signed=False)
    few = f" The first {MAX_PANELS} models are shown." if len(models) > MAX_PANELS else ""
    text = f"All runs together.{few}{context.restriction}"
    parts: list[Part] = [context.picture("confusion", figure, "Confusion matrices", text)]
    for i, (model, share) in enumerate(zip(models, shares, strict=True)):
        rows = [[name, *(f"{100 * value:.2f}" for value in share[j])] for j, name in enumerate(names)]
        title = f"Confusion matrix of {model.variant} (per cent of each true class)"
        parts.append(context.table(f"confusion_{i + 1}", title, ["true class", *names], rows, shown=False))
    pairs = context.few_pairs
    if pairs:
        figure = draw_confusions(
            [confusion_share(pair.first) - confusion_share(pair.second) for pair in pairs],
            [pair.variants for pair in pairs], names, "Differences of confusion matrices", signed=True,
        )  # fmt: skip
        all_shown = len(pairs) == len(context.pairs[context.cohort.fractions[0]])
        which = "" if all_shown else f" {len(pairs)} pairs are shown."
        text = ("Blue: the first model gives that answer more often. On the diagonal that is good, beside it bad."
                f"{which}{context.restriction}")  # fmt: skip
        parts.append(context.picture("confusion_differences", figure, "Differences of confusion matrices", text))
    return parts


def confusion_share(model: Model) -> np.ndarray:
    """(K, K): row = true class, column = its share with this prediction, over all seeds; 0 without images."""
    total = np.sum([run.scores.confusion() for run in model.runs], axis=0)
    return total / np.maximum(total.sum(1, keepdims=True), 1)


def draw_confusions(shares: list[np.ndarray], titles: list[str], class_names: list[str], title: str, signed: bool):
    """Confusion matrices side by side, in per cent of the true class.

    Args:
        shares: (K, K) each.
        signed: whether they are differences between two models.
    """
    shares, k = shares[:MAX_PANELS], len(class_names)
    columns = 2 if k > MAX_NUMBERED or len(shares) == 4 else 3
    columns = min(columns, len(shares))
    width = min(WIDTH, 5.2 * columns)
    figure, grid = new_panels(len(shares), columns, width, above=0.7, height=0.35 + 0.82 * width / columns)
    top = max(float(np.abs(share).max()) for share in shares) or 1.0
    pictures = []
    for n, (axis, share) in enumerate(zip(grid.flat, shares, strict=False)):
        if signed:
            pictures.append(axis.imshow(100 * share, cmap="RdBu", vmin=-100 * top, vmax=100 * top))
        else:  # the square root keeps rare confusions visible
            pictures.append(axis.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1))
        _confusion_ticks(axis, class_names, n % columns == 0)
        if k <= MAX_NUMBERED:
            _confusion_numbers(axis, 100 * share, signed, 100 * top)
        axis.set_title(plots.plain(titles[n], 48), loc="left", fontsize=9)
        axis.spines[:].set_visible(False)
    bar = figure.colorbar(pictures[-1], ax=grid, fraction=0.03, pad=0.02, shrink=0.7)
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
