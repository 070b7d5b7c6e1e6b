"""The section "Quality": each model's metrics, with intervals over seeds (or folds) and over images."""

from __future__ import annotations

from typing import Any

import numpy as np

from comparison import statistics
from comparison.cohorts import Model
from comparison.context import Context
from comparison.document import Part, Points, Section, Table
from comparison.drawing import INK, colour, draw_row, drawn_interval, finish_rows, marker, new_rows
from comparison.metric_names import METRICS
from comparison.runs import epochs_of
from records import plots

OVER = {
    "seeds": "seeds (Student t): what other trainings may give",
    "folds": "folds (corrected resampled t): what other training images may give, and other images to score",
}
COUNTED = {
    "seeds": "n: seeds. ±: half of the 95 % Student t interval of the mean; with one seed, or one result, there is"
    " none.",
    "folds": "n: folds. ±: half of the 95 % interval of the mean over folds by the corrected resampled t test, with"
    " each fold's mean over seeds.",
}


def section(context: Context) -> Section:
    """Tables of all metrics, and a picture of the one that models are judged by, beside published figures."""
    text = (
        f"The thick bar is the 95 % interval of the mean over {OVER[context.cohort.over]}. The thin"
        " one is the 95 % interval over images (bootstrap): what other images to score may give these networks."
    )
    title = f"{context.kind.title} of each model"
    picture = context.picture("quality", draw_quality(context, title), title, text)
    parts: list[Part] = [_main_table(context)]
    if context.published:
        parts.append("Published figures were not measured here, and are part of no test:")
        parts.append(Points([f"{one.name}: {one.source}. {one.note}".strip() for one in context.published]))
    return Section("Quality", [*parts, picture, _all_metrics(context), _image_intervals(context)])


def _over_images(context: Context, model: Model, metric: str) -> str:
    low, high = statistics.image_interval(context.resampled.mean(model.runs, metric))
    kind = METRICS[metric]
    return "–" if np.isnan(low) else f"{kind.show(low)} to {kind.show(high)}"


def _main_table(context: Context) -> Table:
    kind = context.kind
    columns = ["model", "n", f"{kind.heading}, ± over {context.cohort.over}", "over images", "selected on",
               "measured on", "best epoch"]  # fmt: skip
    rows = []
    for model in context.cohort.models:
        by = {run.summary["selected_by"] for run in model.runs if run.summary.get("selected_by") is not None}
        rows.append([
            model.label, model.count, model.show(context.metric), _over_images(context, model, context.metric),
            context.cohort.selected_on + (f" (by {', '.join(sorted(by))})" if by else ""), context.cohort.split,
            epochs_of(model.trainings),
        ])  # fmt: skip
    rows += [[one.label, "–", kind.show(one.metrics[context.metric]), *["–"] * 4]
             for one in context.published if context.metric in one.metrics]  # fmt: skip
    note = COUNTED[context.cohort.over]
    return context.table("models", f"{kind.title} of each model", columns, rows, note, data=_metric_data(context))


def _metric_data(context: Context) -> list[dict[str, Any]]:
    """A row for each model and metric, with all digits."""
    rows = []
    for model in context.cohort.models:
        for name in METRICS:
            interval = model.interval(name)
            images = statistics.image_interval(context.resampled.mean(model.runs, name))
            rows.append({
                "model": model.variant, "train_fraction": model.fraction, "metric": name, "kind": "measured",
                "n": model.count, "mean": model.mean(name), f"{model.over}_low": interval.low,
                f"{model.over}_high": interval.high,
                "images_low": images.low, "images_high": images.high, "source": "",
            })  # fmt: skip
    for one in context.published:
        for name, value in one.metrics.items():
            rows.append({**dict.fromkeys(rows[0], ""), "model": one.name, "metric": name, "kind": "published",
                         "mean": value, "source": one.source})  # fmt: skip
    return rows


def _all_metrics(context: Context) -> Table:
    columns = ["model", "n", *(kind.heading for kind in METRICS.values())]
    rows = [[model.label, model.count, *map(model.show, METRICS)] for model in context.cohort.models]
    rows += [[one.label, "–", *(kind.show(one.metrics.get(name)) for name, kind in METRICS.items())]
             for one in context.published if one.metrics]  # fmt: skip
    over = context.cohort.over
    note = f"Means over {over} ± half of their 95 % interval. Precision, recall, F1 and mAP are means over classes."
    return context.table("metrics", f"All metrics, with their doubt over {over}", columns, rows, note)


def _image_intervals(context: Context) -> Table:
    columns = ["model", *(kind.heading for kind in METRICS.values())]
    rows = [[model.label, *(_over_images(context, model, name) for name in METRICS)] for model in context.cohort.models]
    note = (
        "95 % percentile intervals over images of the means above, the networks as they are. mAP and ECE are no"
        " means over images, and images that are drawn twice raise them: their intervals lie somewhat high."
    )
    return context.table("metrics_over_images", "All metrics, with their doubt over images", columns, rows, note)


def draw_quality(context: Context, title: str):
    """Each model's mean with both intervals and its seeds or folds, and published figures."""
    cohort, metric, kind = context.cohort, context.metric, context.kind
    order = list(dict.fromkeys(model.variant for model in cohort.models))
    published = [one for one in context.published if metric in one.metrics]
    alone = [one for one in published if one.variant not in order]
    figure, axis = new_rows(len(cohort.models) + len(alone))
    for y, model in enumerate(cohort.models):
        i = order.index(model.variant)
        values = kind.scale * model.values(metric)
        over_images = statistics.image_interval(context.resampled.mean(model.runs, metric))
        draw_row(axis, y, [kind.scale * edge for edge in over_images], drawn_interval(model, metric), values,
                 values.mean(), colour(i), marker(i), size=8)  # fmt: skip
    labels = [plots.plain(model.label, 44) for model in cohort.models]
    rows: dict[str | None, int] = {variant: i for i, variant in enumerate(order)}
    rows.update({model.variant: cohort.models.index(model) for model in cohort.main})
    for one in published:
        y = rows[one.variant] if one.variant in rows else len(labels) + alone.index(one)
        axis.plot(kind.scale * one.metrics[metric], y, "D", markerfacecolor="white", markeredgecolor=INK, markersize=7)
    labels += [plots.plain(one.label, 44) for one in alone]
    finish_rows(figure, axis, labels, kind.heading, title, cohort.over, bool(published))
    return figure
