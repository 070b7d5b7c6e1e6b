"""CutMix and MixUp against torchvision's and against plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from data_transform import Mix


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [7, 8])
def test_cutmix_targets_weigh_the_pixels_really_pasted(n, seed):
    torch.manual_seed(seed)
    images = torch.arange(n).float()[:, None, None, None].expand(n, 3, 9, 9).contiguous()
    mixed, targets = Mix("cutmix", n, 1.0, 0.8, 1.0)(images, torch.arange(n))
    shares = torch.stack([(mixed[:, 0] == i).double().mean((1, 2)) for i in range(n)], 1)
    torch.testing.assert_close(targets.double(), shares, rtol=0, atol=1e-6)
    assert torch.equal(mixed[:, 0], mixed[:, 2])
    assert (shares.diagonal() == shares[0, 0]).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [7, 8])
def test_mixup_images_are_the_average_that_their_targets_say(n, seed):
    torch.manual_seed(seed)
    images = torch.randn(n, 3, 5, 5)
    mixed, targets = Mix("mixup", n, 1.0, 0.8, 1.0)(images.clone(), torch.arange(n))
    torch.testing.assert_close(mixed, torch.einsum("ij,jchw->ichw", targets, images), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(targets.sum(1), torch.ones(n))
    assert ((targets > 0).sum(1) == 2).all()


def test_targets_of_images_in_bf16_are_not_rounded():
    images = torch.randn(8, 3, 5, 5)
    for kind in ("cutmix", "mixup", "none"):
        targets = []
        for dtype in (torch.bfloat16, torch.float32):
            torch.manual_seed(3)
            targets.append(Mix(kind, 8, 1.0, 0.8, 1.0)(images.to(dtype), torch.arange(8))[1])
        assert torch.equal(*targets)


@pytest.mark.parametrize(("kind", "reference"), [("cutmix", v2.CutMix), ("mixup", v2.MixUp)])
@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_mixing_in_place_is_torchvisions(kind, reference, n, layout):
    """Equal draws, images and targets in any memory format, which is kept."""
    images, classes = torch.randn(n, 3, 12, 10).contiguous(memory_format=layout), torch.randint(4, (n,))
    for seed in range(4):
        torch.manual_seed(seed)
        torch.rand(()), torch.randint(1, ())  # whether to mix, and how
        expected, expected_targets = reference(alpha=0.7, num_classes=4)(images, classes)
        torch.manual_seed(seed)
        mixed, targets = Mix(kind, 4, 0.7, 0.7, 1.0)(images.clone(memory_format=torch.preserve_format), classes)
        torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(targets, expected_targets, rtol=1e-5, atol=1e-6)
        assert mixed.is_contiguous(memory_format=layout)


def test_the_target_of_two_images_of_one_class_is_that_class():
    torch.manual_seed(0)
    for kind in ("cutmix", "mixup"):
        _, targets = Mix(kind, 4, 1.0, 0.8, 1.0)(torch.randn(5, 1, 4, 4), torch.full((5,), 2))
        torch.testing.assert_close(targets, F.one_hot(torch.full((5,), 2), 4).float())


@pytest.mark.parametrize("alpha", [0.2, 1])
def test_the_kept_share_of_mixup_is_distributed_as_its_beta_distribution(alpha):
    torch.manual_seed(0)
    mix = Mix("mixup", 2, 1.0, alpha, 1.0)
    shares = torch.stack([mix(torch.zeros(2, 1, 1, 1), torch.arange(2))[1][0, 0] for _ in range(2000)])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_both_kinds_of_mixing_take_turns_by_chance():
    torch.manual_seed(0)
    mix = Mix("cutmix+mixup", 3, 1.0, 1.0, 1.0)
    images = torch.tensor([0.0, 1.0, 4.0])[:, None, None, None].expand(3, 1, 8, 8)
    pasted = [bool(torch.isin(mix(images.clone(), torch.arange(3))[0], images).all()) for _ in range(400)]
    assert 0.4 < np.mean(pasted) < 0.6


@pytest.mark.parametrize("kind", ["cutmix", "mixup", "cutmix+mixup"])
def test_a_batch_is_mixed_with_the_given_probability_and_else_has_one_hot_targets(kind):
    torch.manual_seed(0)
    images, classes = torch.randn(4, 1, 8, 8), torch.tensor([3, 0, 1, 1])
    never = Mix(kind, 5, 1.0, 0.8, 0.0)
    for _ in range(20):
        same, targets = never(images, classes)
        assert torch.equal(same, images)
        assert torch.equal(targets, F.one_hot(classes, 5).float())
    mix = Mix(kind, 5, 1.0, 0.8, 0.3)
    mixed = [not torch.equal(mix(images.clone(), classes)[0], images) for _ in range(500)]
    assert 0.2 < np.mean(mixed) < 0.37


def test_without_mixing_images_and_classes_come_as_they_are():
    images, classes = torch.randn(4, 1, 8, 8), torch.tensor([3, 0, 1, 1])
    same, targets = Mix("none", 5, 1.0, 0.8, 1.0)(images, classes)
    assert torch.equal(same, images)
    assert torch.equal(targets, classes)


@pytest.mark.parametrize(("epoch", "mixes"), [(0, True), (2, True), (3, False), (9, False)])
def test_no_batch_is_mixed_from_the_off_epoch_on(epoch, mixes):
    images, classes = torch.randn(4, 3, 5, 5), torch.arange(4)
    mixed, targets = Mix("mixup", 4, 1.0, 0.8, 1.0, off_epoch=3)(images.clone(), classes, epoch)
    assert torch.equal(mixed, images) != mixes
    assert (targets is classes) != mixes
