"""Two models against each other: differences with their intervals, tests, and what they allow to be said."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from comparison import statistics
from comparison.groups import Cohort, Model, percent
from comparison.metric_names import METRICS
from comparison.metrics import MAP_LIMIT
from comparison.statistics import LEVEL, Difference, Interval
from utils import decimal

ORDER = list(METRICS)


class Resampled:
    """Every metric of every run of a cohort on the same resampled splits."""

    def __init__(self, cohort: Cohort, resamples: int = statistics.RESAMPLES):
        runs = cohort.runs
        with_map = len(cohort.targets) * len(cohort.class_names) <= MAP_LIMIT
        values = statistics.resample_images(
            len(cohort.targets),
            lambda counts: np.array([list(run.scores.values(counts, with_map).values()) for run in runs]),
            resamples,
        )
        self._of_run = {id(run): values[i] for i, run in enumerate(runs)}  # (metrics, resamples) each

    def mean(self, runs, metric: str) -> np.ndarray:
        """(resamples,): the mean of these runs on each split."""
        row = ORDER.index(metric)
        return np.mean([self._of_run[id(run)][row] for run in runs], axis=0)


@dataclass
class Pair:
    """Two models with the same share of the training data, first minus second.

    Attributes:
        differences, on_images: by metric, over seeds, and the interval over images.
        adjusted: by metric, the p-value after Holm's correction over all pairs.
        mcnemar: of each compared pair of runs: (seed of the first, only the first right, only the second right, p).
        needed: pairs of seeds that would show `effect`, or None.
    """

    first: Model
    second: Model
    seeds: list[int]
    differences: dict[str, Difference]
    on_images: dict[str, Interval]
    mcnemar: list[tuple[int, int, int, float]]
    mcnemar_p: float
    needed: int | None
    effect: float
    adjusted: dict[str, float] = field(default_factory=dict)
    mcnemar_adjusted: float = math.nan
    tests: int = 1

    @property
    def title(self) -> str:
        return f"{self.first.variant} – {self.second.label}"

    @property
    def variants(self) -> str:
        return f"{self.first.variant} – {self.second.variant}"


def compare_all(
    models: list[Model], resampled: Resampled, metric: str, effect: float, baseline: str | None = None
) -> list[Pair]:
    """Every pair of `models`, with p-values that are corrected for the number of pairs.

    Args:
        effect: the smallest difference in `metric` that matters, as a fraction of 1 (of the loss: in nats).
        baseline: the variant that every other one is compared with; None: all are compared with each other.
    """
    chosen = [tuple(sorted(pair, key=lambda model: model.variant == baseline)) for pair in combinations(models, 2)
              if baseline is None or baseline in (pair[0].variant, pair[1].variant)]  # fmt: skip
    pairs = [_compare(first, second, resampled, metric, effect, len(chosen)) for first, second in chosen]
    for name in METRICS:
        for pair, p in zip(pairs, statistics.holm([pair.differences[name].p for pair in pairs]), strict=True):
            pair.adjusted[name] = p
    for pair, p in zip(pairs, statistics.holm([pair.mcnemar_p for pair in pairs]), strict=True):
        pair.mcnemar_adjusted = p
    return pairs


def matched(first: Model, second: Model) -> tuple[list[int], list]:
    """(the seeds that both models have, the pairs of runs to be held against each other): those of the same seed; where
    there is no such seed, the runs in their order."""
    seeds = sorted(set(first.seeds) & set(second.seeds))
    if seeds:
        return seeds, [(first.of_seed(seed), second.of_seed(seed)) for seed in seeds]
    return [], list(zip(first.runs, second.runs, strict=False))


def _compare(first: Model, second: Model, resampled: Resampled, metric: str, effect: float, tests: int) -> Pair:
    seeds, runs = matched(first, second)
    differences, on_images = {}, {}
    for name in METRICS:
        by_seed = [dict(zip(model.seeds, model.values(name), strict=True)) for model in (first, second)]
        differences[name] = statistics.seed_difference(*by_seed)
        sides = zip(*runs, strict=True) if seeds and differences[name].test != "Welch's t test" else None
        ours, theirs = sides or (first.runs, second.runs)
        on_images[name] = statistics.image_interval(resampled.mean(ours, name) - resampled.mean(theirs, name))
    exact = [(a.seed, *statistics.mcnemar(a.scores.right, b.scores.right)) for a, b in runs]
    paired = [a.metric(metric) - b.metric(metric) for a, b in runs] if seeds else []
    return Pair(
        first, second, seeds, differences, on_images, exact, statistics.combine([p for *_, p in exact]),
        statistics.seeds_needed(paired, effect, tests), effect, tests=tests,
    )  # fmt: skip


def sentence(pair: Pair, metric: str) -> str:
    """What may be said of two models, in plain words."""
    several = pair.first.label != pair.first.variant
    lead = f"With {percent(pair.first.fraction)} of the training images: " if several else ""
    said = _sentence(pair, metric)
    return lead + (said.replace("Between", "between", 1) if lead and said.startswith("Between ") else said)


def _sentence(pair: Pair, metric: str) -> str:
    kind, found, p = METRICS[metric], pair.differences[metric], pair.adjusted[metric]
    if math.isnan(found.mean):
        return f"{kind.title} of {pair.first.variant} and {pair.second.variant} is not defined for these classes."
    better_first = (found.mean > 0) == kind.more_is_better
    better, worse = (pair.first, pair.second) if better_first else (pair.second, pair.first)
    size = decimal(kind.scale * abs(found.mean), _decimals(metric))
    what = f"{kind.unit} of {kind.title}"
    if math.isnan(found.interval.low):
        return _without_interval(pair, metric, better.variant, worse.variant, size, what)
    half = decimal(kind.scale * found.interval.half, _decimals(metric))
    tested = f"{_p_name(pair)} = {show_p(p)}, {_count(pair, found)}".replace("= <", "<")
    if p < LEVEL:
        lead = f"{better.variant} is better than {worse.variant} by {size} ± {half} {what}"
        return f"{lead}, {tested}{_on_images(pair, metric)}."
    known = f"Between {better.variant} and {worse.variant} no difference can be shown: {size} ± {half} {what}, {tested}"
    return f"{known}; {_advice(pair, metric)}."


def _without_interval(pair: Pair, metric: str, better: str, worse: str, size: str, what: str) -> str:
    found = pair.differences[metric]
    if found.test == "no spread over seeds":
        same = f"{better} and {worse} have the same result with every seed" if not found.mean else (
            f"{better} is {size} {what} ahead of {worse} with every one of {len(pair.seeds)} seeds")  # fmt: skip
        return f"{same}: without a spread over seeds there is no interval and no t test."
    lead = f"{better} has {size} {what} more than {worse}" if METRICS[metric].more_is_better else (
        f"{better} has {size} {what} less than {worse}")  # fmt: skip
    lead = lead if found.mean else f"{better} and {worse} have the same {METRICS[metric].title}"
    p = f"{_p_name(pair)} = {show_p(pair.mcnemar_adjusted)}".replace("= <", "<")
    tested = f"{p} by McNemar's exact test on the same images"
    if not pair.seeds:
        seeds = "with no seed in common and too few for an interval"
    else:
        alone = len(pair.first.runs) == len(pair.second.runs) == 1
        seeds = "with one seed each" if alone else "with the one seed that both have"
    return f"{lead} {seeds} ({tested}); whether other seeds would say the same is not known."


def _p_name(pair: Pair) -> str:
    return "Holm-corrected p" if pair.tests > 1 else "p"


def _count(pair: Pair, found: Difference) -> str:
    if found.test == "paired t test":
        return f"n = {len(pair.seeds)}"
    return f"n = {len(pair.first.runs)} and {len(pair.second.runs)}, not paired"


def _on_images(pair: Pair, metric: str) -> str:
    """A reservation where the difference could lie in the choice of test images."""
    low, high = pair.on_images[metric]
    if not low <= 0 <= high:
        return ""
    scale, places = METRICS[metric].scale, _decimals(metric)
    return (
        " on these images; on others it may vanish"
        f" ({decimal(scale * low, places)} to {decimal(scale * high, places)} over images)"
    )


def _advice(pair: Pair, metric: str) -> str:
    kind = METRICS[metric]
    wanted = f"one of {kind.scale * pair.effect:g} {kind.unit}"
    if pair.differences[metric].test != "paired t test":
        return f"how many seeds would show {wanted} is known only where models have seeds in common"
    if pair.needed is None:
        return f"more than {statistics.MOST_SEEDS:,} seeds would be needed to show {wanted}"
    more = pair.needed - len(pair.seeds)
    if more <= 0:
        return f"these seeds would probably have shown {wanted}"
    return f"about {more} more seed{'s' * (more > 1)} would show {wanted}"


def _decimals(metric: str) -> int:
    return 2 if METRICS[metric].scale == 100 else 4


def show_p(p: float) -> str:
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
