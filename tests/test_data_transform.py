"""Augmentation against torchvision's, Pillow's, and plain formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as TF

from data_transform import (
    Augment,
    Buffers,
    Fit,
    Mix,
    Normalize,
    erase,
    image_transform,
    rand_augment_batch,
    random_boxes,
    random_crop,
    resize,
    resize_boxes,
    shown_share,
)
from image_datasets.padded_images import PaddedImages, augment_batch

CPU = torch.device("cpu")


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def smooth_image(height: int, width: int, chans: int = 3) -> torch.Tensor:
    """uint8 (chans, height, width) without exact ties between pixels, on which operations could round either way."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    planes = [128 + 90 * torch.sin(0.3 * (c + 1) * x + 0.5 * y + c) + 3 * x - 2 * y for c in range(chans)]
    return torch.stack(planes).clamp(0, 255).to(torch.uint8)


def ks_distance(a, b) -> float:
    """Largest difference between two empirical distribution functions (Kolmogorov-Smirnov)."""
    a, b = np.sort(np.asarray(a)), np.sort(np.asarray(b))
    points = np.concatenate([a, b])
    below_a, below_b = (np.searchsorted(values, points, side="right") / len(values) for values in (a, b))
    return float(np.abs(below_a - below_b).max())


# --------------------------------------------------------------------------------------------------- crop, normalise


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


@pytest.mark.parametrize(("mean", "std"), [((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)), ((0.3,), (0.35,))])
def test_normalised_images_equal_torchvisions(mean, std):
    images = random_images(4, len(mean), 5, 7)
    result = Normalize(mean, std, CPU)(images)
    expected = TF.normalize(images.double() / 255, mean, std)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=2e-6)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(Normalize(mean, std, CPU)(channels_last), result)


def test_random_crops_and_flips_are_as_frequent_as_torchvisions():
    side, padding = 5, 1
    image = torch.arange(1, side * side + 1, dtype=torch.uint8).view(1, side, side)  # a crop tells where it was cut
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


# ------------------------------------------------------------------------------------------------- boxes and resizing


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


@pytest.mark.parametrize("img_size", [5, 8, 13])
def test_whole_images_are_resized_as_torchvision_does(img_size):
    images = random_images(3, 3, 8, 8)
    result = resize(images, img_size)
    expected = TF.resize(images.float(), [img_size, img_size], antialias=True)
    assert (result - expected).abs().max() <= 1
    assert result.dtype == torch.uint8


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


def test_resized_crops_of_a_batch_show_parts_of_the_image_in_the_asked_size():
    image = torch.arange(16, dtype=torch.uint8).repeat(16, 1) * 10  # grows to the right: a part has a narrower range
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


# ------------------------------------------------------------------------------------------------------- RandAugment


def operations(side: int):
    """The operations of RandAugment at magnitude 9 of 30, from torchvision's functions (its documented ranges)."""

    def level(top: float) -> float:
        return float(torch.linspace(0, top, 31)[9])  # in float32, as a rounding could go either way otherwise

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


def as_bytes(image: torch.Tensor) -> bytes:
    return image.contiguous().numpy().tobytes()


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
    ours = [as_bytes(result) for result in rand_augment_batch(image.expand(8000, -1, -1, -1))]
    assert set(ours) <= possible
    assert len(set(ours)) > 0.98 * len(possible)
    unchanged = as_bytes(image)
    assert np.mean([a == unchanged for a in ours]) == pytest.approx(np.mean([a == unchanged for a in theirs]), abs=0.02)


def test_rand_augment_changes_neither_its_input_nor_the_order_of_the_images():
    images = torch.stack([smooth_image(12, 12) // 8 + 40 * i for i in range(4)])
    before = images.clone()
    torch.manual_seed(0)
    for _ in range(3):
        results = rand_augment_batch(images)
    assert torch.equal(images, before)
    for image, result in zip(images, results, strict=True):
        assert as_bytes(result) in after_two_operations(image)


# -------------------------------------------------------------------------------------------------------------- erase


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


# ---------------------------------------------------------------------------------------------------------------- mix


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


@pytest.mark.parametrize(("kind", "reference"), [("cutmix", v2.CutMix), ("mixup", v2.MixUp)])
@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_mixing_in_place_is_torchvisions(kind, reference, n, layout):
    """The same draws, images and targets, whatever the memory format, which stays."""
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


# -------------------------------------------------------------------------------------------------------- determinism


def test_the_seed_alone_decides_every_draw():
    store = PaddedImages(random_images(6, 8, 8, 3), 1, CPU)
    mix = Mix("cutmix+mixup", 6, 1.0, 0.8, 0.8)

    def run(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        results = []
        for crop in ("pad", "resized", "none"):
            augment = Augment(crop=crop, padding=1, flip=True, rand=True, erasing=0.5)
            batch = augment_batch(store, torch.arange(6), augment, 8)
            images = erase(Normalize((0.5,) * 3, (0.2,) * 3, CPU)(batch), augment.erasing)
            results += mix(images, torch.arange(6))
        return results

    first, again, other = run(1), run(1), run(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


# ----------------------------------------------------------------------------------------------------------- one image


def pil_image(width: int, height: int, mode: str = "RGB") -> Image.Image:
    chans = len(Image.new(mode, (1, 1)).getbands())
    pixels = random_images(height, width, chans).numpy()
    return Image.fromarray(pixels[..., 0] if chans == 1 else pixels)


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
@pytest.mark.parametrize("rand", [False, True])
def test_a_training_image_has_the_asked_size_and_follows_the_seed(crop, rand, mode):
    image = pil_image(40, 30, mode)
    transform = image_transform(Augment(crop=crop, padding=4, flip=True, rand=rand), 16)

    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return transform(image)

    assert draw(0).shape == (len(image.getbands()), 16, 16)
    assert draw(0).dtype == torch.uint8
    assert torch.equal(draw(0), draw(0))
    different = {draw(seed).numpy().tobytes() for seed in range(12)}
    assert len(different) >= (2 if (crop, rand) == ("none", False) else 6)


def test_a_training_image_without_augmentation_is_the_evaluations():
    image = pil_image(40, 30)
    assert torch.equal(image_transform(Augment(), 16)(image), image_transform(None, 16)(image))


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
        assert distance < 0.051  # Kolmogorov-Smirnov: beyond it in one case of a thousand


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("crop", ["pad", "resized", "none"])
@pytest.mark.parametrize("rand", [False, True])
def test_a_tensor_becomes_what_a_pil_image_of_the_same_pixels_becomes(crop, rand, mode):
    image = Image.effect_mandelbrot((120, 90), (-2, -1.5, 1, 1.5), 30).resize((70, 50)).convert(mode)
    transform = image_transform(Augment(crop=crop, padding=4, flip=True, rand=rand), 32)
    for seed in range(10):
        torch.manual_seed(seed)
        expected = transform(image)
        torch.manual_seed(seed)
        difference = (transform(TF.pil_to_tensor(image)).int() - expected.int()).abs()
        assert difference.float().mean() < 0.3


# --------------------------------------------------------------------------------------------------------------- shape

FILL = (10, 20, 30)
SQUEEZE, LETTERBOX = Fit("squeeze", FILL), Fit("letterbox", FILL)


def test_a_margin_has_the_mean_colour():
    assert Fit.of("letterbox", (0.5, 0.0, 1.0)) == Fit("letterbox", (128, 0, 255))


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("augment", [None, Augment()])
def test_squeezing_shows_all_of_an_image_in_another_aspect_ratio(tensor, augment):
    image = pil_image(60, 20)
    given = TF.pil_to_tensor(image) if tensor else image
    result = image_transform(augment, 16, fit=SQUEEZE)(given)
    assert torch.equal(result, TF.pil_to_tensor(TF.resize(image, [16, 16]))) or tensor
    assert (result.int() - TF.pil_to_tensor(TF.resize(image, [16, 16])).int()).abs().max() <= 1
    assert image_transform(augment, (10, 24), fit=SQUEEZE)(given).shape == (3, 10, 24)


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize(("size", "img_size", "inner"), [
    ((64, 16), 16, (4, 16)), ((16, 64), 16, (16, 4)), ((64, 16), (16, 32), (8, 32)), ((5, 4000), 16, (16, 1)),
    ((30, 30), 16, (16, 16)), ((8, 4), 16, (8, 16)),
])  # fmt: skip
def test_a_letterboxed_image_lies_whole_in_the_middle_of_the_mean_colour(tensor, size, img_size, inner):
    image = Image.new("RGB", size, (200, 100, 50))
    for augment in (None, Augment(), Augment(crop="pad", padding=0)):
        result = image_transform(augment, img_size, fit=LETTERBOX)(TF.pil_to_tensor(image) if tensor else image)
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        expected = torch.tensor(FILL).view(3, 1, 1).repeat(1, height, width)
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        expected[:, top : top + inner[0], left : left + inner[1]] = torch.tensor((200, 100, 50)).view(3, 1, 1)
        assert torch.equal(result.int(), expected.int())


def test_a_grey_image_is_letterboxed_too():
    result = image_transform(None, 8, fit=Fit("letterbox", (7,)))(Image.new("L", (16, 8), 200))[0]
    assert result[:, 0].tolist() == [7, 7, 200, 200, 200, 200, 7, 7]


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize(("size", "shown"), [((60, 20), (20, 20)), ((20, 60), (20, 20))])
def test_cropping_to_a_rectangle_cuts_out_the_centre_of_its_shape(tensor, size, shown):
    image = pil_image(*size)
    given = TF.pil_to_tensor(image) if tensor else image
    for img_size in ((8, 16), (16, 8)):
        height, width = img_size
        result = image_transform(None, img_size, 1.0)(given)
        scale = max(height / size[1], width / size[0])
        large = image.resize((max(width, round(size[0] * scale)), max(height, round(size[1] * scale))), 2)
        expected = TF.pil_to_tensor(TF.center_crop(large, [height, width]))
        assert result.shape == (3, *img_size) and (result.int() - expected.int()).abs().max() <= 1
    assert image_transform(None, (16, 8), 0.5)(given).shape == (3, 16, 8)


def test_the_share_that_a_centre_crop_shows():
    assert shown_share(100, 100, 224, 1.0) == pytest.approx(1)
    assert shown_share(100, 400, 224, 1.0) == pytest.approx(1 / 4)
    assert shown_share(400, 100, (200, 100), 1.0) == pytest.approx(1 / 2)
    assert shown_share(333, 500, 224) == pytest.approx(0.875**2 * 333 / 500)


STRIPES = np.zeros((40, 160, 3), np.uint8)
STRIPES[..., 0] = np.arange(160) * 255 // 159  # red grows to the right, green downwards
STRIPES[..., 1] = (np.arange(40) * 255 // 39)[:, None]


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("img_size", [32, (16, 32)])
def test_random_crops_are_stretched_only_where_they_are_squeezed(tensor, img_size):
    """By the slopes of the colours: how much wider than high a pixel of the crop is, of those of the file."""
    image = Image.fromarray(STRIPES)
    given = TF.pil_to_tensor(image) if tensor else image
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    whole = {"crop": 1.0, "letterbox": 1.0, "squeeze": 160 / 40 * height / width}
    for mode, stretch in whole.items():
        transform = image_transform(Augment(crop="resized"), img_size, fit=Fit(mode, (0, 0, 255)))
        ratios, margins = [], []
        for seed in range(40):
            torch.manual_seed(seed)
            crop = transform(given).int()
            assert crop.shape == (3, height, width)
            rows, columns = (crop[2] < 128).any(1).nonzero()[:, 0], (crop[2] < 128).any(0).nonzero()[:, 0]
            margins.append(len(rows) * len(columns) / (height * width))
            red, green = (crop[c][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] for c in (0, 1))
            ratios.append((red[0, -1] - red[0, 0]) / len(columns) / ((green[-1, 0] - green[0, 0]) / len(rows)) * 4)
        ratios = np.array(ratios) / stretch
        assert (margins == np.ones(40)).all() == (mode != "letterbox")
        tolerance = 1.25 if mode == "letterbox" else 1.25 * 4 / 3
        assert (1 / tolerance < ratios).all() and (ratios < tolerance).all(), (mode, ratios)


def test_random_crops_of_squares_are_the_same_in_each_mode_but_for_the_margin():
    image = pil_image(40, 40)
    for seed in range(5):
        results = []
        for fit in (Fit(), SQUEEZE):
            torch.manual_seed(seed)
            results.append(image_transform(Augment(crop="resized", flip=True), 16, fit=fit)(image))
        assert torch.equal(*results)


@pytest.mark.parametrize(("mode", "inner"), [("crop", (8, 16)), ("squeeze", (8, 16)), ("letterbox", (8, 8))])
def test_squares_in_memory_become_rectangles(mode, inner):
    """A gradient to the right: cropped it is whole, squeezed too, letterboxed narrower."""
    square = torch.arange(16, dtype=torch.uint8).mul(16).view(1, 1, 16, 1).expand(1, 16, 16, 1).contiguous()
    square[:, :4], square[:, 12:] = 99, 99  # seen only where nothing is cropped
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


# --------------------------------------------------------------------------------------------------- memory of batches


def test_memory_is_used_again_only_when_no_tensor_refers_to_it():
    buffers = Buffers()
    first, second = buffers.take((2, 5)).fill_(1), buffers.take((2, 5)).fill_(2)
    assert (first == 1).all() and (second == 2).all()
    view = second.view(-1)[3:]
    del second
    buffers.take((2, 5)).fill_(3)
    assert (first == 1).all() and (view == 2).all()
    del first, view
    buffers = Buffers()
    array = buffers.take((2, 5)).fill_(4).numpy()
    buffers.take((3, 3)).fill_(5)
    assert (array == 4).all()
    known = {id(memory) for memory, _ in buffers.lent}
    del array
    held = buffers.take((2, 5)), buffers.take((3, 2))  # a smaller batch fits as well
    assert {id(memory) for memory, _ in buffers.lent} == known
    assert len({tensor.data_ptr() for tensor in held}) == 2


def test_normalised_batches_do_not_overwrite_those_that_are_still_held():
    normalize = Normalize((0.5,), (0.25,), torch.device("cpu"))
    images = [random_images(6, 9, 1)[None].permute(0, 3, 1, 2) for _ in range(5)]
    batches = [normalize(image) for image in images]
    for image, batch in zip(images, batches, strict=True):
        torch.testing.assert_close(batch, (image / 255 - 0.5) / 0.25)
