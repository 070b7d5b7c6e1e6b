"""Corruptions against other implementations of their definitions, and properties of all of them."""

import colorsys
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import fft, ndimage, stats

from image_datasets.corruptions import CORRUPTIONS, STRENGTHS, corrupt, parameter

SIDES = [(8, 1), (8, 3), (32, 3), (48, 1), (64, 3), (65, 1), (224, 3)]
RANDOM = ("gaussian_noise", "shot_noise", "occlusion", "patch_shuffle")


def pictures(count: int, side: int, chans: int) -> torch.Tensor:
    """uint8 (count, chans, side, side) with smooth shapes, black and white included, in channels-last memory."""
    rng = np.random.default_rng(side + chans)
    noise = ndimage.gaussian_filter(rng.normal(size=(count, side, side, chans)), (0, side / 8, side / 8, 0))
    pixels = np.clip(255 * (0.5 + 0.7 * noise / np.abs(noise).max((1, 2), keepdims=True)), 0, 255).round()
    return torch.from_numpy(pixels.astype(np.uint8)).permute(0, 3, 1, 2)


def as_arrays(images: torch.Tensor) -> np.ndarray:
    """float64 (N, H, W, C) in [0, 1]."""
    return images.permute(0, 2, 3, 1).numpy() / 255


def assert_same(images: torch.Tensor, expected: np.ndarray) -> None:
    """Asserts `expected` (N, H, W, C) in [0, 1], clipped and rounded to the nearest level; ties may go either way."""
    exact = np.clip(255 * expected, 0, 255)
    assert np.abs(images.permute(0, 2, 3, 1).numpy() - exact).max() < 0.5 + 1e-4


# ------------------------------------------------------------------------------------------------ other implementations


@pytest.mark.parametrize("strength", [1, 5])
@pytest.mark.parametrize(("side", "chans", "deviations"), [
    (8, 1, (0.4, 1.0)), (32, 3, (0.4, 1.0)), (64, 3, (0.8, 2.0)), (112, 1, (0.5, 3.0)), (224, 3, (1.0, 6.0)),
])  # fmt: skip
def test_blur_is_scipys_whose_edge_pixels_go_on(side, chans, deviations, strength):
    images = pictures(2, side, chans)
    sigma = deviations[strength == 5]
    expected = ndimage.gaussian_filter(as_arrays(images), (0, sigma, sigma, 0), mode="nearest", truncate=4.0)
    assert_same(corrupt(images, range(2), "gaussian_blur", strength, 0), expected)


@pytest.mark.parametrize(("side", "factors"), [(8, (0.75, 0.15)), (32, (0.75, 0.15)), (224, (0.4, 0.05))])
def test_contrast_pulls_each_channel_to_its_mean(side, factors):
    images = pictures(3, side, 3)
    for strength, factor in zip((1, 5), factors, strict=True):
        x = as_arrays(images)
        mean = x.mean((1, 2), keepdims=True)
        assert_same(corrupt(images, range(3), "contrast", strength, 0), (x - mean) * factor + mean)


@pytest.mark.parametrize(("side", "strength", "added"), [(8, 1, 0.05), (16, 5, 0.3), (66, 1, 0.1), (66, 5, 0.5)])
def test_brightness_is_added_to_the_value_of_hsv(side, strength, added):
    images = pictures(1, side, 3)
    images[0, :, 0, :3] = torch.tensor([[0, 255, 7], [0, 0, 7], [0, 0, 7]])  # black, red, dark grey
    expected = as_arrays(images)
    for pixel in expected.reshape(-1, 3):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        pixel[:] = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + added))
    assert_same(corrupt(images, [0], "brightness", strength, 0), expected)


def test_brightness_of_grey_images_is_added_to_every_pixel():
    images = pictures(2, 8, 1)
    assert_same(corrupt(images, [0, 1], "brightness", 3, 0), as_arrays(images) + 0.15)


# ITU-T T.81, table K.1: quantisation steps of luminance frequencies at quality 50.
STEPS = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip


@pytest.mark.parametrize(
    ("side", "strength", "quality"), [(8, 1, 80), (8, 5, 40), (32, 3, 58), (72, 1, 25), (72, 5, 7)]
)
def test_jpeg_rounds_the_frequencies_of_blocks_of_grey_to_the_standards_steps(side, strength, quality):
    images = pictures(4, side, 1)
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = np.clip((STEPS * int(scale) + 50) // 100, 1, 255)
    blocks = (images[:, 0].double().numpy() - 128).reshape(4, side // 8, 8, side // 8, 8).transpose(0, 1, 3, 2, 4)
    frequencies = fft.dctn(blocks, axes=(3, 4), norm="ortho")
    blocks = fft.idctn((frequencies / steps).round() * steps, axes=(3, 4), norm="ortho")
    expected = np.clip(blocks.transpose(0, 1, 3, 2, 4).reshape(4, side, side) + 128, 0, 255).round()
    difference = np.abs(corrupt(images, range(4), "jpeg", strength, 0)[:, 0].numpy() - expected)
    # libjpeg uses integers: sometimes it is a level off, or rounds a frequency the other way.
    assert np.median(difference) == 0 and (difference > 1).mean() < 0.05


@pytest.mark.parametrize(("side", "strength", "quality"), [(8, 1, 80), (32, 3, 58), (100, 1, 25), (224, 5, 7)])
def test_jpeg_of_colours_is_that_of_a_file_of_that_quality(tmp_path, side, strength, quality):
    images = pictures(2, side, 3)
    for image, result in zip(images, corrupt(images, range(2), "jpeg", strength, 0), strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a.jpg", quality=quality, subsampling="4:2:0")
        assert np.array_equal(result.permute(1, 2, 0).numpy(), np.asarray(Image.open(tmp_path / "a.jpg")))


@pytest.mark.parametrize(("side", "strength", "deviation"), [(32, 1, 0.04), (32, 5, 0.10), (224, 1, 0.08)])
def test_gaussian_noise_is_normal_with_the_published_deviation(side, strength, deviation):
    grey = torch.full((4, 3, side, side), 128, dtype=torch.uint8)
    noise = (corrupt(grey, range(4), "gaussian_noise", strength, 0).double() - 128) / (255 * deviation)
    unit = noise.flatten().numpy()
    count = len(unit)
    assert abs(unit.mean()) < 4 / count**0.5 and abs(unit.std() - 1) < 4 / (2 * count) ** 0.5
    assert abs(stats.kurtosis(unit)) < 4 * (24 / count) ** 0.5
    apart = noise.flatten(2)
    assert abs(np.corrcoef(apart.flatten(0, 1).numpy()) - np.eye(12)).max() < 5 / apart.shape[2] ** 0.5


@pytest.mark.parametrize(("side", "strength", "photons"), [(32, 1, 500), (32, 5, 50), (100, 3, 12), (100, 5, 3)])
@pytest.mark.parametrize("level", [51, 204])
def test_shot_noise_counts_photons(side, strength, photons, level):
    images = torch.full((3, 3, side, side), level, dtype=torch.uint8)
    found = corrupt(images, range(3), "shot_noise", strength, 0).double().numpy() / 255 * photons
    count, mean = found.size, photons * level / 255
    numbers = np.arange(int(photons) + 1)
    chances = stats.poisson.pmf(numbers, mean)
    chances[-1] += stats.poisson.sf(photons, mean)  # brighter than white is clipped
    expected_mean = (numbers * chances).sum()
    variance = (numbers**2 * chances).sum() - expected_mean**2
    assert abs(found.mean() - expected_mean) < 4 * (variance / count) ** 0.5
    assert found.var() == pytest.approx(variance, rel=0.08)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize(("side", "grid"), [(8, 8), (32, 8), (30, 8), (224, 14)])
def test_occlusion_blackens_its_share_of_the_patches_and_nothing_else(side, grid, strength):
    images = torch.full((6, 3, side, side), 200, dtype=torch.uint8)
    found = corrupt(images, range(6), "occlusion", strength, 0)
    edges = [-(-i * side // grid) for i in range(grid + 1)]
    patches = [
        found[:, :, top:bottom, left:right].flatten(1)
        for top, bottom in itertools.pairwise(edges)
        for left, right in itertools.pairwise(edges)
    ]
    assert all(((patch == 0).all(1) | (patch == 200).all(1)).all() for patch in patches)
    dropped = torch.stack([(patch == 0).all(1) for patch in patches], 1)
    assert dropped.sum(1).tolist() == [round(strength / 10 * grid**2)] * 6
    assert len({tuple(row.tolist()) for row in dropped}) == 6


@pytest.mark.parametrize(("strength", "grid"), list(enumerate([(2, 2), (2, 4), (4, 4), (4, 8), (8, 8)], 1)))
@pytest.mark.parametrize("side", [8, 32, 28, 224])
def test_shuffling_permutes_whole_patches(side, strength, grid):
    rows, columns = grid
    h, w = side // rows, side // columns
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    image[:, 0] = torch.randint(256, (side, side), generator=torch.Generator().manual_seed(1))
    image[:, 1:] = 255 - image[:, :1]
    top, left = (side - rows * h) // 2, (side - columns * w) // 2

    def patches(image: torch.Tensor) -> list[tuple]:
        inner = image[0, :, top : top + rows * h, left : left + columns * w]
        return [tuple(patch.flatten().tolist()) for row in inner.split(h, 1) for patch in row.split(w, 2)]

    found = [corrupt(image, [i], "patch_shuffle", strength, 0) for i in range(3)]
    assert all(sorted(patches(result)) == sorted(patches(image)) for result in found)
    assert len({tuple(patches(result)) for result in found}) > 1
    for result in found:
        result[0, :, top : top + rows * h, left : left + columns * w] = image[0, :, top : top + rows * h,
                                                                             left : left + columns * w]  # fmt: skip
        assert torch.equal(result, image)


# ---------------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(("side", "chans"), SIDES)
def test_images_stay_images_and_suffer_more_with_every_strength(name, side, chans):
    images = pictures(24 if side <= 65 else 3, side, chans)
    before = images.clone()
    harm = []
    for strength in STRENGTHS:
        found = corrupt(images, range(len(images)), name, strength, 0)
        assert found.dtype == torch.uint8 and found.shape == images.shape
        harm.append((found.double() - images.double()).square().mean().sqrt().item())
    assert torch.equal(images, before)
    assert harm[0] > 0
    if name == "patch_shuffle":  # finer patches move content further, but do not change pixel values more
        assert min(harm) > 0.5 * max(harm)
    else:
        assert harm == sorted(harm), harm


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("side", [8, 32, 70])
def test_an_image_is_corrupted_in_one_way_whatever_batch_it_is_in(name, side):
    images, indices = pictures(12, side, 3), list(range(100, 112))
    whole = corrupt(images, indices, name, 4, 7)
    for size in (1, 5):
        parts = [corrupt(images[i : i + size], indices[i : i + size], name, 4, 7) for i in range(0, 12, size)]
        assert torch.equal(torch.cat(parts), whole)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(corrupt(images[order], [indices[i] for i in order], name, 4, 7), whole[order])
    assert torch.equal(corrupt(images.contiguous(), indices, name, 4, 7), whole)


@pytest.mark.parametrize("name", RANDOM)
def test_the_draws_differ_between_images_strengths_seeds_and_nothing_else(name):
    image = pictures(1, 32, 3)
    torch.manual_seed(5)
    first = corrupt(image, [3], name, 5, 0)
    torch.manual_seed(6)
    assert torch.equal(corrupt(image, [3], name, 5, 0), first)
    assert not torch.equal(corrupt(image, [4], name, 5, 0), first)
    assert not torch.equal(corrupt(image, [3], name, 5, 1), first)
    assert not torch.equal(*(corrupt(image, [3], name, strength, 0) for strength in (4, 5)))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for name in CORRUPTIONS:
        corrupt(pictures(2, 8, 1), [0, 1], name, 1, 0)
    assert torch.equal(torch.rand(3), expected)


def test_the_blur_follows_the_side_of_the_image_and_noise_does_not():
    assert [parameter("gaussian_blur", 5, side) for side in (8, 32, 64, 112, 224)] == [1.0, 1.0, 2.0, 3.0, 6.0]
    assert parameter("gaussian_blur", 1, 65) == 0.4
    assert [parameter("gaussian_noise", 5, side) for side in (8, 64, 65, 224)] == [0.1, 0.1, 0.38, 0.38]


def test_rectangular_images_are_taken_too():
    images = pictures(2, 32, 3)[:, :, :20]
    for name in CORRUPTIONS:
        assert corrupt(images, [0, 1], name, 5, 0).shape == images.shape
