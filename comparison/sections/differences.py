"""The section "Differences": pairs of models, with their tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from comparison import statistics
from comparison.context import Context
from comparison.document import Section
from comparison.drawing import COLOURS, INK, draw_row, finish_rows, new_rows
from comparison.formats import show_p
from comparison.metric_names import METRICS
from comparison.pairs import Pair
from records import plots

MAX_PAIRS = 28  # in one picture


def section(context: Context) -> Section | None:
    """A table and a forest plot of the reported pairs, and a file of all McNemar tests. None if there are no pairs."""
    pairs, kind, metric = context.reported, context.kind, context.metric
    if not pairs:
        return None
    columns = ["models", "n", f"difference ({kind.unit})", "over images", "p", "p (Holm)", "only first / second right",
               "McNemar p", "McNemar p (Holm)"]  # fmt: skip
    over = context.cohort.over
    tested = (
        "corrected resampled t test over folds, each fold's difference the mean over common seeds" if over == "folds"
        else "t test over seeds, paired by seed where both models have at least two in common"
    )  # fmt: skip
    note = (
        f"p: {tested}. McNemar: the exact test of"
        " top-1 on the same images, for each pair of runs; the p-values of several seeds are combined by their median,"
        " at most doubled, which holds however they depend on each other. Holm: corrected for all pairs with the same"
        f" share of the training images.{context.selection}"
    )
    table = context.table("differences", "Models against each other", columns, [_row(pair, metric) for pair in pairs],
                          note, data=_data(context.all_pairs))  # fmt: skip
    more = f" The first {MAX_PAIRS} pairs are shown." if len(pairs) > MAX_PAIRS else context.selection
    text = (f"Thick: 95 % over {over}, in colour where the difference is shown after Holm's correction. Thin: 95 % over"
            f" images.{more}")  # fmt: skip
    title = f"Differences in {kind.title}"
    picture = context.picture("differences", draw_differences(pairs, metric, title), title, text)
    exact = [[pair.title, str(seed), str(a), str(b), f"{p:.4g}"]
             for pair in context.all_pairs for seed, a, b, p in pair.mcnemar]  # fmt: skip
    columns = ["models", "seed", "only first right", "only second right", "p"]
    by_seed = context.table("mcnemar", "McNemar's test of each pair of runs", columns, exact, shown=False)
    return Section("Differences", [table, picture, by_seed])


def _row(pair: Pair, metric: str) -> list[str]:
    scale, places = METRICS[metric].scale, METRICS[metric].decimals
    found, half = pair.differences[metric], pair.differences[metric].interval.half
    low, high = (scale * edge for edge in pair.on_images[metric])
    return [
        pair.title, pair.folds or (str(len(pair.seeds)) if found.test != "Welch's t test" else "not paired"),
        f"{scale * found.mean:+.{places}f}" + ("" if np.isnan(half) else f" ± {scale * half:.{places}f}"),
        f"{low:+.{places}f} to {high:+.{places}f}" if not np.isnan(low) else "–",
        show_p(found.p), show_p(pair.adjusted[metric]),
        f"{np.mean([a for _, a, _, _ in pair.mcnemar]):.1f} / {np.mean([b for _, _, b, _ in pair.mcnemar]):.1f}",
        show_p(pair.mcnemar_p), show_p(pair.mcnemar_adjusted),
    ]  # fmt: skip


def _data(pairs: list[Pair]) -> list[dict[str, Any]]:
    """A row for each pair and metric, with all digits."""
    rows = []
    for pair in pairs:
        for name, found in pair.differences.items():
            rows.append({
                "first": pair.first.variant, "second": pair.second.variant, "train_fraction": pair.first.fraction,
                "metric": name, "pairs": pair.folds or len(pair.seeds), "test": found.test, "difference": found.mean,
                f"{pair.first.over}_low": found.interval.low, f"{pair.first.over}_high": found.interval.high,
                "images_low": pair.on_images[name].low, "images_high": pair.on_images[name].high, "p": found.p,
                "p_holm": pair.adjusted[name], "mcnemar_p": pair.mcnemar_p, "mcnemar_p_holm": pair.mcnemar_adjusted,
            })  # fmt: skip
    return rows


def draw_differences(pairs: list[Pair], metric: str, title: str):
    """A forest plot: each pair's difference with both intervals."""
    kind, shown = METRICS[metric], pairs[:MAX_PAIRS]
    figure, axis = new_rows(len(shown))
    axis.axvline(0, color=INK, linewidth=1)
    for y, pair in enumerate(shown):
        found = pair.differences[metric]
        over_images, over_runs = ([kind.scale * edge for edge in edges]
                                  for edges in (pair.on_images[metric], found.interval))  # fmt: skip
        values = kind.scale * pair.values(metric)
        ink = COLOURS[0] if pair.adjusted[metric] < statistics.LEVEL else plots.MUTED
        draw_row(axis, y, over_images, over_runs, values, kind.scale * found.mean, ink, "o", size=7)
    labels = [plots.plain(pair.title, 64) for pair in shown]
    unit = " (percentage points)" if kind.scale == 100 else ""
    finish_rows(figure, axis, labels, f"difference in {kind.title}{unit}", title, pairs[0].first.over)
    return figure
