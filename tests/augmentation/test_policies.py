"""Policies of whole batches against torchvision's transforms of single images, and against plain tables."""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Iterable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from sample_images import random_images, smooth_image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from augmentation.policies import library_policy
from data_transform import Augment, policy_batch

RAND, TRIVIAL, AUTO = (Augment(policy=name) for name in ("randaugment", "trivialaugment", "autoaugment"))
SHAPES = [(40, 3, 12, 12), (40, 1, 12, 12), (30, 3, 20, 9), (1, 3, 9, 20), (1, 1, 8, 8)]


def with_draws(transform: v2.Transform, image: torch.Tensor, places: Iterable[Any], numbers: Iterable[Any]):
    """What a transform makes of an image, with given draws of integers and of numbers in [0, 1]."""
    integers = mock.patch("torch.randint", side_effect=[torch.as_tensor(place) for place in places])
    uniform = mock.patch("torch.rand", side_effect=[torch.as_tensor(number) for number in numbers])
    with integers, uniform:
        return transform(image)


def as_bytes(image: torch.Tensor) -> bytes:
    return image.contiguous().numpy().tobytes()


def assert_same(results: torch.Tensor, expected: list[torch.Tensor]) -> None:
    for ours, theirs in zip(results, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1)  # a tie may round either way
        assert (ours != theirs).double().mean() < 0.02


# ---------------------------------------------------------------------------------------------------------- RandAugment


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("ops", "magnitude"), [(2, 9), (1, 0), (3, 30)])
def test_rand_augment_of_a_batch_is_torchvisions_of_each_image(shape, ops, magnitude):
    """With the draws of the published runs: for each operation its place and its sign, for all images."""
    n, images = shape[0], random_images(*shape)
    names = list(v2.RandAugment._AUGMENTATION_SPACE)
    signed = torch.tensor([v2.RandAugment._AUGMENTATION_SPACE[name][1] for name in names])
    torch.manual_seed(0)
    drawn = [(torch.randint(len(names), (n,)), torch.rand(n)) for _ in range(ops)]
    expected = []
    for i, image in enumerate(images):
        signs = [sign[i] for operation, sign in drawn if signed[operation[i]]]
        places = [operation[i] for operation, _ in drawn]
        expected.append(with_draws(v2.RandAugment(ops, magnitude), image, places, signs))
    torch.manual_seed(0)
    assert_same(policy_batch(images, Augment(policy="randaugment", ops=ops, magnitude=magnitude)), expected)


def operations(side: int):
    """RandAugment's operations at magnitude 9 of 30, from torchvision's functions and documented ranges."""

    def level(top: float) -> float:
        return float(torch.linspace(0, top, 31)[9])  # in float32, or rounding could differ

    shear, shift, turn, factor = level(0.3), int(level(150 / 331 * side)), level(30), level(0.9)

    def affine(image, x=0, y=0, shear_x=0.0, shear_y=0.0, center=None):
        angles = [math.degrees(math.atan(shear_x)), math.degrees(math.atan(shear_y))]
        return TF.affine(image, angle=0.0, translate=[x, y], scale=1.0, shear=angles, center=center)

    result = [lambda image: image]
    for sign in (1, -1):
        result += [
            lambda image, s=sign: affine(image, shear_x=s * shear, center=[0, 0]),
            lambda image, s=sign: affine(image, shear_y=s * shear, center=[0, 0]),
            lambda image, s=sign: affine(image, x=s * shift),
            lambda image, s=sign: affine(image, y=s * shift),
            lambda image, s=sign: TF.rotate(image, s * turn),
            lambda image, s=sign: TF.adjust_brightness(image, 1 + s * factor),
            lambda image, s=sign: TF.adjust_saturation(image, 1 + s * factor),
            lambda image, s=sign: TF.adjust_contrast(image, 1 + s * factor),
            lambda image, s=sign: TF.adjust_sharpness(image, 1 + s * factor),
        ]
    return [
        *result,
        lambda image: TF.posterize(image, bits=round(8 - 9 / (30 / 4))),
        lambda image: TF.solarize(image, threshold=255 * (1 - level(1))),
        TF.autocontrast,
        TF.equalize,
    ]


def after_two_operations(image: torch.Tensor) -> set[bytes]:
    steps = operations(image.shape[-1])
    return {as_bytes(second(once)) for once in [first(image) for first in steps] for second in steps}


@pytest.mark.parametrize("chans", [1, 3])
def test_rand_augment_gives_each_image_two_random_operations_of_torchvisions(chans):
    image = smooth_image(12, 12, chans)
    possible = after_two_operations(image)
    torch.manual_seed(0)
    theirs = [as_bytes(v2.RandAugment()(image)) for _ in range(1500)]
    assert set(theirs) <= possible  # the table above is torchvision's
    ours = [as_bytes(result) for result in policy_batch(image.expand(8000, -1, -1, -1), RAND)]
    assert set(ours) <= possible
    assert len(set(ours)) > 0.98 * len(possible)
    unchanged = as_bytes(image)
    assert np.mean([a == unchanged for a in ours]) == pytest.approx(np.mean([a == unchanged for a in theirs]), abs=0.02)


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment", "autoaugment", "3augment"])
def test_a_policy_does_not_change_its_input(policy):
    images = random_images(60, 3, 12, 12)
    before = images.clone()
    assert not torch.equal(policy_batch(images, Augment(policy=policy)), before)
    assert torch.equal(images, before)


# ------------------------------------------------------------------------------------------ TrivialAugment, AutoAugment


@pytest.mark.parametrize("shape", SHAPES)
def test_trivial_augment_of_a_batch_is_torchvisions_of_each_image(shape):
    n, images = shape[0], random_images(*shape)
    torch.manual_seed(0)
    operation, level, sign = torch.randint(14, (n,)), torch.randint(31, (n,)), torch.rand(n)
    expected = [
        with_draws(v2.TrivialAugmentWide(), image, [operation[i], level[i]], [sign[i]])
        for i, image in enumerate(images)
    ]
    torch.manual_seed(0)
    assert_same(policy_batch(images, TRIVIAL), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_auto_augment_of_a_batch_is_torchvisions_of_each_image(shape):
    n, images = shape[0], random_images(*shape)
    theirs = v2.AutoAugment()
    torch.manual_seed(0)
    pair = torch.randint(25, (n,))
    drawn = [(torch.rand(n), torch.rand(n)) for _ in range(2)]
    expected = []
    for i, image in enumerate(images):
        numbers = []
        for (name, probability, _), (use, sign) in zip(theirs._policies[int(pair[i])], drawn, strict=True):
            signed = theirs._AUGMENTATION_SPACE[name][1] and use[i] <= probability
            numbers += [use[i], sign[i]] if signed else [use[i]]
        expected.append(with_draws(theirs, image, [pair[i]], numbers))
    torch.manual_seed(0)
    assert_same(policy_batch(images, AUTO), expected)


@pytest.mark.parametrize("augment", [TRIVIAL, AUTO])
def test_operations_and_their_magnitudes_are_as_frequent_as_torchvisions(augment, monkeypatch):
    theirs = library_policy(augment)
    image, drawn = smooth_image(4, 6), collections.defaultdict(list)

    def apply(self, images, name, magnitude, **_):
        drawn[name] += [magnitude] * (len(images) if images.ndim == 4 else 1)
        return images

    monkeypatch.setattr(type(theirs), "_apply_image_or_video_transform", apply)
    torch.manual_seed(0)
    for _ in range(3000):
        theirs(image)
    expected = {**drawn}
    drawn.clear()
    policy_batch(image.expand(20_000, -1, -1, -1), augment)
    untouched = set() if augment is TRIVIAL else {"Identity"}  # torchvision skips an operation that is not taken
    assert set(drawn) == set(expected) | untouched
    for name, magnitudes in expected.items():
        assert len(drawn[name]) / 20_000 == pytest.approx(len(magnitudes) / 3000, abs=0.03)
        ours, other = torch.tensor(drawn[name]).double(), torch.tensor(magnitudes).double()
        assert set(ours.tolist()) >= set(other.tolist())
        error = 4 * ours.std().item() / len(other) ** 0.5
        assert ours.mean().item() == pytest.approx(other.mean().item(), abs=error)
        assert ours.abs().mean().item() == pytest.approx(other.abs().mean().item(), abs=error)


def test_auto_augment_draws_every_pair_of_operations_of_imagenets_policy():
    image = smooth_image(12, 12)
    theirs = v2.AutoAugment()
    possible = set()
    for pair, *numbers in itertools.product(range(25), *[(0.0, 1.0)] * 4):  # operations taken and signs, or not
        possible.add(as_bytes(with_draws(theirs, image, [pair], numbers)))
    torch.manual_seed(0)
    ours = {as_bytes(result) for result in policy_batch(image.expand(4000, -1, -1, -1), AUTO)}
    assert ours <= possible
    assert len(ours) > 0.95 * len(possible)


def test_a_larger_magnitude_and_more_operations_change_more_of_an_image():
    images = smooth_image(16, 16).expand(400, -1, -1, -1)

    def change(**more: Any) -> float:
        torch.manual_seed(0)
        return (policy_batch(images, Augment(policy="randaugment", **more)).double() - images).abs().mean().item()

    assert change(magnitude=0) < change(magnitude=9) < change(magnitude=30)
    assert change(ops=1) < change(ops=2) < change(ops=4)
