"""Augmentation of batches against torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sample_images import random_images
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as TF

from data_transform import erase, random_boxes, resize_boxes


def ks_distance(a, b) -> float:
    """Largest difference between two empirical distribution functions (Kolmogorov-Smirnov)."""
    a, b = np.sort(np.asarray(a)), np.sort(np.asarray(b))
    points = np.concatenate([a, b])
    below_a, below_b = (np.searchsorted(values, points, side="right") / len(values) for values in (a, b))
    return float(np.abs(below_a - below_b).max())


# ---------------------------------------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize("img_size", [3, 8, 16, 40])
def test_cut_and_resized_boxes_equal_torchvisions_resized_crop(img_size):
    images = random_images(6, 3, 16, 20, seed=1)
    boxes = torch.tensor([[0, 0, 16, 20], [3, 5, 7, 4], [15, 19, 1, 1], [0, 10, 16, 10], [9, 0, 5, 13], [2, 2, 8, 8]])
    result = resize_boxes(images, boxes, img_size)
    assert result.shape == (6, 3, img_size, img_size)
    assert result.dtype == torch.uint8
    for image, box, cut in zip(images, boxes.tolist(), result, strict=True):
        more = {"size": [img_size, img_size], "interpolation": InterpolationMode.BILINEAR, "antialias": True}
        assert (cut.int() - TF.resized_crop(image, *box, **more).int()).abs().max() <= 1
        assert (cut - TF.resized_crop(image.float(), *box, **more)).abs().max() <= 0.501  # rounded, and nothing else


def test_a_box_of_the_output_size_is_cut_out_unchanged():
    images = random_images(2, 1, 12, 12)
    cut = resize_boxes(images, torch.tensor([[3, 4, 8, 8], [0, 0, 8, 8]]), 8)
    assert torch.equal(cut[0], images[0, :, 3:11, 4:12])
    assert torch.equal(cut[1], images[1, :, :8, :8])


def test_boxes_to_resize_are_distributed_as_torchvision_draws_them():
    height, width = 30, 40
    torch.manual_seed(0)
    ours = random_boxes(20_000, height, width, (0.08, 1.0), (3 / 4, 4 / 3), fallback="whole").numpy()
    crop, image = v2.RandomResizedCrop(8), torch.zeros(1, height, width)
    theirs = [crop.make_params([image]) for _ in range(4000)]
    theirs = np.array([[draw[key] for key in ("top", "left", "height", "width")] for draw in theirs])
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()
    for column in range(4):
        assert ks_distance(ours[:, column], theirs[:, column]) < 0.035
    assert ks_distance(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]) < 0.035
    assert ks_distance(ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2]) < 0.035
    assert (ours[:, 2] * ours[:, 3]).mean() == pytest.approx((theirs[:, 2] * theirs[:, 3]).mean(), rel=0.03)


def test_boxes_to_erase_are_distributed_as_torchvision_draws_them():
    height, width = 24, 40
    torch.manual_seed(0)
    ours = random_boxes(20_000, height, width, (0.02, 0.33), (0.3, 3.3), fallback="none").numpy()
    erasing, image = v2.RandomErasing(), torch.zeros(1, height, width)
    theirs = [erasing.make_params([image]) for _ in range(4000)]
    theirs = np.array([[draw[key] for key in "ijhw"] for draw in theirs if draw["v"] is not None])
    ours = ours[ours[:, 2] > 0]
    for column in range(4):
        assert ks_distance(ours[:, column], theirs[:, column]) < 0.035
    assert ks_distance(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]) < 0.035
    assert ks_distance(ours[:, 2] / ours[:, 3], theirs[:, 2] / theirs[:, 3]) < 0.035


def test_where_no_box_fits_the_image_is_taken_whole_or_nothing_is_erased():
    whole = random_boxes(50, 8, 8, (0.9, 1.0), (3.0, 3.3), fallback="whole")
    assert torch.equal(whole, torch.tensor([[0, 0, 8, 8]]).expand(50, 4))
    nothing = random_boxes(50, 8, 8, (1.0, 1.0), (1.0, 1.0), fallback="none")
    assert (nothing[:, 2:] == 0).all()


# ---------------------------------------------------------------------------------------------------------------- erase


def test_erasing_fills_a_rectangle_of_about_the_right_share_of_the_images_with_the_mean():
    torch.manual_seed(0)
    images = torch.rand(3000, 2, 16, 16) + 1
    before = images.clone()
    erased = erase(images, 0.25)
    assert torch.equal(images, before)
    touched = (erased != images).any(1)
    chosen = touched.flatten(1).any(1)
    assert chosen.double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(erased, torch.where(touched[:, None], 0.0, images))
    rows, columns = touched[chosen].any(2), touched[chosen].any(1)
    assert torch.equal(touched[chosen], rows[:, :, None] & columns[:, None, :])  # it is a rectangle
    assert ((rows.diff().sum(1) <= 2) & (columns.diff().sum(1) <= 2)).all()  # without gaps
    area = (rows.sum(1) * columns.sum(1)) / 256
    assert area.min() >= 0.02 - 0.012
    assert area.max() <= 0.33 + 0.03
    assert area.mean().item() == pytest.approx(0.175, abs=0.015)


def test_erasing_with_probability_0_touches_nothing_and_with_1_every_image():
    images = torch.ones(200, 1, 16, 16)
    assert torch.equal(erase(images, 0.0), images)
    assert (erase(images, 1.0) == 0).flatten(1).any(1).all()
