"""3-Augment against torchvision's functions with the same parameters, image by image."""

from __future__ import annotations

import itertools

import pytest
import torch
from sample_images import pil_image, random_images, smooth_image
from torchvision.transforms.v2 import functional as TF

from augmentation.three_augment import blur, jitter
from data_transform import Augment, image_transform, policy_batch

THREE = Augment(policy="3augment")
ADJUST = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)


def jittered(image: torch.Tensor, order: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    for place in order.tolist():
        image = ADJUST[place](image, float(factors[place]))
    return image


def blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """The reflection of an image ends before its own border."""
    return TF.gaussian_blur(image, [2 * min(8, side - 1) + 1 for side in image.shape[:0:-1]], [sigma])


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 20, 9), (3, 5, 1)])
def test_the_blur_of_each_image_is_torchvisions(shape):
    sigma = torch.tensor([0.1, 0.3, 0.77, 1.2, 2.0])
    images = random_images(5, *shape)
    result = blur(images, sigma)
    assert result.dtype == torch.uint8 and result.shape == images.shape
    for image, ours, strength in zip(images, result, sigma.tolist(), strict=True):
        assert (ours.int() - blurred(image, strength).int()).abs().max() <= 1
        assert (ours - blurred(image.double(), strength)).abs().max() <= 0.501  # rounded, and nothing else


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 8, 8), (3, 7, 20), (1, 1, 5)])
def test_the_colours_of_each_image_are_jittered_as_torchvision_does(shape):
    orders = torch.tensor(list(itertools.permutations(range(3))) * 4)
    torch.manual_seed(0)
    factors = torch.empty(len(orders), 3).uniform_(0.7, 1.3)
    images = random_images(len(orders), *shape)
    before = images.clone()
    result = jitter(images, orders, factors)
    assert torch.equal(images, before)
    expected = torch.stack([jittered(*given) for given in zip(images, orders, factors, strict=True)])
    assert (result.int() - expected.int()).abs().max() <= 1
    assert (result != expected).double().mean() < 1e-3  # a value next to an integer may be cut off either way


@pytest.mark.parametrize("shape", [(60, 3, 12, 12), (60, 1, 12, 12), (30, 3, 20, 9), (1, 3, 9, 20)])
def test_each_image_gets_one_of_three_operations_and_then_jitter(shape):
    images, n = random_images(*shape), shape[0]
    torch.manual_seed(0)
    kind, sigma = torch.randint(3, (n,)), torch.empty(n).uniform_(0.1, 2)
    order, factors = torch.rand(n, 3).argsort(1), torch.empty(n, 3).uniform_(0.7, 1.3)
    torch.manual_seed(0)
    result = policy_batch(images, THREE)
    for i, image in enumerate(images):
        steps = (
            lambda image: TF.rgb_to_grayscale(image, num_output_channels=image.shape[0]),
            lambda image: TF.solarize(image, 128),
            lambda image, i=i: blurred(image, float(sigma[i])),
        )
        expected = jittered(steps[kind[i]](image), order[i], factors[i])
        difference = (result[i].int() - expected.int()).abs()
        assert difference.max() <= 3 and difference.float().mean() < 0.02  # jitter stretches a level of the blur


def test_a_third_of_the_images_each_is_grey_solarised_or_blurred(monkeypatch):
    monkeypatch.setattr("augmentation.three_augment.jitter", lambda images, *_: images)
    image = smooth_image(12, 12)
    torch.manual_seed(0)
    results = policy_batch(image.expand(3000, -1, -1, -1), THREE)
    grey, solarised = TF.rgb_to_grayscale(image, num_output_channels=3), TF.solarize(image, 128)
    for expected in (grey, solarised):
        assert (results == expected).flatten(1).all(1).double().mean().item() == pytest.approx(1 / 3, abs=0.03)
    assert ((results[:, 0] == results[:, 1]).flatten(1).all(1)).double().mean().item() == pytest.approx(1 / 3, abs=0.03)


def test_brightness_changes_by_up_to_three_tenths():
    torch.manual_seed(0)
    results = policy_batch(torch.full((2000, 1, 4, 4), 100, dtype=torch.uint8), THREE)  # without colour or contrast
    assert (results.amin((1, 2, 3)) == results.amax((1, 2, 3))).all()
    levels = results[:, 0, 0, 0].double()
    assert 69 <= levels.min() < 72 and 128 < levels.max() <= 130
    assert levels.mean().item() == pytest.approx(99.5, abs=1.5)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_one_image_in_a_loader_process_becomes_what_it_becomes_in_a_batch_of_one(mode):
    image = pil_image(24, 16, mode)
    transform = image_transform(THREE, (16, 24), 1.0)
    for seed in range(10):
        torch.manual_seed(seed)
        result = transform(image)
        torch.manual_seed(seed)
        assert torch.equal(result, policy_batch(TF.pil_to_tensor(image)[None], THREE)[0])
