"""The parts of a report that say how good models are, how they differ, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from comparison import pictures, statistics
from comparison.cost import COSTS, front
from comparison.document import Picture, Points, Section, Table
from comparison.groups import Cohort, Model, mixed_commits, mixed_precision, percent, unchecked_images
from comparison.metric_names import METRICS, Metric
from comparison.pairs import Pair, Resampled, compare_all, sentence, show_p
from comparison.study import Published
from utils import human

CONCLUSIONS = "What came out"
MOST_TOLD = 12  # pairs with the same share of the training images that are told of one by one


@dataclass
class Context:
    """One cohort with all that is computed of it, and where its pictures go.

    Attributes:
        metric: the one that models are judged by; effect: the smallest difference in it that matters.
        published: figures to be shown beside those of this cohort.
        prefix: of file names, where a report has several cohorts.
        baseline: the variant that all others are compared with; None: all with each other.
    """

    cohort: Cohort
    metric: str
    effect: float
    published: list[Published]
    folder: Path
    prefix: str = ""
    baseline: str | None = None
    resampled: Resampled = field(init=False)
    pairs: dict[float, list[Pair]] = field(init=False)

    def __post_init__(self):
        self.resampled = Resampled(self.cohort)
        self.pairs = {
            fraction: compare_all(self.cohort.at(fraction), self.resampled, self.metric, self.effect, self.baseline)
            for fraction in self.cohort.fractions
        }

    @property
    def kind(self) -> Metric:
        return METRICS[self.metric]

    @property
    def all_pairs(self) -> list[Pair]:
        return [pair for pairs in self.pairs.values() for pair in pairs]

    def highlighted(self, fraction: float) -> list[Pair]:
        """The pairs that are told of one by one: all, or of many those with the best model."""
        pairs = self.pairs[fraction]
        if len(pairs) <= MOST_TOLD or self.baseline is not None:
            return pairs
        best = self.cohort.best(self.metric, fraction)
        return [pair for pair in pairs if best in (pair.first, pair.second)]

    @property
    def main_pairs(self) -> list[Pair]:
        """The highlighted pairs of the largest share of the training images."""
        return self.highlighted(self.cohort.fractions[0])

    @property
    def told(self) -> list[Pair]:
        return [pair for fraction in self.cohort.fractions for pair in self.highlighted(fraction)]

    @property
    def selection(self) -> str:
        """What is to be said where not all pairs are shown."""
        all_shown = len(self.told) == len(self.all_pairs)
        return "" if all_shown else " Of all pairs those with the best model are shown; the CSV file has all."

    @property
    def restriction(self) -> str:
        """What is to be said where only the models with the largest share of the data are shown."""
        share = self.cohort.fractions[0]
        return f" Shown: models trained on {percent(share)} of the data." if len(self.cohort.fractions) > 1 else ""

    def picture(self, name: str, figure, title: str, text: str, vector: bool = True) -> Picture:
        pictures.save(figure, self.folder, self.prefix + name, vector)
        return Picture(self.prefix + name, title, text, vector)

    def table(self, name: str, *args, **kwargs) -> Table:
        return Table(self.prefix + name, *args, **kwargs)


def conclusions(context: Context) -> Section:
    items = [sentence(pair, context.metric) for pair in context.told]
    if len(context.told) < len(context.all_pairs):
        shown = sum(pair.adjusted[context.metric] < statistics.LEVEL for pair in context.all_pairs)
        items.append(
            f"These are the pairs with the best model. Of all {len(context.all_pairs)} pairs, {shown} differ with"
            f" p < 0.05 after Holm's correction; tables/{context.prefix}differences.csv has them. So many pairs hide"
            " all but large differences: --baseline MODEL compares each model with one."
        )
    single = [model.label for model in context.cohort.models if len(model.runs) == 1]
    if single:
        items.append(f"One seed only, and so no interval over seeds: {', '.join(single)}.")
    items += mixed_precision(context.cohort) + mixed_commits(context.cohort) + unchecked_images(context.cohort)
    if not context.all_pairs:
        items.append("There is one model, so nothing to compare it with.")
    return Section(CONCLUSIONS, [Points(items)])


def quality(context: Context) -> Section:
    kind = context.kind
    title = f"{kind.title} of each model"
    figure = pictures.draw_quality(context.cohort, context.resampled, context.metric, context.published, title)
    text = (
        "The thick bar is the 95 % interval of the mean over seeds (Student t): what other trainings may give. The thin"
        " one is the 95 % interval over images (bootstrap): what other test images may give these networks."
    )
    picture = context.picture("quality", figure, title, text)
    parts: list = [_main_table(context)]
    if context.published:
        parts.append("Published figures were not measured here, and are part of no test:")
        parts.append(Points([f"{one.name}: {one.source}. {one.note}".strip() for one in context.published]))
    return Section("Quality", [*parts, picture, _all_metrics(context), _image_intervals(context)])


def _over_seeds(model: Model, metric: str) -> str:
    half = statistics.seed_interval(model.values(metric)).half
    kind = METRICS[metric]
    return kind.show(model.mean(metric)) + ("" if np.isnan(half) else f" ± {kind.show(half)}")


def _over_images(context: Context, model: Model, metric: str) -> str:
    low, high = statistics.image_interval(context.resampled.mean(model.runs, metric))
    kind = METRICS[metric]
    return "–" if np.isnan(low) else f"{kind.show(low)} to {kind.show(high)}"


def _main_table(context: Context) -> Table:
    kind = context.kind
    columns = ["model", "n", f"{kind.heading}, ± over seeds", "over images", "selected on", "measured on", "best epoch"]
    rows = []
    for model in context.cohort.models:
        epochs = [run.summary["best_epoch"] for run in model.runs]
        span = f"{min(epochs)}" if min(epochs) == max(epochs) else f"{min(epochs)}–{max(epochs)}"
        by = {run.summary.get("selected_by") for run in model.runs} - {None}
        rows.append([
            model.label, str(len(model.runs)), _over_seeds(model, context.metric),
            _over_images(context, model, context.metric),
            context.cohort.selected_on + (f" (by {', '.join(sorted(by))})" if by else ""), context.cohort.split,
            f"{span} of {model.runs[0].summary['epochs']}",
        ])  # fmt: skip
    rows += [[one.label, "–", kind.show(one.metrics[context.metric]), *["–"] * 4]
             for one in context.published if context.metric in one.metrics]  # fmt: skip
    note = "n: seeds. ±: half of the 95 % Student t interval of the mean; with one seed, or one result, there is none."
    return context.table("models", f"{kind.title} of each model", columns, rows, note, data=_metric_data(context))


def _metric_data(context: Context) -> list[dict[str, Any]]:
    """A row for each model and metric, with all digits."""
    rows = []
    for model in context.cohort.models:
        for name in METRICS:
            seeds = statistics.seed_interval(model.values(name))
            images = statistics.image_interval(context.resampled.mean(model.runs, name))
            rows.append({
                "model": model.variant, "train_fraction": model.fraction, "metric": name, "kind": "measured",
                "n": len(model.runs), "mean": model.mean(name), "seeds_low": seeds.low, "seeds_high": seeds.high,
                "images_low": images.low, "images_high": images.high, "source": "",
            })  # fmt: skip
    for one in context.published:
        for name, value in one.metrics.items():
            rows.append({**dict.fromkeys(rows[0], ""), "model": one.name, "metric": name, "kind": "published",
                         "mean": value, "source": one.source})  # fmt: skip
    return rows


def _all_metrics(context: Context) -> Table:
    columns = ["model", "n", *(kind.heading for kind in METRICS.values())]
    rows = [[model.label, str(len(model.runs)), *(_over_seeds(model, name) for name in METRICS)]
            for model in context.cohort.models]  # fmt: skip
    rows += [[one.label, "–", *(kind.show(one.metrics.get(name)) for name, kind in METRICS.items())]
             for one in context.published if one.metrics]  # fmt: skip
    note = "Means over seeds ± half of their 95 % interval. Precision, recall, F1 and mAP are means over classes."
    return context.table("metrics", "All metrics, with their doubt over seeds", columns, rows, note)


def _image_intervals(context: Context) -> Table:
    columns = ["model", *(kind.heading for kind in METRICS.values())]
    rows = [[model.label, *(_over_images(context, model, name) for name in METRICS)] for model in context.cohort.models]
    note = (
        "95 % percentile intervals over test images of the means above, the networks as they are. mAP and ECE are no"
        " means over images, and images that are drawn twice raise them: their intervals lie somewhat high."
    )
    return context.table("metrics_over_images", "All metrics, with their doubt over images", columns, rows, note)


def differences(context: Context) -> Section | None:
    pairs, kind, metric = context.told, context.kind, context.metric
    if not pairs:
        return None
    scale = kind.scale
    columns = ["models", "n", f"difference ({kind.unit})", "over images", "p", "p (Holm)", "only first / second right",
               "McNemar p", "McNemar p (Holm)"]  # fmt: skip
    rows = []
    for pair in pairs:
        found, half = pair.differences[metric], pair.differences[metric].interval.half
        low, high = (scale * edge for edge in pair.on_images[metric])
        places = 2 if scale == 100 else 4
        rows.append([
            pair.title, str(len(pair.seeds)) if found.test != "Welch's t test" else "not paired",
            f"{scale * found.mean:+.{places}f}" + ("" if np.isnan(half) else f" ± {scale * half:.{places}f}"),
            f"{low:+.{places}f} to {high:+.{places}f}" if not np.isnan(low) else "–",
            show_p(found.p), show_p(pair.adjusted[metric]),
            f"{np.mean([a for _, a, _, _ in pair.mcnemar]):.1f} / {np.mean([b for _, _, b, _ in pair.mcnemar]):.1f}",
            show_p(pair.mcnemar_p), show_p(pair.mcnemar_adjusted),
        ])  # fmt: skip
    note = (
        "p: t test over seeds, paired by seed where both models have at least two in common. McNemar: the exact test of"
        " top-1 on the same images, for each pair of runs; the p-values of several seeds are combined by their median,"
        " at most doubled, which holds however they depend on each other. Holm: corrected for all pairs with the same"
        f" share of the training images.{context.selection}"
    )
    data = _difference_data(context.all_pairs)
    table = context.table("differences", "Models against each other", columns, rows, note, data=data)
    figure = pictures.draw_differences(pairs, metric, f"Differences in {kind.title}")
    more = (
        f" The first {pictures.MOST_PAIRS} pairs are shown." if len(pairs) > pictures.MOST_PAIRS else context.selection
    )
    text = ("Thick: 95 % over seeds, in colour where the difference is shown after Holm's correction. Thin: 95 % over"
            f" test images.{more}")  # fmt: skip
    exact = [[pair.title, str(seed), str(a), str(b), f"{p:.4g}"]
             for pair in context.all_pairs for seed, a, b, p in pair.mcnemar]  # fmt: skip
    columns = ["models", "seed", "only first right", "only second right", "p"]
    by_seed = context.table("mcnemar", "McNemar's test of each pair of runs", columns, exact, shown=False)
    return Section(
        "Differences", [table, context.picture("differences", figure, f"Differences in {kind.title}", text), by_seed]
    )


def _difference_data(pairs: list[Pair]) -> list[dict[str, Any]]:
    rows = []
    for pair in pairs:
        for name, found in pair.differences.items():
            rows.append({
                "first": pair.first.variant, "second": pair.second.variant, "train_fraction": pair.first.fraction,
                "metric": name, "pairs": len(pair.seeds), "test": found.test, "difference": found.mean,
                "seeds_low": found.interval.low, "seeds_high": found.interval.high,
                "images_low": pair.on_images[name].low, "images_high": pair.on_images[name].high, "p": found.p,
                "p_holm": pair.adjusted[name], "mcnemar_p": pair.mcnemar_p, "mcnemar_p_holm": pair.mcnemar_adjusted,
            })  # fmt: skip
    return rows


def cost(context: Context) -> Section:
    models, kind = context.cohort.main, context.kind
    shown = [item for item in COSTS if any(item.of(model) is not None for model in models)]
    columns = [
        "model",
        kind.heading,
        *(f"{item.title}{f' ({item.unit})' if item.unit not in ('', 'B') else ''}" for item in shown),
        "efficient in",
    ]
    efficient: dict[int, list[str]] = {i: [] for i in range(len(models))}
    for item in shown if len(models) > 1 else ():
        spent = [item.of(model) for model in models]
        if None not in spent:
            best = front(np.array(spent), np.array([model.mean(context.metric) for model in models]),
                         item.more_is_better, kind.more_is_better)  # fmt: skip
            for i in best:
                efficient[int(i)].append(item.title)
    rows = [[model.variant, kind.show(model.mean(context.metric)), *(item.show(model) for item in shown),
             ", ".join(efficient[i]) or "–"] for i, model in enumerate(models)]  # fmt: skip
    rows += [[one.label, kind.show(one.metrics.get(context.metric)),
              *(f"{human(one.params)}".strip() if item.key == "params" else "–" for item in shown), "–"]
             for one in context.published if one.params]  # fmt: skip
    data = [{"model": model.variant, context.metric: model.mean(context.metric),
             **{item.key: item.of(model) for item in shown}} for model in models]  # fmt: skip
    devices = sorted(
        {str(run.cost["device"]) for model in models for run in model.runs if run.cost and "device" in run.cost}
    )
    measured = f" Measured alone on {' and '.join(devices)}." if devices else ""
    measured += " Figures of different machines cannot be compared." if len(devices) > 1 else ""
    note = (
        "Means over runs. Of the training: what the whole of it took, validation included, on the machine that each run"
        f" had.{measured} Efficient in: no other model is at least as good and as cheap, and better in one of the two."
        f"{context.restriction}"
    )
    parts: list = [context.table("cost", f"{kind.title} and what it costs", columns, rows, note, data=data)]
    figure = pictures.draw_cost(models, context.metric, f"{kind.title} over cost")
    if figure is not None:
        text = f"Quality beside each cost that is known of every model.{context.restriction}"
        parts.append(context.picture("cost", figure, f"{kind.title} over each cost", text))
    return Section("Cost", parts)
