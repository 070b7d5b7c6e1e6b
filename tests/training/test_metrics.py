"""Metrics against scikit-learn, timm and float64 formulas."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from timm.utils import accuracy

from training.metrics import Totals, report

K = 8


@pytest.fixture(scope="module")
def scored():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(K, (400,), generator=generator)
    logits = torch.randn(400, K, generator=generator) + 1.5 * torch.eye(K)[targets]
    return logits, targets


def ece64(probabilities: np.ndarray, targets: np.ndarray) -> float:
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == targets
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(confidence[bins == b].sum() - correct[bins == b].sum()) for b in range(15)]
    return sum(gaps) / len(targets)


def test_the_report_is_scikit_learns(scored):
    logits, targets = scored
    result = report(logits, targets, [f"c{i}" for i in range(K)])
    y, answers = targets.numpy(), logits.argmax(1).numpy()
    probabilities = logits.double().softmax(1).numpy()
    precision, recall, f1, _ = sk.precision_recall_fscore_support(y, answers, average="macro")
    assert result["top1"] == pytest.approx(sk.accuracy_score(y, answers))
    assert result["top5"] == pytest.approx(sk.top_k_accuracy_score(y, probabilities, k=5))
    assert result["loss"] == pytest.approx(sk.log_loss(y, probabilities), rel=1e-6)
    assert [result["precision"], result["recall"], result["f1"]] == pytest.approx([precision, recall, f1], rel=1e-5)
    average_precision = [sk.average_precision_score(y == k, probabilities[:, k]) for k in range(K)]
    assert result["map"] == pytest.approx(np.mean(average_precision), rel=1e-5)
    assert result["ece"] == pytest.approx(ece64(probabilities, y), abs=1e-5)
    assert np.array_equal(result["confusion"].numpy(), sk.confusion_matrix(y, answers))
    per_class = sk.recall_score(y, answers, average=None)
    assert list(result["per_class_accuracy"].values()) == pytest.approx(per_class, rel=1e-5)


def test_classes_without_images_are_left_out_of_the_means(scored):
    logits, targets = scored
    present = targets != 3
    result = report(logits[present], targets[present], [f"c{i}" for i in range(K)])
    assert result["per_class_accuracy"]["c3"] is None
    recalls = sk.recall_score(targets[present], logits[present].argmax(1), average=None, zero_division=np.nan)
    assert result["recall"] == pytest.approx(np.nanmean(recalls), rel=1e-5)
    assert 0 < result["map"] <= 1


def test_top5_of_five_classes_is_no_number(scored):
    logits, targets = scored
    few = targets < 5
    assert report(logits[few][:, :5], targets[few], list("abcde"))["top5"] is None
    totals = Totals(5, torch.device("cpu"))
    totals.add(torch.tensor(1.0), logits[few][:, :5], targets[few], 0)
    assert totals.means()["top5"] is None


def test_totals_over_uneven_batches_are_those_of_the_whole(scored):
    logits, targets = scored
    totals = Totals(K, torch.device("cpu"))
    for start, end in ((0, 150), (150, 399), (399, 400)):
        part = slice(start, end)
        totals.add(torch.nn.functional.cross_entropy(logits[part], targets[part]), logits[part], targets[part], 0)
    top1, top5 = accuracy(logits, targets, topk=(1, 5))
    means = totals.means()
    assert 100 * means["top1"] == pytest.approx(float(top1)) and 100 * means["top5"] == pytest.approx(float(top5))
    assert means["loss"] == pytest.approx(sk.log_loss(targets, logits.double().softmax(1)), rel=1e-5)


def test_agreement_with_mixed_targets_is_the_expected_accuracy(scored):
    logits, targets = scored
    mixed = 0.7 * torch.eye(K)[targets] + 0.3 * torch.eye(K)[targets.roll(1)]
    totals = Totals(K, torch.device("cpu"))
    totals.add(torch.tensor(0.0), logits, mixed, 0)
    answers = logits.argmax(1)
    expected = 0.7 * (answers == targets).double().mean() + 0.3 * (answers == targets.roll(1)).double().mean()
    assert totals.means()["top1"] == pytest.approx(float(expected), rel=1e-5)


def test_the_first_step_without_a_finite_loss_is_remembered(scored):
    logits, targets = scored
    totals = Totals(K, torch.device("cpu"))
    for step, loss in enumerate((1.0, float("inf"), 2.0, float("nan"))):
        totals.add(torch.tensor(loss), logits, targets, step)
    assert totals.first_bad_step() == 1
    totals.reset()
    assert totals.first_bad_step() is None
