"""Augmentation of one image against Pillow's and torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sample_images import pil_image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from data_transform import Augment, image_transform, random_crop


@pytest.mark.parametrize(
    ("size", "eval_crop", "resized"),
    [((80, 50), 0.875, (51, 32)), ((50, 80), 0.875, (32, 51)), ((20, 20), 0.875, (32, 32)), ((80, 50), 1.0, (44, 28))],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_evaluation_resizes_the_short_side_and_cuts_out_the_centre(size, eval_crop, resized, mode):
    image = pil_image(*size, mode)
    transform = image_transform(None, 28, eval_crop)
    result = transform(image)
    left, top = round((resized[0] - 28) / 2), round((resized[1] - 28) / 2)
    expected = image.resize(resized, Image.Resampling.BILINEAR).crop((left, top, left + 28, top + 28))
    assert torch.equal(result, TF.pil_to_tensor(expected))
    theirs = v2.Compose([v2.Resize(round(28 / eval_crop)), v2.CenterCrop(28), v2.PILToTensor()])
    assert torch.equal(result, theirs(image))
    assert all(torch.equal(transform(image), result) for _ in range(5))


def test_evaluation_keeps_seven_eighths_of_the_short_side_unless_told_otherwise():
    image = pil_image(60, 40)
    assert torch.equal(image_transform(None, 28)(image), image_transform(None, 28, 0.875)(image))
    assert not torch.equal(image_transform(None, 28)(image), image_transform(None, 28, 1.0)(image))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("crop", ["pad", "resized", "none"])
@pytest.mark.parametrize("policy", ["none", "randaugment", "trivialaugment", "autoaugment", "3augment"])
def test_a_training_image_has_the_asked_size_and_follows_the_seed(crop, policy, mode):
    image = pil_image(40, 30, mode)
    transform = image_transform(Augment(crop=crop, padding=4, flip=True, policy=policy), 16)

    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return transform(image)

    assert draw(0).shape == (len(image.getbands()), 16, 16)
    assert draw(0).dtype == torch.uint8
    assert torch.equal(draw(0), draw(0))
    different = {draw(seed).numpy().tobytes() for seed in range(12)}
    assert len(different) >= (2 if (crop, policy) == ("none", "none") else 6)


def test_a_training_image_without_augmentation_is_the_evaluations():
    image = pil_image(40, 30)
    assert torch.equal(image_transform(Augment(), 16)(image), image_transform(None, 16)(image))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("augment", "theirs"),
    [
        (Augment(policy="randaugment"), v2.RandAugment(2, 9)),
        (Augment(policy="randaugment", ops=3, magnitude=20), v2.RandAugment(3, 20)),
        (Augment(policy="trivialaugment"), v2.TrivialAugmentWide()),
        (Augment(policy="autoaugment"), v2.AutoAugment()),
    ],
)
def test_the_policy_of_one_image_is_torchvisions(augment, theirs, mode):
    image = pil_image(24, 16, mode)
    transform = image_transform(augment, (16, 24), 1.0)
    for seed in range(15):
        torch.manual_seed(seed)
        result = transform(image)
        torch.manual_seed(seed)
        assert torch.equal(result, TF.pil_to_tensor(theirs(image)))


def test_a_padded_crop_of_one_image_has_black_only_at_its_border():
    transform = image_transform(Augment(crop="pad", padding=3), 16)
    torch.manual_seed(0)
    for _ in range(30):
        crop = transform(Image.new("L", (16, 16), 200))[0]
        assert (crop[3:-3, 3:-3] == 200).all()
        assert set(crop.unique().tolist()) <= {0, 200}


@pytest.mark.parametrize("size", [(300, 400), (60, 900), (900, 100), (5, 3)])
def test_random_crops_of_one_image_are_distributed_as_torchvisions(size):
    theirs = v2.RandomResizedCrop(8)
    torch.manual_seed(0)
    boxes = np.array([random_crop(*size) for _ in range(3000)], dtype=float)
    params = [theirs.make_params([torch.empty(1, *size)]) for _ in range(3000)]
    reference = np.array([[p[name] for name in ("top", "left", "height", "width")] for p in params], dtype=float)
    top, left, height, width = boxes.T
    assert (boxes >= [0, 0, 1, 1]).all()
    assert (top + height <= size[0]).all() and (left + width <= size[1]).all()
    for quantity in (*range(4), "area", "ratio"):
        ours, other = (
            values[:, 2] * values[:, 3] if quantity == "area"
            else values[:, 3] / values[:, 2] if quantity == "ratio" else values[:, quantity]
            for values in (boxes, reference)
        )  # fmt: skip
        places = np.concatenate([ours, other])
        distance = np.abs((ours[:, None] <= places).mean(0) - (other[:, None] <= places).mean(0)).max()
        assert distance < 0.051  # Kolmogorov-Smirnov: exceeded once in a thousand


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("crop", ["pad", "resized", "none"])
@pytest.mark.parametrize("policy", ["none", "randaugment", "3augment"])
def test_a_tensor_becomes_what_a_pil_image_of_the_same_pixels_becomes(crop, policy, mode):
    image = Image.effect_mandelbrot((120, 90), (-2, -1.5, 1, 1.5), 30).resize((70, 50)).convert(mode)
    transform = image_transform(Augment(crop=crop, padding=4, flip=True, policy=policy), 32)
    for seed in range(10):
        torch.manual_seed(seed)
        expected = transform(image)
        torch.manual_seed(seed)
        difference = (transform(TF.pil_to_tensor(image)).int() - expected.int()).abs()
        assert difference.float().mean() < 0.3
