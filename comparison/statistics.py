"""Statistics, by scipy and statsmodels: intervals over seeds, folds and images, tests, power."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

CONFIDENCE, LEVEL, POWER = 0.95, 0.05, 0.8
RESAMPLES = 1000
MAX_SEEDS = 1000  # nobody trains more
Values = Sequence[float] | np.ndarray


class Interval(NamedTuple):
    """The bounds of a 95 % interval."""

    low: float
    high: float

    @property
    def half(self) -> float:
        """Half of its width."""
        return (self.high - self.low) / 2


class Difference(NamedTuple):
    """The mean difference of two models over seeds or folds: its t interval, its p-value, and the test's name.

    Interval and p-value are NaN if seeds cannot tell: with one seed, or with the same difference for every seed.
    """

    mean: float
    interval: Interval
    p: float
    test: str


NOTHING = Interval(math.nan, math.nan)


def seed_interval(values: Values) -> Interval:
    """The 95 % Student t interval of the mean over seeds; NaN with one seed, or with the same value for every seed."""
    from scipy import stats

    if len(values) < 2 or np.ptp(values) < 1e-12:
        return NOTHING
    return Interval(*map(float, stats.ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)))


def seed_difference(first: dict[int, float], second: dict[int, float]) -> Difference:
    """first - second, from values by seed: Student's paired test over common seeds; with fewer than two, Welch's test.

    A seed fixes the validation split and the order of images, so runs of one seed share them.
    """
    from scipy import stats

    common = sorted(first.keys() & second.keys())
    a, b = (np.array([values[seed] for seed in common]) for values in (first, second))
    if len(common) >= 2:
        mean, test = float((a - b).mean()), "paired t test"
        same = np.ptp(a - b) < 1e-12
        result: Any = None if same else stats.ttest_rel(a, b)
    elif min(len(first), len(second)) >= 2:
        a, b = (np.array(list(values.values())) for values in (first, second))
        mean, test = float(a.mean() - b.mean()), "Welch's t test"
        same = np.ptp(a) < 1e-12 and np.ptp(b) < 1e-12
        result = None if same else stats.ttest_ind(a, b, equal_var=False)
    else:
        pairs = (a, b) if common else [np.array(list(values.values())) for values in (first, second)]
        return Difference(float(pairs[0].mean() - pairs[1].mean()), NOTHING, math.nan, "one seed")
    if result is None:
        return Difference(mean, NOTHING, math.nan, "no spread over seeds")
    interval = Interval(*map(float, result.confidence_interval(CONFIDENCE)))
    return Difference(mean, interval, float(result.pvalue), test)


def over_folds(values: Values, held_out: float) -> Difference:
    """The mean over the folds of a cross-validation, by the corrected resampled t test.

    Folds share most of their training images, so their values are correlated, and the plain t test finds too much. The
    test takes (1/K + held_out) s² as the variance of the mean, in place of s²/K, with K - 1 degrees of freedom (Nadeau
    and Bengio, "Inference for the generalization error", Machine Learning 52, 2003).

    Args:
        values: (K,), of one model or differences of two. With several seeds each is the mean over them: the folds are
            the same for every seed, so that further seeds add no degrees of freedom.
        held_out: images of a fold, divided by those that its network trains on: 1 / (K - 1) if it trains on all others,
            and no more if on a share of them, whose overlap is smaller.
    """
    from scipy import stats

    mean, count = float(np.mean(values)), len(values)
    if np.ptp(values) < 1e-12:
        return Difference(mean, NOTHING, math.nan, "no spread over folds")
    error = math.sqrt((1 / count + held_out) * np.var(values, ddof=1))
    interval = Interval(*map(float, stats.t.interval(CONFIDENCE, count - 1, mean, error)))
    p = 2 * float(stats.t.sf(abs(mean) / error, count - 1))
    return Difference(mean, interval, p, "corrected resampled t test")


def resample_images(
    count: int, statistic: Callable[[np.ndarray], np.ndarray], resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """(..., resamples): a statistic of splits drawn with replacement from the images of a split (bootstrap).

    Args:
        count: images in the split.
        statistic: maps (B, count), how often each of B splits contains each image, to (..., B).
    """
    from scipy import stats

    def of_indices(index: np.ndarray, axis: int) -> np.ndarray:
        index = np.atleast_2d(index)
        places = index + count * np.arange(len(index))[:, None]
        counts = np.bincount(places.ravel(), minlength=count * len(index)).reshape(len(index), count)
        return statistic(counts.astype(np.float64))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a statistic may be the same in every split
        result = stats.bootstrap(
            (np.arange(count),), of_indices, vectorized=True, n_resamples=resamples, method="percentile",
            batch=max(1, min(100, 4_000_000 // count)), rng=np.random.default_rng(seed),
        )  # fmt: skip
    return result.bootstrap_distribution


def image_interval(distribution: np.ndarray) -> Interval:
    """The 95 % percentile interval of resampled values (resamples,); NaN if the statistic is not defined."""
    if not np.isfinite(distribution).all():
        return NOTHING
    tail = 100 * (1 - CONFIDENCE) / 2
    return Interval(*(float(value) for value in np.percentile(distribution, [tail, 100 - tail])))


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test (Psychometrika 12, 1947): (images only the first gets right, only the second, p)."""
    from statsmodels.stats import contingency_tables

    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    table = [[int((first_right & second_right).sum()), only_first],
             [only_second, int((~first_right & ~second_right).sum())]]  # fmt: skip
    result: Any = contingency_tables.mcnemar(table, exact=True)
    return only_first, only_second, float(result.pvalue) if only_first + only_second else 1.0


def combine(p_values: Values) -> float:
    """Combines the p-values of several seeds' tests on the same images, which are dependent in an unknown way.

    At most twice their median, which is valid for any dependence (Rueger 1978; Vovk and Wang, Biometrika 107, 2020).
    """
    ordered = sorted(p_values)
    rank = math.ceil(len(ordered) / 2)
    return min(1.0, ordered[rank - 1] * len(ordered) / rank)


def holm(p_values: Values) -> list[float]:
    """p-values adjusted for the number of tests (Holm 1979). NaN stays NaN and does not count as a test."""
    from statsmodels.stats.multitest import multipletests

    given = np.asarray(p_values, dtype=float)
    known = np.isfinite(given)
    adjusted = np.full(len(given), np.nan)
    if known.any():
        adjusted[known] = multipletests(given[known], method="holm")[1]
    return adjusted.tolist()


def seeds_needed(differences: Values, effect: float, tests: int = 1) -> int | None:
    """Pairs of seeds with which a paired t test shows a true difference of `effect` with a probability of 80 %.

    The level is 5 % divided by `tests`, the spread that of `differences`. None: more than MAX_SEEDS, or unknown.
    """
    from statsmodels.stats.power import TTestPower

    if len(differences) < 2:
        return None
    spread = float(np.std(differences, ddof=1))
    if spread < 1e-12:
        return None
    counts = np.arange(2, MAX_SEEDS + 1)
    power = TTestPower().power(effect / spread, counts, LEVEL / tests, alternative="two-sided")
    enough = np.flatnonzero(
        np.nan_to_num(power, nan=1.0) >= POWER
    )  # NaN: the effect is many times larger than the spread
    return int(counts[enough[0]]) if len(enough) else None


def error_consistency(first_right: np.ndarray, second_right: np.ndarray) -> float:
    """Cohen's kappa of right and wrong (Geirhos et al. 2020, arXiv:2006.16736).

    1: both models fail on the same images; 0: they agree as often as models that fail independently; NaN: both are
    always right, or always wrong.
    """
    from statsmodels.stats.inter_rater import cohens_kappa

    table = np.zeros((2, 2))
    np.add.at(table, (first_right.astype(int), second_right.astype(int)), 1)
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore")
        kappa: Any = cohens_kappa(table, return_results=False)
    return float(kappa)
