"""Fast decoding: the pixels, the errors and the crops are Pillow's."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_transform import Augment, image_transform
from image_datasets import decode
from image_datasets.decode import read_pixels
from image_datasets.image_files import read_image
from image_datasets.reading import Reading
from utils import BadRequest


def photograph(width: int = 190, height: int = 130, seed: int = 0) -> Image.Image:
    """Smooth colours with some texture, like a photograph."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)).resize((width, height), 3)
    return Image.fromarray(
        (np.asarray(coarse, int) + rng.integers(-12, 13, (height, width, 3))).clip(0, 255).astype("u1")
    )


def jpeg(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    return exif


def assert_equal(pixels: torch.Tensor, image: Image.Image) -> None:
    assert isinstance(pixels, torch.Tensor)
    assert pixels.dtype == torch.uint8
    assert pixels.permute(1, 2, 0).is_contiguous()
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.atleast_3d(np.asarray(image)))


# ------------------------------------------------------------------------------------------------------------ decoding


PLAIN = {
    "4:2:0": {},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0, "quality": 95},
    "progressive": {"progressive": True},
    "not YCbCr": {"keep_rgb": True},
    "restart markers": {"restart_marker_rows": 1},
    "exif": {"exif": rotated()},
    "comment and profile": {"comment": b"\xff\xc0" * 50, "icc_profile": b"x" * 3000},
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_jpeg_files_have_pillows_pixels(decoder, store, kind):
    path = store(jpeg(photograph(), **PLAIN[kind]))
    assert_equal(read_pixels(path, 3), read_image(path, 3))


@pytest.mark.parametrize("size", [(1, 1), (7, 200), (16, 16), (301, 33)])
@pytest.mark.parametrize("chans", [1, 3])
def test_grey_jpeg_files_have_pillows_pixels_in_grey_and_in_colour(decoder, store, size, chans):
    path = store(jpeg(photograph(*size).convert("L")))
    assert_equal(read_pixels(path, chans), read_image(path, chans))


def test_bytes_behind_the_image_do_no_harm(decoder, store):
    content = jpeg(photograph())
    path = store(content + b"\0" * 100 + content)
    assert_equal(read_pixels(path, 3), read_image(path, 3))


def encoded(image: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


OTHERS = {
    "png": lambda: encoded(photograph(), "PNG"),
    "palette": lambda: encoded(photograph().convert("P"), "GIF"),
    "16 bit": lambda: encoded(Image.fromarray(np.arange(6000, dtype=np.uint16).reshape(60, 100)), "PNG"),
    "alpha": lambda: encoded(photograph().convert("RGBA"), "WEBP"),
    "cmyk": lambda: jpeg(photograph().convert("CMYK")),
    "bytes before a marker": lambda: jpeg(photograph())[:20] + b"zz" + jpeg(photograph())[20:],
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("chans", [1, 3])
def test_all_other_files_are_left_to_pillow_whatever_their_name(decoder, store, kind, chans):
    path = store(OTHERS[kind]())
    image = read_pixels(path, chans)
    assert isinstance(image, Image.Image)
    assert np.array_equal(np.asarray(image), np.asarray(read_image(path, chans)))


def test_a_colour_jpeg_that_is_wanted_in_grey_gets_pillows_grey(store):
    path = store(jpeg(photograph()))
    assert np.array_equal(np.asarray(read_pixels(path, 1)), np.asarray(read_image(path, 1)))


def test_an_image_of_enormous_size_is_left_to_pillow_and_one_that_is_too_large_refused(store, monkeypatch):
    path = store(jpeg(photograph()))
    monkeypatch.setattr(decode, "MAX_JPEG_PIXELS", 1000)
    assert isinstance(read_pixels(path, 3), Image.Image)
    with pytest.raises(BadRequest, match="190 x 130 pixels are more than --max-pixels 1,000 allows"):
        read_pixels(path, 3, Reading(max_pixels=1000))


# -------------------------------------------------------------------------------------------------------------- damage


DAMAGES = {
    "empty": lambda content: b"",
    "start only": lambda content: content[:3],
    "in the header": lambda content: content[:200],
    "a tenth": lambda content: content[: len(content) // 10],
    "half": lambda content: content[: len(content) // 2],
    "all but 100": lambda content: content[:-100],
    "all but the end marker": lambda content: content[:-2],
    "all but one": lambda content: content[:-1],
    "no jpeg at all": lambda content: b"\xff\xd8\xff" + b"hello " * 1000,
    "text": lambda content: b"<html>",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("progressive", [False, True])
def test_damaged_files_are_refused_as_pillow_refuses_them(decoder, store, damage, progressive):
    path = store(DAMAGES[damage](jpeg(photograph(), quality=95, progressive=progressive)))
    with pytest.raises(BadRequest, match=r"a\.jpg: cannot be read as an image \(") as ours:
        read_pixels(path, 3)
    with pytest.raises(BadRequest) as pillows:
        read_image(path, 3)
    assert str(ours.value) == str(pillows.value)


@pytest.mark.parametrize("seed", range(30))
def test_random_damage_gives_pillows_pixels_or_pillows_error(decoder, store, seed):
    rng = np.random.default_rng(seed)
    content = bytearray(jpeg(photograph(), quality=90))
    for place in rng.integers(2, len(content), rng.integers(1, 20)):
        content[place] = rng.integers(256)
    path = store(bytes(content))
    try:
        expected = read_image(path, 3)
    except BadRequest as error:
        with pytest.raises(BadRequest) as ours:
            read_pixels(path, 3)
        assert str(ours.value) == str(error)
    else:
        pixels = read_pixels(path, 3)
        if isinstance(pixels, torch.Tensor):
            pixels = pixels.permute(1, 2, 0).numpy()
        assert np.array_equal(np.asarray(pixels), np.asarray(expected))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadRequest, match=r"none\.jpg: cannot be read as an image"):
        read_pixels(str(Path(tmp_path) / "none.jpg"), 3)


# --------------------------------------------------------------------------------------------------------- transformed


@pytest.mark.parametrize("augment", [
    None, Augment(crop="resized", flip=True), Augment(crop="pad", padding=20, flip=True),
    Augment(crop="resized", flip=True, policy="randaugment"),
])  # fmt: skip
@pytest.mark.parametrize("size", [(500, 375), (240, 420), (150, 100)])
@pytest.mark.parametrize("grey", [False, True])
def test_a_jpeg_becomes_the_same_224_px_image_as_through_pillow(store, augment, size, grey):
    image = photograph(*size)
    path = store(jpeg(image.convert("L") if grey else image))
    transform = image_transform(augment, 224)
    chans = 1 if grey else 3
    for seed in range(4):
        torch.manual_seed(seed)
        ours = transform(read_pixels(path, chans))
        torch.manual_seed(seed)
        pillows = transform(read_image(path, chans))
        assert ours.shape == pillows.shape == (chans, 224, 224)
        assert (ours.int() - pillows.int()).abs().float().mean() < 0.3
