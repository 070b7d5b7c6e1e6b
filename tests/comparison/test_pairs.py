"""What the report says of two models, in numbers and in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from simulated import logits, targets, write_run

from comparison import statistics
from comparison.cohorts import make_cohorts
from comparison.metric_names import METRICS
from comparison.metrics import ScoredSplit
from comparison.pairs import Resampled, compare_all
from comparison.runs import read_run
from comparison.sections.conclusions import sentence
from comparison.sections.cost import pareto_front


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """Pairs of models from their accuracies by seed: compare({"a": [0.9, 0.8], "b": [0.7, 0.75]})."""

    monkeypatch.setattr("gc.collect", lambda: 0)  # statsmodels calls it in every correction: a second here

    def run(models: dict[str, list[float]], metric: str = "top1", start: dict[str, int] | None = None, **more):
        truth = targets(1000)
        paths = []
        for model, values in models.items():
            for i, accuracy in enumerate(values):
                seed = i + (start or {}).get(model, 0)
                paths.append(exact_run(tmp_path / f"{model}-{seed}", model, seed, accuracy, truth))
        runs = [read_run(path) for path in paths]
        (only,) = make_cohorts(runs, dict.fromkeys(range(len(runs))), [])
        return compare_all(only.models, Resampled(only, 400), metric, 0.005, **more)

    return run


def exact_run(path: Path, model: str, seed: int, accuracy: float, truth: np.ndarray) -> Path:
    """A run with exactly this accuracy."""
    write_run(path, model, seed, accuracy, truth)
    rng = np.random.default_rng([seed, *model.encode()])
    wrong = rng.permutation(len(truth))[: round((1 - accuracy) * len(truth))]
    values = logits(truth, 1.0, seed=int(rng.integers(1000)))
    values[wrong] = np.roll(values[wrong], 1, axis=1)
    with np.load(path / "predictions.npz") as file:
        names = file["class_names"]
    np.savez(path / "predictions.npz", logits=values, targets=truth, class_names=names)
    scores = {name: float(value[0]) for name, value in ScoredSplit(values, truth).values().items()}
    text = (path / "summary.json").read_text()

    (path / "summary.json").write_text(json.dumps({**json.loads(text), **{name: scores[name] for name in METRICS}}))
    return path


def test_a_difference_that_is_shown_is_told_with_its_doubt(compare):
    first, second = [0.93, 0.945, 0.95, 0.94], [0.90, 0.93, 0.925, 0.90]
    (pair,) = compare({"cnn": first, "vit": second})
    expected = stats.ttest_rel(first, second)
    low, high = expected.confidence_interval()
    size, half = 100 * np.mean(np.subtract(first, second)), 50 * (high - low)
    assert sentence(pair, "top1") == (
        f"cnn is better than vit by {size:.2f} ± {half:.2f} points of top-1, p = {expected.pvalue:.3f}, n = 4."
    )
    low, high = pair.on_images["top1"]
    assert low < np.mean(np.subtract(first, second)) < high
    assert len(pair.mcnemar) == 4 and all(a - b == round(1000 * d) for (_, a, b, _), d in
                                          zip(pair.mcnemar, np.subtract(first, second), strict=True))  # fmt: skip


def test_the_interval_over_images_is_that_of_the_same_images(compare):
    """For one pair of runs it is close to the normal interval of the difference between two dependent shares."""
    (pair,) = compare({"cnn": [0.93], "vit": [0.90]})
    _, only_first, only_second, _ = pair.mcnemar[0]
    n = 1000
    error = (only_first + only_second - (only_first - only_second) ** 2 / n) ** 0.5 / n
    low, high = pair.on_images["top1"]
    assert (low, high) == (pytest.approx(0.03 - 1.96 * error, abs=0.003), pytest.approx(0.03 + 1.96 * error, abs=0.003))


def test_a_difference_that_is_not_shown_says_how_many_seeds_would(compare):
    (pair,) = compare({"cnn": [0.90, 0.91, 0.95], "vit": [0.92, 0.90, 0.93]})
    spread = np.subtract([0.90, 0.91, 0.95], [0.92, 0.90, 0.93])
    more = statistics.seeds_needed(spread, 0.005) - 3
    text = sentence(pair, "top1")
    assert text.startswith("Between cnn and vit no difference can be shown: 0.33 ± ")
    assert text.endswith(f", n = 3; about {more} more seeds would show one of 0.5 points.")
    assert pair.adjusted["top1"] > 0.05


def test_where_seeds_are_enough_none_are_asked_for(compare):
    (pair,) = compare({"a": [0.90, 0.91, 0.92, 0.90, 0.91], "b": [0.901, 0.91, 0.919, 0.901, 0.91]})
    assert sentence(pair, "top1").endswith("; these seeds would probably have shown one of 0.5 points.")


def test_less_loss_is_better(compare):
    (pair,) = compare({"cnn": [0.96, 0.95, 0.955], "vit": [0.70, 0.71, 0.69]}, metric="loss")
    assert pair.differences["loss"].mean < 0
    assert sentence(pair, "loss").startswith("cnn is better than vit by ")
    assert "nats of loss" in sentence(pair, "loss")


def test_one_seed_is_a_comparison_of_two_networks_only(compare):
    (pair,) = compare({"cnn": [0.93], "vit": [0.90]})
    text = sentence(pair, "top1")
    assert text.startswith("cnn has 3.00 points of top-1 more than vit with one seed each (p = ")
    assert "whether other seeds would say the same is not known" in text and "±" not in text


def test_one_common_seed_is_said_to_be_one(compare):
    (pair,) = compare({"cnn": [0.93, 0.5, 0.6], "vit": [0.90]})
    assert sentence(pair, "top1").startswith(
        "cnn has 3.00 points of top-1 more than vit with the one seed that both have"
    )


def test_equal_differences_with_every_seed_are_no_certainty(compare):
    (pair,) = compare({"cnn": [0.93, 0.92], "vit": [0.92, 0.91]})
    assert sentence(pair, "top1") == (
        "cnn is 1.00 points of top-1 ahead of vit with every one of 2 seeds: without a spread over seeds there is no"
        " interval and no t test."
    )


def test_without_common_seeds_the_sentence_says_so(compare):
    (pair,) = compare({"cnn": [0.93, 0.94, 0.95], "vit": [0.90, 0.91, 0.92]}, start={"vit": 10})
    assert sentence(pair, "top1").endswith("n = 3 and 3, not paired.")


def test_one_common_seed_is_too_few_for_pairs(compare):
    (pair,) = compare({"cnn": [0.93, 0.94, 0.95], "vit": [0.92, 0.94, 0.93]}, start={"vit": 2})
    assert sentence(pair, "top1").endswith(
        "n = 3 and 3, not paired; how many seeds would show one of 0.5 points is known only where models have seeds in"
        " common."
    )


def test_a_difference_that_other_images_could_undo_is_told_with_that(compare):
    (pair,) = compare({"cnn": [0.912, 0.911, 0.913], "vit": [0.910, 0.908, 0.910]})
    text = sentence(pair, "top1")
    assert text.startswith("cnn is better than vit by ") and "on these images; on others it may vanish (-" in text


def test_all_pairs_are_corrected_for_and_a_baseline_makes_them_fewer(compare):
    models = {"a": [0.95, 0.94, 0.96], "b": [0.93, 0.93, 0.94], "c": [0.90, 0.92, 0.91]}
    pairs = compare(models)
    assert [pair.variants for pair in pairs] == ["a – b", "a – c", "b – c"]
    p = sorted((pair.differences["top1"].p, pair.adjusted["top1"]) for pair in pairs)
    assert p[0][1] == pytest.approx(3 * p[0][0]) and all(adjusted >= raw for raw, adjusted in p)
    assert "Holm-corrected p = " in sentence(pairs[0], "top1")


def test_a_baseline_is_the_second_of_every_pair(compare):
    models = {"a": [0.95, 0.94], "base": [0.93, 0.93], "c": [0.90, 0.92]}
    assert [pair.variants for pair in compare(models, baseline="base")] == ["a – base", "c – base"]


def test_the_pareto_front_has_what_nothing_else_beats():
    quality = np.array([0.9, 0.8, 0.95, 0.95, 0.7])
    spent = np.array([10.0, 5.0, 50.0, 40.0, 20.0])
    assert pareto_front(spent, quality, False, True).tolist() == [0, 1, 3]
    assert pareto_front(1 / spent, quality, True, True).tolist() == [0, 1, 3]
    assert pareto_front(spent, -quality, False, False).tolist() == [0, 1, 3]
    assert pareto_front(np.ones(3), np.ones(3), False, True).tolist() == [0, 1, 2]
