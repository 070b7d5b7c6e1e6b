"""Losses against float64 formulas and timm's."""

import pytest
import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy
from torchvision.ops import sigmoid_focal_loss

from training.losses import make_criterion

LOGITS = torch.randn(7, 12, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.arange(7)
SOFT = torch.rand(7, 12, generator=torch.Generator().manual_seed(1)).softmax(1)


def cross_entropy64(targets: torch.Tensor) -> float:
    z = LOGITS.double()
    log_probabilities = z - z.exp().sum(1, keepdim=True).log()
    return float(-(targets.double() * log_probabilities).sum(1).mean())


def bce64(targets: torch.Tensor) -> float:
    p, t = 1 / (1 + (-LOGITS.double()).exp()), targets.double()
    return float(-(t * p.log() + (1 - t) * (1 - p).log()).sum(1).mean())


def one_hot() -> torch.Tensor:
    return torch.eye(12)[LABELS]


def smoothed(targets: torch.Tensor, share: float) -> torch.Tensor:
    return targets * (1 - share) + share / 12


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", [LABELS, SOFT], ids=["labels", "soft"])
def test_cross_entropy_is_the_formula(targets, smoothing):
    expected = cross_entropy64(smoothed(one_hot() if targets.ndim == 1 else targets, smoothing))
    assert float(make_criterion("CE", 12, smoothing)(LOGITS, targets)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", [LABELS, SOFT], ids=["labels", "soft"])
def test_binary_cross_entropy_is_the_formula_summed_over_classes(targets, smoothing):
    expected = bce64(smoothed(one_hot() if targets.ndim == 1 else targets, smoothing))
    assert float(make_criterion("BCE", 12, smoothing)(LOGITS, targets)) == pytest.approx(expected, rel=1e-5)


def test_binary_cross_entropy_is_timms_summed_over_classes():
    timms = BinaryCrossEntropy(smoothing=0.1, sum_classes=True)
    assert torch.allclose(make_criterion("BCE", 12, 0.1)(LOGITS, LABELS), timms(LOGITS, LABELS))


def test_the_threshold_makes_mixed_targets_binary_before_they_are_smoothed():
    mixed = torch.zeros(7, 12)
    mixed[:, 0], mixed[:, 1], mixed[:, 2] = 0.7, 0.25, 0.05
    binary = torch.zeros(7, 12)
    binary[:, :2] = 1
    threshold = make_criterion("BCE", 12, 0.0, bce_target_threshold=0.2)
    assert float(threshold(LOGITS, mixed)) == pytest.approx(bce64(binary), rel=1e-5)
    # A threshold below the smoothing's floor must not turn every target into 1.
    both = make_criterion("BCE", 12, 0.1, bce_target_threshold=0.0)
    binary[:, 2] = 1
    assert float(both(LOGITS, mixed)) == pytest.approx(bce64(smoothed(binary, 0.1)), rel=1e-5)


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="none of CE, BCE, focal"):
        make_criterion("MSE", 12)


WEIGHTS = torch.rand(12, generator=torch.Generator().manual_seed(2)) + 0.1


@pytest.mark.parametrize("targets", [LABELS, SOFT], ids=["labels", "soft"])
def test_weighted_cross_entropy_is_torchs_sum_over_the_number_of_images(targets):
    if targets.ndim == 1:
        expected = F.cross_entropy(LOGITS, targets, weight=WEIGHTS, reduction="sum") / 7
    else:  # an image counts by the mixture of its classes' weights
        each = F.cross_entropy(LOGITS, targets, reduction="none")
        expected = (each * (targets @ WEIGHTS)).sum() / 7
    assert float(make_criterion("CE", 12, class_weights=WEIGHTS)(LOGITS, targets)) == pytest.approx(float(expected))


@pytest.mark.parametrize("loss", ["CE", "BCE", "focal"])
def test_a_class_with_twice_the_weight_counts_like_two_images(loss):
    weights = torch.ones(12)
    weights[3] = 2
    logits, labels = torch.cat([LOGITS, LOGITS[3:4]]), torch.cat([LABELS, LABELS[3:4]])
    weighted = 7 * make_criterion(loss, 12, 0.1, class_weights=weights)(LOGITS, LABELS)
    assert float(weighted) == pytest.approx(8 * float(make_criterion(loss, 12, 0.1)(logits, labels)), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_of_two_classes_is_torchvisions_of_their_difference(gamma):
    logits = LOGITS[:, :2]
    labels = LABELS % 2
    difference = logits[:, 1] - logits[:, 0]
    expected = sigmoid_focal_loss(difference, labels.float(), alpha=-1, gamma=gamma, reduction="mean")
    focal = make_criterion("focal", 2, focal_gamma=gamma)
    assert float(focal(logits, labels)) == pytest.approx(float(expected), rel=1e-5)


def test_focal_loss_with_gamma_0_is_cross_entropy_and_its_gradient_is_finite_where_an_image_is_sure():
    focal = make_criterion("focal", 12, 0.1, focal_gamma=0.0)
    assert float(focal(LOGITS, SOFT)) == pytest.approx(float(make_criterion("CE", 12, 0.1)(LOGITS, SOFT)), rel=1e-5)
    sure = torch.zeros(1, 12).index_fill(1, torch.tensor([0]), 200.0).requires_grad_()
    make_criterion("focal", 12, focal_gamma=0.5)(sure, torch.tensor([0])).backward()
    assert sure.grad.isfinite().all()
