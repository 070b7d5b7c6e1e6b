"""Small images on the device, and batches that are augmented there."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sample_images import random_images
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from data_transform import Augment, Fit, resize
from image_datasets.padded_images import PaddedImages, augment_batch

CPU = torch.device("cpu")


@pytest.mark.parametrize("chans", [1, 3])
@pytest.mark.parametrize("padding", [0, 2])
def test_crops_are_those_of_the_zero_padded_image_or_of_its_mirror_image(chans, padding):
    images = random_images(5, 6, 6, chans)
    torch.manual_seed(0)
    index = torch.randint(5, (60,))
    top, left = torch.randint(2 * padding + 1, (2, 60))
    mirror = torch.randint(2, (60,))
    crops = PaddedImages(images, padding, CPU)(index, top, left, mirror)
    assert crops.dtype == torch.uint8
    assert crops.is_contiguous(memory_format=torch.channels_last)
    for i in range(60):
        padded = F.pad(images[index[i]].permute(2, 0, 1), [padding] * 4)
        if mirror[i]:
            padded = TF.horizontal_flip(padded)
        assert torch.equal(crops[i], padded[:, top[i] : top[i] + 6, left[i] : left[i] + 6])


def test_random_crops_and_flips_are_as_frequent_as_torchvisions():
    side, padding = 5, 1
    image = torch.arange(1, side * side + 1, dtype=torch.uint8).view(1, side, side)  # every crop is different
    padded = F.pad(image, [padding] * 4)
    corners = range(2 * padding + 1)
    outcomes = [padded[:, y : y + side, x : x + side] for y in corners for x in corners]
    outcomes += [TF.horizontal_flip(outcome) for outcome in outcomes]
    number = {outcome.contiguous().numpy().tobytes(): i for i, outcome in enumerate(outcomes)}
    assert len(number) == 18

    def frequencies(crops) -> np.ndarray:
        drawn = [number[crop.contiguous().numpy().tobytes()] for crop in crops]
        return np.bincount(drawn, minlength=18) / len(drawn)

    torch.manual_seed(0)
    store = PaddedImages(image.permute(1, 2, 0)[None], padding, CPU)
    augment = Augment(crop="pad", padding=padding, flip=True)
    ours = frequencies(augment_batch(store, torch.zeros(20_000, dtype=torch.int64), augment, side))
    transform = v2.Compose([v2.RandomCrop(side, padding=padding), v2.RandomHorizontalFlip()])
    theirs = frequencies(transform(image) for _ in range(4000))
    assert np.abs(ours - theirs).max() < 0.02
    assert np.abs(ours - 1 / 18).max() < 0.008


def test_each_image_of_a_batch_is_cropped_on_its_own():
    store = PaddedImages(random_images(1, 8, 8, 3), 2, CPU)
    torch.manual_seed(0)
    batch = augment_batch(store, torch.zeros(32, dtype=torch.int64), Augment(crop="pad", padding=2, flip=True), 8)
    assert len({crop.contiguous().numpy().tobytes() for crop in batch}) > 16


def test_without_augmentation_the_images_come_as_they_are_in_the_asked_order_and_size():
    images = random_images(6, 8, 8, 3)
    index = torch.tensor([4, 0, 4, 5])
    batch = augment_batch(PaddedImages(images, 0, CPU), index, Augment(), 8)
    assert torch.equal(batch, images[index].permute(0, 3, 1, 2))
    larger = augment_batch(PaddedImages(images, 0, CPU), index, Augment(), 12)
    expected = TF.resize(images[index].permute(0, 3, 1, 2).contiguous(), [12, 12], antialias=True)
    assert (larger.int() - expected.int()).abs().max() <= 1


def test_resized_crops_of_a_batch_show_parts_of_the_image_in_the_asked_size():
    image = torch.arange(16, dtype=torch.uint8).repeat(16, 1) * 10  # grows to the right: a crop has a narrower range
    store = PaddedImages(image[None, :, :, None], 0, CPU)
    torch.manual_seed(0)
    crops = augment_batch(store, torch.zeros(500, dtype=torch.int64), Augment(crop="resized"), 12)
    assert crops.shape == (500, 1, 12, 12)
    spread = (crops[..., -1] - crops[..., 0])[:, 0, 0].double() / 150
    assert spread.min() < 0.4
    assert spread.max() > 0.85
    mirrored = augment_batch(store, torch.zeros(500, dtype=torch.int64), Augment(crop="resized", flip=True), 12)
    falls = (mirrored[:, 0, 0, -1] < mirrored[:, 0, 0, 0]).double().mean()
    assert 0.4 < falls < 0.6


@pytest.mark.parametrize(("mode", "inner"), [("crop", (8, 16)), ("squeeze", (8, 16)), ("letterbox", (8, 8))])
def test_squares_in_memory_become_rectangles(mode, inner):
    """A gradient to the right: whole if cropped or squeezed, narrower if letterboxed."""
    square = torch.arange(16, dtype=torch.uint8).mul(16).view(1, 1, 16, 1).expand(1, 16, 16, 1).contiguous()
    square[:, :4], square[:, 12:] = 99, 99  # visible only if nothing is cropped
    fit = Fit(mode, (77,))
    result = resize(square.permute(0, 3, 1, 2), (8, 16), fit)[0, 0]
    assert result.shape == (8, 16)
    left = (16 - inner[1]) // 2
    assert (result[:, :left] == 77).all() and (result[:, left + inner[1] :] == 77).all()
    assert (99 in result[0]) == (mode != "crop")
    if mode == "crop":
        assert result.tolist() == [[16 * i for i in range(16)]] * 8
    trained = augment_batch(PaddedImages(square, 0, CPU), torch.zeros(1, dtype=int), Augment(), (8, 16), fit)
    assert torch.equal(trained[0, 0], result)


@pytest.mark.parametrize("mode", ["crop", "squeeze", "letterbox"])
def test_random_crops_of_squares_in_memory_have_the_models_shape(mode):
    rows = torch.arange(32, dtype=torch.uint8).mul(8)
    square = torch.stack([rows.expand(32, 32), rows[:, None].expand(32, 32)], -1)[None].contiguous()
    store = PaddedImages(square, 0, CPU)
    torch.manual_seed(0)
    for img_size in ((8, 32), (40, 8), (2, 64)):
        height, width = img_size
        index, fit = torch.zeros(60, dtype=int), Fit(mode, (0, 0))
        crops = augment_batch(store, index, Augment(crop="resized"), img_size, fit).int()
        assert crops.shape == (60, 2, *img_size)
        right = (crops[:, 0, height // 2, -1] - crops[:, 0, height // 2, 0]) / (width - 1)
        down = (crops[:, 1, -1, width // 2] - crops[:, 1, 0, width // 2]) / (height - 1)
        if mode == "crop" and height > 2:
            assert ((right / down).log().abs() < math.log(4 / 3) + 0.3).all()
        if mode == "squeeze":
            assert ((right / down * width / height).log().abs() < math.log(4 / 3) + 0.3).all()
