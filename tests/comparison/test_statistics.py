"""Statistics against published examples, and on simulated data with a known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from comparison import statistics

# Extra hours of sleep of ten patients with two drugs (Student, Biometrika 6, 1908); the results are R's t.test.
SLEEP = ([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
SIMULATIONS = 2000
COVERED = pytest.approx(0.95, abs=0.015)


def by_seed(values, start: int = 0) -> dict[int, float]:
    return dict(enumerate(values, start))


def test_the_interval_over_seeds_is_students():
    low, high = statistics.seed_interval(SLEEP[1])
    assert (low, high) == (pytest.approx(0.8976775, abs=1e-6), pytest.approx(3.7623225, abs=1e-6))
    for values in ([0.9], [0.9, 0.9]):
        assert all(math.isnan(edge) for edge in statistics.seed_interval(values))


def test_models_with_the_same_seeds_are_compared_in_pairs():
    found = statistics.seed_difference(by_seed(SLEEP[0]), by_seed(SLEEP[1]))
    assert found.test == "paired t test" and found.mean == pytest.approx(-1.58)
    assert found.p == pytest.approx(0.002833, abs=1e-6)
    assert found.interval == (pytest.approx(-2.4598858, abs=1e-6), pytest.approx(-0.7001142, abs=1e-6))


def test_only_seeds_that_both_have_are_paired():
    found = statistics.seed_difference({0: 0.5, 1: 0.7, 2: 0.9}, {1: 0.6, 2: 0.7, 9: 0.1})
    assert found.mean == pytest.approx(0.15) and found.test == "paired t test"


def test_models_without_common_seeds_are_compared_by_welch():
    found = statistics.seed_difference(by_seed(SLEEP[0]), by_seed(SLEEP[1], start=100))
    assert found.test == "Welch's t test" and found.p == pytest.approx(0.07939, abs=1e-5)
    assert found.interval == (pytest.approx(-3.3654832, abs=1e-6), pytest.approx(0.2054832, abs=1e-6))


@pytest.mark.parametrize(("first", "second"), [([0.9], [0.8]), ([0.9, 0.8], [0.8, 0.7])])
def test_without_a_spread_over_seeds_nothing_is_said_of_other_seeds(first, second):
    """One seed, or the same difference twice, which a t test would call certain."""
    found = statistics.seed_difference(by_seed(first), by_seed(second))
    assert found.mean == pytest.approx(0.1)
    assert math.isnan(found.p) and math.isnan(found.interval.low)


def test_the_mean_over_folds_is_that_of_the_corrected_resampled_t_test():
    """By hand: mean 0.02, s² = 0.0005, times 1/5 + 1/4 an error of 0.015; p by the closed form for 4 degrees."""
    found = statistics.over_folds([0.01, 0.03, -0.01, 0.02, 0.05], held_out=1 / 4)
    assert found.test == "corrected resampled t test" and found.mean == pytest.approx(0.02)
    half = 2.776445 * 0.015  # Student's table
    assert found.interval == (pytest.approx(0.02 - half, abs=1e-8), pytest.approx(0.02 + half, abs=1e-8))
    t = 0.02 / 0.015
    share = t * t / (1 + t * t / 4)
    assert found.p == pytest.approx(1 - 0.75 * share**0.5 * (1 - share / 12))
    same = statistics.over_folds([0.01, 0.01, 0.01], held_out=1 / 2)
    assert same.test == "no spread over folds" and math.isnan(same.p) and math.isnan(same.interval.low)


def folds_of_equal_models(
    count: int = 1000, images: int = 200, folds: int = 5, features: int = 20, every: int = 1
) -> np.ndarray:
    """(count, folds): differences in accuracy of two nearest-class-mean classifiers of equal worth.

    Each sees features of its own of the same images, and learns on all other folds, which overlap, or on each
    `every`-th pair of their images.
    """
    rng = np.random.default_rng(0)
    sign = np.tile([1, -1], images // 2)  # the class
    fold = np.arange(images) // 2 % folds
    x = rng.normal(size=(count, 2, images, features)) + 0.07 * sign[:, None]
    accuracy = np.empty((count, 2, folds))
    for k in range(folds):
        held = fold == k
        learnt = np.flatnonzero(~held).reshape(-1, 2)[::every].ravel()  # an image of each class is a pair
        direction = np.einsum("n,cmnf->cmf", sign[learnt], x[:, :, learnt])
        accuracy[:, :, k] = (np.einsum("cmnf,cmf->cmn", x[:, :, held], direction) * sign[held] > 0).mean(-1)
    return accuracy[:, 0] - accuracy[:, 1]


def test_over_folds_of_equal_models_differences_are_seldom_found():
    """The plain t test finds them far too often. So does the corrected one if further seeds count as further folds."""
    from scipy import stats

    differences = folds_of_equal_models()
    plain = np.mean(stats.ttest_1samp(differences, 0, axis=1).pvalue < statistics.LEVEL)
    corrected = np.mean([statistics.over_folds(row, 1 / 4).p < statistics.LEVEL for row in differences])
    repeated = np.mean([statistics.over_folds(np.tile(row, 3), 1 / 4).p < statistics.LEVEL for row in differences])
    assert corrected <= 0.05 and plain > 0.09 and repeated > 0.09


def test_of_networks_that_learn_from_a_share_of_the_folds_differences_are_seldom_found():
    """With the ratio of these fewer images, 2.5 in place of 0.25, next to none is found, also where there are some."""
    differences = folds_of_equal_models(every=10)
    capped = np.mean([statistics.over_folds(row, 1 / 4).p < statistics.LEVEL for row in differences])
    ratio = np.mean([statistics.over_folds(row, 10 / 4).p < statistics.LEVEL for row in differences])
    assert ratio < 0.004 < capped <= 0.05


def from_table(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Which images two models get right, from counts: both, only the first, only the second, neither."""
    return (np.repeat([True, True, False, False], [both, first, second, neither]),
            np.repeat([True, False, True, False], [both, first, second, neither]))  # fmt: skip


def test_mcnemar_is_the_exact_test():
    """The example in Fay, "Two-sided exact tests and matching confidence intervals", The R Journal 2/1 (2010)."""
    only_first, only_second, p = statistics.mcnemar(*from_table(21, 2, 9, 12))
    assert (only_first, only_second) == (2, 9) and p == pytest.approx(0.06543, abs=1e-5)
    assert statistics.mcnemar(*from_table(30, 0, 0, 5)) == (0, 0, 1.0)


def test_holm_corrects_for_all_tests_and_leaves_out_what_has_no_p_value():
    found = statistics.holm([0.01, math.nan, 0.04, 0.03, 0.005])  # 0.005 x 4, 0.01 x 3, 0.03 x 2, then not less
    assert found[:1] + found[2:] == pytest.approx([0.03, 0.06, 0.06, 0.02]) and math.isnan(found[1])
    assert all(math.isnan(p) for p in statistics.holm([math.nan, math.nan]))


@pytest.mark.parametrize(("effect", "needed"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_the_seeds_that_are_needed_are_those_of_published_tables(effect, needed):
    """Paired t test, two-sided, 5 %, power 80 %: Cohen's d_z as in G*Power's examples (Faul et al. 2007)."""
    spread = np.array([-1.0, 0.0, 1.0]) * 0.03  # standard deviation 0.03
    assert statistics.seeds_needed(spread, effect * 0.03) == needed
    assert statistics.seeds_needed(spread, effect * 0.03, tests=6) > needed


def test_seeds_that_are_needed_may_be_unknown_few_or_too_many():
    assert statistics.seeds_needed([0.01], 0.005) is None
    assert statistics.seeds_needed([0.01, 0.01], 0.005) is None
    assert statistics.seeds_needed([-0.3, 0.3], 0.0005) is None
    assert statistics.seeds_needed([0.01, 0.010001], 0.5) == 2


def test_error_consistency_is_cohens_kappa():
    first, second = from_table(20, 5, 10, 15)  # a textbook's example of Cohen's kappa: 0.4
    assert statistics.error_consistency(first, second) == pytest.approx(0.4)
    assert statistics.error_consistency(first, first) == pytest.approx(1)
    assert math.isnan(statistics.error_consistency(np.ones(9, bool), np.ones(9, bool)))


def test_error_consistency_follows_geirhos():
    """(observed - expected agreement) / (1 - expected agreement), the latter for independent errors."""
    rng = np.random.default_rng(0)
    first, second = rng.random(500) < 0.9, rng.random(500) < 0.7
    expected = first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean())
    reference = ((first == second).mean() - expected) / (1 - expected)
    assert statistics.error_consistency(first, second) == pytest.approx(reference)


# ------------------------------------------------------------------------------------- simulations with a known truth


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_over_seeds_hold_the_truth_as_often_as_they_say(seeds):
    values = np.random.default_rng(seeds).normal(0.9, 0.02, (SIMULATIONS, seeds))
    intervals = np.array([statistics.seed_interval(row) for row in values])
    assert ((intervals[:, 0] <= 0.9) & (intervals[:, 1] >= 0.9)).mean() == COVERED


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0, 100], ids=["paired", "not paired"])
def test_intervals_of_differences_hold_the_truth_as_often_as_they_say(shift):
    """Paired: a seed's effect on both models is larger than all else, and cancels."""
    rng = np.random.default_rng(4)
    common = rng.normal(0, 0.05, (SIMULATIONS, 5)) if shift == 0 else 0
    first = 0.91 + common + rng.normal(0, 0.01, (SIMULATIONS, 5))
    second = 0.90 + common + rng.normal(0, 0.02, (SIMULATIONS, 5))
    found = [statistics.seed_difference(by_seed(a), by_seed(b, shift)) for a, b in zip(first, second, strict=True)]
    assert np.mean([one.interval.low <= 0.01 <= one.interval.high for one in found]) == COVERED
    assert shift or np.mean([one.interval.half for one in found]) < 0.05


@pytest.mark.parametrize("kind", ["accuracy", "loss"])
def test_intervals_over_images_hold_the_truth_as_often_as_they_say(kind):
    rng = np.random.default_rng(5)
    images = 500
    values = (
        rng.random((SIMULATIONS, images)) < 0.85 if kind == "accuracy" else rng.gamma(2.0, 0.15, (SIMULATIONS, images))
    )
    truth = 0.85 if kind == "accuracy" else 0.3
    resampled = statistics.resample_images(images, lambda counts: values.astype(float) @ counts.T / images)
    assert resampled.shape == (SIMULATIONS, statistics.RESAMPLES)
    intervals = np.array([statistics.image_interval(row) for row in resampled])
    assert ((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])).mean() == COVERED


@pytest.mark.slow
def test_among_equal_models_differences_are_seldom_found(monkeypatch):
    """The probability of calling any of three pairs different is below 5 %."""
    monkeypatch.setattr("gc.collect", lambda: 0)  # statsmodels calls it in every correction: minutes here
    values = np.random.default_rng(6).normal(0.9, 0.02, (SIMULATIONS, 3, 4))
    found = 0
    for models in values:
        rows = [by_seed(row) for row in models]
        p = [statistics.seed_difference(rows[i], rows[j]).p for i, j in ((0, 1), (0, 2), (1, 2))]
        found += min(statistics.holm(p)) < statistics.LEVEL
    assert found / SIMULATIONS < 0.05


def test_mcnemar_over_several_seeds_seldom_finds_what_is_not_there():
    """Some images are harder than others, so tests of several seeds on the same images are dependent."""
    rng = np.random.default_rng(7)
    single, combined = 0, 0
    for _ in range(SIMULATIONS // 4):
        easy = rng.beta(4, 1, 200)
        p = [statistics.mcnemar(rng.random(200) < easy, rng.random(200) < easy)[2] for _ in range(3)]
        single += p[0] < statistics.LEVEL
        combined += statistics.combine(p) < statistics.LEVEL
    assert single / (SIMULATIONS // 4) < 0.05 and combined / (SIMULATIONS // 4) < 0.05


def test_seeds_that_agree_are_one_finding_not_several():
    assert statistics.combine([0.03]) == 0.03
    assert statistics.combine([0.03, 0.03, 0.03]) >= 0.03
    assert statistics.combine([0.001, 0.2, 0.9]) > 0.2
    assert statistics.combine([0.9, 0.8]) == 1.0
