"""Differences between two models: their intervals over seeds (or folds) and over images, and their tests."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from comparison import statistics
from comparison.cohorts import Cohort, Model
from comparison.formats import folds_and_seeds
from comparison.metric_names import METRICS
from comparison.metrics import MAP_LIMIT
from comparison.statistics import Difference, Interval

ORDER = list(METRICS)


class Resampled:
    """Every metric of every run of a cohort, on the same resampled splits for all runs."""

    def __init__(self, cohort: Cohort, resamples: int = statistics.RESAMPLES):
        runs = cohort.runs
        with_map = len(cohort.targets) * len(cohort.class_names) <= MAP_LIMIT
        values = statistics.resample_images(
            len(cohort.targets),
            lambda counts: np.array([run.resampled(counts, with_map) for run in runs]),
            resamples,
        )
        self._of_run = {id(run): values[i] for i, run in enumerate(runs)}  # (metrics, resamples) each

    def mean(self, runs, metric: str) -> np.ndarray:
        """(resamples,): the mean over these runs on each split."""
        row = ORDER.index(metric)
        return np.mean([self._of_run[id(run)][row] for run in runs], axis=0)


@dataclass
class Pair:
    """Two models trained on the same share of the data. Differences are first minus second.

    Attributes:
        seeds: those that both models have.
        differences: over seeds, or over folds, by metric.
        on_images: the interval over images, by metric.
        mcnemar: for each compared pair of runs (seed of the first, images only the first gets right, images only the
            second gets right, p).
        mcnemar_p: the p-values of `mcnemar` combined.
        seeds_needed: pairs of seeds that would show `effect`. None: unknown, or more than MAX_SEEDS; of folds always.
        adjusted: the p-value after Holm's correction over all pairs, by metric.
        tests: the number of pairs that Holm's correction counts.
    """

    first: Model
    second: Model
    seeds: list[int]
    differences: dict[str, Difference]
    on_images: dict[str, Interval]
    mcnemar: list[tuple[int, int, int, float]]
    mcnemar_p: float
    seeds_needed: int | None
    effect: float
    adjusted: dict[str, float] = field(default_factory=dict)
    mcnemar_adjusted: float = math.nan
    tests: int = 1

    @property
    def title(self) -> str:
        """Both variants, with the share of the data if the cohort has several."""
        return f"{self.first.variant} – {self.second.label}"

    @property
    def variants(self) -> str:
        return f"{self.first.variant} – {self.second.variant}"

    @property
    def folds(self) -> str:
        """Of a cross-validation, what the mean difference is over: `5 folds x 2 seeds`; else empty."""
        folds = self.first.folds
        if folds and not self.seeds:
            return f"{folds} folds, with no seed in common"
        return folds_and_seeds(folds, len(self.seeds)) if folds else ""

    def values(self, metric: str) -> np.ndarray:
        """(n,): the difference with each common seed; of a cross-validation that on each fold."""
        return _differences(self.first, self.second, self.seeds, metric)


def compare_all(
    models: list[Model], resampled: Resampled, metric: str, effect: float, baseline: str | None = None
) -> list[Pair]:
    """All pairs of `models`, with p-values corrected for the number of pairs.

    Args:
        effect: the smallest difference in `metric` that matters, as a fraction of 1 (of the loss: in nats).
        baseline: the variant that all others are compared with. None: all are compared with each other.
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
    """(seeds that both models have, pairs of runs to compare).

    Runs of the same seed make a pair. Without a common seed, runs are paired in their order.
    """
    seeds = sorted(set(first.seeds) & set(second.seeds))
    if seeds:
        return seeds, [(first.of_seed(seed), second.of_seed(seed)) for seed in seeds]
    return [], list(zip(first.runs, second.runs, strict=False))


def _compare(first: Model, second: Model, resampled: Resampled, metric: str, effect: float, tests: int) -> Pair:
    seeds, runs = matched(first, second)
    differences, on_images = {}, {}
    for name in METRICS:
        if first.folds:
            by_fold = _differences(first, second, seeds, name)
            differences[name] = statistics.over_folds(by_fold, max(first.held_out, second.held_out))
        else:
            by_seed = [dict(zip(model.seeds, model.values(name), strict=True)) for model in (first, second)]
            differences[name] = statistics.seed_difference(*by_seed)
        sides = zip(*runs, strict=True) if seeds and differences[name].test != "Welch's t test" else None
        ours, theirs = sides or (first.runs, second.runs)
        on_images[name] = statistics.image_interval(resampled.mean(ours, name) - resampled.mean(theirs, name))
    exact = [(a.seed, *statistics.mcnemar(a.scores.right, b.scores.right)) for a, b in runs]
    # The power of the paired t test says nothing of folds.
    paired = [] if first.folds else _differences(first, second, seeds, metric)
    return Pair(
        first, second, seeds, differences, on_images, exact, statistics.combine([p for *_, p in exact]),
        statistics.seeds_needed(paired, effect, tests), effect, tests=tests,
    )  # fmt: skip


def _differences(first: Model, second: Model, seeds: list[int], metric: str) -> np.ndarray:
    """(n,): first - second with each of these seeds; on each fold, with these seeds or, if there are none, with all."""
    chosen = None if first.folds and not seeds else seeds
    return first.values(metric, chosen) - second.values(metric, chosen)
