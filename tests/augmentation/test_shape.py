"""Images of any shape, brought to the shape of the model: cropped, squeezed, or with a margin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sample_images import pil_image, random_images
from torchvision.transforms.v2 import functional as TF

from data_transform import Augment, Fit, image_transform, resize, shown_share

FILL = (10, 20, 30)
SQUEEZE, LETTERBOX = Fit("squeeze", FILL), Fit("letterbox", FILL)


def test_a_margin_has_the_mean_colour():
    assert Fit.of("letterbox", (0.5, 0.0, 1.0)) == Fit("letterbox", (128, 0, 255))


@pytest.mark.parametrize("img_size", [5, 8, 13])
def test_whole_images_are_resized_as_torchvision_does(img_size):
    images = random_images(3, 3, 8, 8)
    result = resize(images, img_size)
    expected = TF.resize(images.float(), [img_size, img_size], antialias=True)
    assert (result - expected).abs().max() <= 1
    assert result.dtype == torch.uint8


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
    """Measured by the slopes of the colours: the aspect ratio of a pixel of the crop, in pixels of the file."""
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
