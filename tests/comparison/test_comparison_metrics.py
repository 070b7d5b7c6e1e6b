"""The metrics equal those of a run's summary, which come from torchmetrics, also for resampled splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from comparison.metric_names import METRICS
from comparison.metrics import ScoredSplit
from training.metrics import report


def reference(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    found = report(torch.from_numpy(logits), torch.from_numpy(targets), [str(i) for i in range(logits.shape[1])])
    return {name: np.nan if found[name] is None else found[name] for name in METRICS}


def draw(images: int, classes: int, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(images + classes)
    targets = rng.integers(0, classes, images)
    logits = rng.normal(0, scale, (images, classes)).astype(np.float32)
    logits[np.arange(images), targets] += scale
    return logits, targets


@pytest.mark.parametrize(
    ("case", "images", "classes"),
    [("many classes", 400, 20), ("five classes have no top-5", 150, 5), ("a class without images", 60, 12),
     ("equal scores", 200, 3), ("saturated", 200, 8)],
)  # fmt: skip
def test_the_metrics_are_those_of_the_summary(case, images, classes):
    logits, targets = draw(images, classes, scale=40.0 if case == "saturated" else 2.0)
    if case == "a class without images":
        logits, targets = logits[targets != 3], targets[targets != 3]
    if case == "equal scores":
        logits = (logits / 3).round() + np.arange(3, dtype=np.float32) / 4  # of images; no ties between classes
        assert len(np.unique(logits, axis=0)) < 150
    found = {name: value[0] for name, value in ScoredSplit(logits, targets).values().items()}
    assert found == pytest.approx(reference(logits, targets), abs=2e-6, nan_ok=True)


def test_a_split_that_is_drawn_anew_is_scored_like_any_other():
    logits, targets = draw(90, 7)
    counts = np.random.default_rng(0).multinomial(90, np.full(90, 1 / 90), size=4).astype(float)
    found = ScoredSplit(logits, targets).values(counts)
    for i, row in enumerate(counts):
        index = np.repeat(np.arange(90), row.astype(int))
        expected = reference(logits[index], targets[index])
        assert {name: values[i] for name, values in found.items()} == pytest.approx(expected, abs=2e-6)


def test_accuracy_of_each_class():
    logits, targets = draw(200, 6)
    found = ScoredSplit(logits, targets).per_class()
    expected = report(torch.from_numpy(logits), torch.from_numpy(targets), list("abcdef"))["per_class_accuracy"]
    assert found == pytest.approx(list(expected.values()), abs=1e-6)
