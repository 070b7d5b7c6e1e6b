"""Damaged and odd image files: readable ones have Pillow's pixels; unreadable ones stop a run or are left out.

Leaving one out moves no other image.
"""

from __future__ import annotations

import io
import json
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_transform import Augment
from image_datasets import load_dataset, locate_dataset
from image_datasets.bad_images import BadImage, BadImages
from image_datasets.batches import EvalBatches, ResidentTrainBatches, StreamedTrainBatches
from image_datasets.decode import as_array, read_pixels
from image_datasets.reading import CURRENT, OLDEST, Reading
from image_datasets.resized.making import Form, complete
from image_datasets.splits import Split
from training.evaluation import evaluate
from utils import BadRequest, RunFailed

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
COUNT = 13
BAD = 6
EVERYTHING = Augment(crop="resized", flip=True, policy="randaugment", erasing=0.5)


def colours(width: int = 40, height: int = 24, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height), 3)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def see_through_palette() -> bytes:
    """An image with an opacity for each colour."""
    return encoded(colours().quantize(16), "PNG", transparency=bytes(range(0, 256, 16)))


def png_header(width: int, height: int) -> bytes:
    """A small PNG file whose header claims an RGB image of this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def huge_jpeg() -> bytes:
    content = bytearray(encoded(colours(), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(content)


READABLE = {
    "png.jpg": lambda: encoded(colours(), "PNG"),
    "jpeg.png": lambda: encoded(colours(), "JPEG"),
    "cmyk.jpg": lambda: encoded(colours().convert("CMYK"), "JPEG"),
    "palette.png": lambda: encoded(colours().quantize(16), "PNG"),
    "see-through palette.png": see_through_palette,
    "see-through.png": lambda: encoded(colours().convert("RGBA"), "PNG"),
    "16 bit.png": lambda: encoded(Image.fromarray(np.arange(0, 60_000, 10, np.uint16).reshape(60, 100)), "PNG"),
    "grey.jpg": lambda: encoded(colours().convert("L"), "JPEG"),
    "grey.png": lambda: encoded(colours().convert("L"), "PNG"),
    "animated.gif": lambda: encoded(
        colours(), "GIF", save_all=True, append_images=[colours(seed=1), colours(seed=2)], duration=100
    ),
    "turned.jpg": lambda: encoded(colours(), "JPEG", exif=exif(6)),
    "turned.png": lambda: encoded(colours(), "PNG", exif=exif(6)),
    "turned.webp": lambda: encoded(colours(), "WEBP", lossless=True, exif=exif(6)),
    "with spaces and ünïcödé 图.jpg": lambda: encoded(colours(), "JPEG"),
    "two\nlines.jpg": lambda: encoded(colours(), "JPEG"),
}
UNREADABLE = {
    "truncated.jpg": lambda: encoded(colours(), "JPEG")[:-200],
    "truncated.png": lambda: encoded(colours(), "PNG")[:-300],
    "zero bytes.jpg": lambda: b"",
    "text.jpg": lambda: b"this is no image\n",
    "pixel bomb.png": lambda: png_header(30_000, 30_000),
    "pixel bomb just above.png": lambda: png_header(10_000, 9_000),
    "pixel bomb.jpg": huge_jpeg,
    "a line.png": lambda: encoded(Image.new("RGB", (1, 1500)), "PNG"),
    "a line.jpg": lambda: encoded(Image.new("RGB", (1500, 1)), "JPEG"),
    "two\nlines and \udcff.jpg": lambda: b"",
}


def store(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


# ----------------------------------------------------------------------------------------------------------- one by one


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", READABLE)
def test_under_the_oldest_rules_what_is_readable_has_pillows_pixels_with_either_decoder(decoder, tmp_path, name, mode):
    path = store(tmp_path, name, READABLE[name]())
    pixels = as_array(read_pixels(path, len(mode), Reading(OLDEST)))
    with Image.open(path) as image:
        expected = np.asarray(image.convert(mode)).reshape(pixels.shape)
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("name", [name for name in READABLE if name.startswith("turned")])
def test_under_the_oldest_rules_images_are_not_turned_as_their_exif_data_say(decoder, tmp_path, name):
    """Like the scripts behind published ImageNet results. Pillow itself turns only TIFF files."""
    pixels = as_array(read_pixels(store(tmp_path, name, READABLE[name]()), 3, Reading(OLDEST))).astype(int)
    assert pixels.shape == (24, 40, 3)
    assert np.abs(pixels - np.asarray(colours())).mean() < 20


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    pixels = as_array(read_pixels(store(tmp_path, "a.gif", READABLE["animated.gif"]()), 3)).astype(int)
    errors = [np.abs(pixels - np.asarray(colours(seed=seed))).mean() for seed in range(3)]
    assert errors[0] < 20 < min(errors[1:])


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_not_readable_is_named_at_once_and_takes_no_memory(decoder, tmp_path, name):
    path = store(tmp_path, name, UNREADABLE[name]())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadImage, match="cannot be read as an image") as failure:
        read_pixels(path, 3)
    assert failure.value.path == path and failure.value.reason
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB; a bomb's pixels are 270 MB


# -------------------------------------------------------------------------------------------------------------- batches


@pytest.fixture
def files(tmp_path) -> Split:
    """Images of different sizes; the class of an image is its index."""
    paths = [
        store(tmp_path, f"{i}.{form.lower()}", encoded(colours(30 + i, 40 - i, seed=i), form))
        for i, form in zip(range(COUNT), ["PNG", "JPEG"] * COUNT, strict=False)
    ]
    return Split(np.arange(COUNT), paths=paths)


@pytest.fixture
def small(tmp_path):
    """A folder of images of one size, which `load_dataset` keeps in memory: four classes, 20 + 8 images."""
    for part, count in (("train", 5), ("test", 2)):
        for label in range(4):
            folder = tmp_path / "small" / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                store(folder, f"{i}.png", encoded(colours(16, 16, seed=100 * label + i), "PNG"))
    return tmp_path / "small"


def load(root: Path, skip_bad: bool = True):
    return load_dataset(locate_dataset("folder", str(root), download=False, verify=True, skip_bad=skip_bad))


def train_batches(split: Split, bad: BadImages | None, workers: int = 0, augment: Augment = EVERYTHING):
    report = None if bad is None else bad.of("train")
    args = (split, augment, 12, MEAN, STD, CPU, 4, 3, 0, 1, report)
    return StreamedTrainBatches(*args, workers=workers) if split.images is None else ResidentTrainBatches(*args)


def collect(batches) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(images.clone(), targets) for images, targets in batches]


def assert_only_that_is_missing(whole: list, rest: list, order: torch.Tensor, bad: list[int]) -> None:
    """Asserts that the batches of `rest` are those of `whole` without some images, and otherwise equal bit for bit.

    Args:
        order: of the images in `whole`.
    """
    gone = torch.isin(order, torch.tensor(bad))
    assert int(gone.sum()) == len(bad) and len(whole) == len(rest)
    for (images, targets), (fewer, their), out in zip(whole, rest, gone.split([len(t) for _, t in whole]), strict=True):
        assert torch.equal(targets[~out], their)
        assert torch.equal(images[~out], fewer)
        assert fewer.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_is_left_out_of_its_batch_and_no_other_image_changes(files, workers):
    whole = train_batches(files, None)
    expected = [collect(whole.epoch(epoch)) for epoch in (0, 1)]
    Path(files.paths[BAD]).write_bytes(b"")
    Path(files.paths[3]).unlink()
    bad = BadImages()
    batches = train_batches(files, bad, workers)
    for epoch in (0, 1):
        order = torch.cat([targets for _, targets in expected[epoch]])
        assert_only_that_is_missing(expected[epoch], collect(batches.epoch(epoch)), order, [3, BAD])
        assert_only_that_is_missing(expected[epoch][1:], collect(batches.epoch(epoch, 1)), order[4:],
                                    [i for i in (3, BAD) if i in order[4:]])  # fmt: skip
    assert set(bad.found) == {("train", files.paths[i]) for i in (3, BAD)}
    with pytest.raises(RunFailed, match="cannot be read as an image"):
        collect(train_batches(files, None, workers).epoch(0))


@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_images_in_memory_are_left_out_of_their_batches_alike(small, crop):
    augment = Augment(crop=crop, padding=2, flip=True, policy="randaugment", erasing=0.5)
    before = load(small)
    numbered = Split(np.arange(20), before.train.images, before.train.paths)
    expected = [collect(train_batches(numbered, None, augment=augment).epoch(epoch)) for epoch in (0, 1)]
    for name in ("train/class0/0.png", "train/class2/3.png"):  # the first of the first class, which decides the size
        (small / name).write_bytes(b"no image")
    dataset = load(small)
    bad = BadImages()
    batches = train_batches(Split(np.arange(20), dataset.train.images, dataset.train.paths, None,
                                  dataset.train.reasons), bad, augment=augment)  # fmt: skip
    for epoch in (0, 1):
        order = torch.cat([targets for _, targets in expected[epoch]])
        assert_only_that_is_missing(expected[epoch], collect(batches.epoch(epoch)), order, [0, 13])
    assert {path for _, path in bad.found} == {str(small / "train/class0/0.png"), str(small / "train/class2/3.png")}
    pixels = np.delete(before.train.images, [0, 13], 0).astype(float) / 255
    assert dataset.mean == pytest.approx(pixels.mean((0, 1, 2)))
    assert dataset.std == pytest.approx(pixels.std((0, 1, 2)))
    with pytest.raises(BadRequest, match=r"class0/0\.png: cannot be read as an image"):
        load(small, skip_bad=False)


def test_without_bad_files_nothing_changes(files, small):
    for split in (files, load(small).train):
        expected = collect(train_batches(split, None).epoch(0))
        drawn = collect(train_batches(split, BadImages()).epoch(0))
        for batch, other in zip(expected, drawn, strict=True):
            assert torch.equal(batch[0], other[0]) and torch.equal(batch[1], other[1])


def test_grey_and_a_subset_of_images_in_memory_leave_the_same_files_out(small):
    (small / "train/class1/2.png").write_bytes(b"")
    split = load(small).with_channels(1).train.subset(np.arange(5, 20))
    assert split.bad().tolist() == [2] and split.paths[2].endswith("class1/2.png")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_of_bad_files_alone_is_empty(files, workers):
    order = torch.cat([targets for _, targets in train_batches(files, None).epoch(0)])
    for i in order[4:8]:
        Path(files.paths[i]).write_bytes(b"")
    drawn = collect(train_batches(files, BadImages(), workers).epoch(0))
    assert [images.shape for images, _ in drawn] == [(4, 3, 12, 12), (0, 3, 12, 12), (5, 3, 12, 12)]


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_tells_which_images_it_gave(files, workers):
    complete_ = torch.cat([images for images, _ in EvalBatches(files, 14, MEAN, STD, CPU, 5)])
    for i in (1, 5, 6, 7, 8, 9):  # the whole second batch
        Path(files.paths[i]).write_bytes(b"")
    bad = BadImages()
    batches = EvalBatches(files, 14, MEAN, STD, CPU, 5, workers, report=bad.of("test"))
    for _ in range(2):
        drawn = collect(batches)
        left = [0, 2, 3, 4, 10, 11, 12]
        assert torch.cat([targets for _, targets in drawn]).tolist() == left
        assert batches.seen.tolist() == batches.seen_targets().tolist() == left
        assert torch.equal(torch.cat([images for images, _ in drawn]), complete_[left])
        assert all(len(targets) for _, targets in drawn)
    assert bad.finish() == {"train": 0, "val": 0, "test": 6}


def test_evaluation_of_images_in_memory_tells_it_too(small):
    for name in ("class0/0.png", "class3/1.png"):
        (small / "test" / name).write_bytes(b"")
    bad = BadImages()
    batches = EvalBatches(load(small).test, 16, MEAN, STD, CPU, 3, report=bad.of("test"))
    assert torch.cat([targets for _, targets in batches]).tolist() == [0, 1, 1, 2, 2, 3]
    assert batches.seen_targets().tolist() == [0, 1, 1, 2, 2, 3]
    assert bad.finish()["test"] == 2


def test_a_split_of_which_nothing_can_be_read_is_an_error(files, small):
    for path in [*files.paths, *(str(path) for path in (small / "test").rglob("*.png"))]:
        Path(path).write_bytes(b"")
    for split in (files, load(small).test):
        batches = EvalBatches(split, 14, MEAN, STD, CPU, 5, report=BadImages().of("test"))
        with pytest.raises(RunFailed, match=r"not one of .* images can be read"):
            evaluate(torch.nn.Identity(), batches, 4, "fp32")
    for path in (small / "train").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(BadRequest, match="none of the 20 training images can be read"):
        load(small)


def test_a_resized_copy_lacks_the_bad_files_and_no_other_image_changes(tmp_path, files):
    def batches(skip_bad: bool) -> list:
        form = Form("raw", 20, 3, CURRENT)
        copies = complete(tmp_path / "copies", form, str(tmp_path), files.paths, 0, skip_bad)
        split = Split(files.targets, paths=files.paths, copies=copies)
        return collect(train_batches(split, bad if skip_bad else None).epoch(1))

    expected = batches(skip_bad=False)
    Path(files.paths[BAD]).write_bytes(b"text")
    Path(files.paths[2]).unlink()
    bad = BadImages()
    with pytest.raises(BadRequest):
        batches(skip_bad=False)
    for _ in range(2):  # the second time the copy has all others
        order = torch.cat([targets for _, targets in expected])
        assert_only_that_is_missing(expected, batches(skip_bad=True), order, [2, BAD])
    assert {path for _, path in bad.found} == {files.paths[2], files.paths[BAD]}


# ------------------------------------------------------------------------------------------------------------- the list


def test_the_list_has_a_line_for_each_file_whatever_its_name(tmp_path):
    list_ = tmp_path / "bad_images.txt"
    names = ["b.jpg", "two\nlines.jpg", "\udcff\u2028.jpg"]
    bad = BadImages()
    bad.add("train", names[0], "broken")
    bad.write_to(list_)
    for name in names * 2:
        bad.add("train", name, "broken")
    bad.add("test", names[0], "broken")
    entries = [json.loads(line) for line in list_.read_text().splitlines()]
    assert [(entry["split"], entry["path"]) for entry in entries] == [*(("train", n) for n in names), ("test", "b.jpg")]
    list_.write_text(list_.read_text() + '{"split": "tra')  # left by a killed process

    resumed = BadImages()
    resumed.write_to(list_)
    resumed.add("val", "c.jpg", "broken")
    assert resumed.finish() == {"train": 3, "val": 1, "test": 1}
    entries = [json.loads(line) for line in list_.read_text().splitlines()]
    assert [(entry["split"], entry["path"]) for entry in entries] == sorted(
        [("test", "b.jpg"), ("val", "c.jpg"), *(("train", name) for name in names)]
    )


def test_without_bad_files_there_is_no_list(tmp_path):
    bad = BadImages()
    bad.write_to(tmp_path / "bad_images.txt")
    assert bad.finish() == {"train": 0, "val": 0, "test": 0}
    assert not (tmp_path / "bad_images.txt").exists()
