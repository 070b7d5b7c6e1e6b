"""Folders of image files: the reported split, what is kept in memory, named refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_datasets import load_dataset, locate_dataset
from image_datasets.dataset import IMAGENET_MEAN, IMAGENET_STD
from utils import BadRequest

REPO = Path(__file__).resolve().parents[2]


def save(path: Path, pixels: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def random_pixels(rng: np.random.Generator, width: int, height: int, grey: bool = False) -> np.ndarray:
    return rng.integers(0, 256, (height, width) if grey else (height, width, 3), dtype=np.uint8)


@pytest.fixture
def make(tmp_path):
    """make(train=4, val=2, ...) writes that many <part>/<class>/<i>.png for each class, and returns the root."""

    def write(classes=("cat", "dog"), width: int = 8, height: int = 8, grey: bool = False, **parts: int) -> Path:
        rng = np.random.default_rng(0)
        for part, count in parts.items():
            for name in classes:
                for i in range(count):
                    save(tmp_path / part / name / f"{i}.png", random_pixels(rng, width, height, grey))
        return tmp_path

    return write


def check(root: Path, name: str = "folder", download: bool = False, verify: bool = True):
    return locate_dataset(name, str(root), download=download, verify=verify)


def read(root: Path, name: str = "folder", workers: int = 0):
    return load_dataset(check(root, name), workers)


# -------------------------------------------------------------------------------------------------------------- content


@pytest.mark.parametrize("workers", [0, 3])
def test_small_images_are_kept_in_memory_pixel_for_pixel(make, workers):
    dataset = read(make(train=5, test=3), workers=workers)
    assert (dataset.side, dataset.in_chans, dataset.class_names) == (8, 3, ["cat", "dog"])
    assert dataset.train.targets.tolist() == [0] * 5 + [1] * 5
    assert dataset.train.images.shape == (10, 8, 8, 3)
    for image, path in zip(dataset.train.images, dataset.train.paths, strict=True):
        assert np.array_equal(image, np.asarray(Image.open(path)))
    assert [Path(path).parent.name for path in dataset.test.paths] == ["cat"] * 3 + ["dog"] * 3


def test_more_images_than_one_thread_decodes_at_once_stay_in_order(tmp_path):
    for i in range(600):
        save(tmp_path / "train" / "a" / f"{i:03}.png", np.full((2, 2), i % 256, np.uint8))
    for part, name in (("test", "a"), ("train", "b")):
        save(tmp_path / part / name / "0.png", np.zeros((2, 2), np.uint8))
    assert read(tmp_path, workers=2).train.images[:600, 0, 0, 0].tolist() == [i % 256 for i in range(600)]


def test_mean_and_deviation_of_small_sets_are_those_of_the_training_images(make):
    dataset = read(make(train=6, test=3))
    pixels = dataset.train.images.astype(np.float64) / 255
    assert dataset.mean == pytest.approx(pixels.mean((0, 1, 2)))
    assert dataset.std == pytest.approx(pixels.std((0, 1, 2)))
    assert len(dataset.mean) == len(dataset.std) == 3


def test_a_channel_of_one_colour_does_not_divide_by_zero(tmp_path):
    for part in ("train", "test"):
        for name in ("a", "b"):
            save(tmp_path / part / name / "0.png", np.full((4, 4, 3), 7, np.uint8))
    assert min(read(tmp_path).std) > 0


def test_large_images_are_left_in_their_files_with_imagenets_statistics(make):
    dataset = read(make(width=65, height=65, train=2, test=1))
    assert (dataset.side, dataset.train.images, dataset.in_chans) == (None, None, 3)
    assert len(dataset.train.paths) == len(dataset.train) == 4
    assert (dataset.mean, dataset.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_images_that_are_small_but_not_square_or_not_of_one_size_are_left_in_their_files(make):
    assert read(make(width=8, height=9, train=2, test=1)).side is None
    root = make(train=2, test=1)
    save(root / "train" / "dog" / "0.png", random_pixels(np.random.default_rng(0), 12, 12))
    assert read(root).side is None


def test_images_of_64_px_are_still_small(make):
    assert read(make(width=64, height=64, train=2, test=1)).side == 64


@pytest.mark.parametrize("side", [8, 70])
def test_grey_images_have_one_channel(make, side):
    dataset = read(make(width=side, height=side, grey=True, train=2, test=1))
    assert (dataset.in_chans, len(dataset.mean), len(dataset.std)) == (1, 1, 1)
    if side == 8:
        assert dataset.train.images.shape == (4, 8, 8, 1)
        assert np.array_equal(dataset.train.images[0, ..., 0], np.asarray(Image.open(dataset.train.paths[0])))


def test_one_class_in_colour_makes_a_set_of_colour_images(make):
    root = make(classes=("cat",), grey=True, train=2, test=1)
    make(classes=("dog",), train=2, test=1)
    dataset = read(root)
    assert dataset.in_chans == 3
    grey = dataset.train.images[0]
    assert (grey == grey[..., :1]).all()


def test_images_are_found_in_subfolders_and_by_any_case_of_their_extension(make):
    root = make(train=2, test=1)
    rng = np.random.default_rng(0)
    save(root / "train" / "cat" / "more" / "deep.PNG", random_pixels(rng, 8, 8))
    save(root / "train" / "cat" / "photo.JPEG", random_pixels(rng, 8, 8))
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    assert np.bincount(read(root).train.targets).tolist() == [4, 2]


def test_a_palette_image_is_read_in_colour(make):
    root = make(train=2, test=1)
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = [255, 0, 0]
    Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE).save(root / "train" / "cat" / "0.png")
    assert np.array_equal(read(root).train.images[0], pixels)


def test_looking_at_a_folder_imports_nothing_heavy(make):
    code = (
        "import sys; from image_datasets import locate_dataset\n"
        f"locate_dataset('folder', {str(make(train=2))!r}, download=False, verify=True)\n"
        "print(sorted({'torch', 'torchvision', 'timm'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------------------- protocol


def test_train_alone_holds_out_a_fixed_stratified_fifth_as_the_test_split(make):
    root = make(train=10)
    first, again = read(root), read(root)
    assert check(root).has_val is False
    assert (first.test_name, first.val) == ("test", None)
    assert np.bincount(first.test.targets).tolist() == [2, 2]
    assert set(first.train.paths).isdisjoint(first.test.paths)
    assert len(first.train) + len(first.test) == 20
    assert first.test.paths == again.test.paths
    assert any("neither test/ nor val/" in note for note in first.notes)
    pixels = first.train.images.astype(np.float64) / 255
    assert first.mean == pytest.approx(pixels.mean((0, 1, 2)))


def test_train_and_val_report_on_val_and_say_so(make):
    root = make(train=4, val=2)
    dataset = read(root)
    assert check(root).has_val is False
    assert (dataset.test_name, dataset.val) == ("val", None)
    assert (len(dataset.train), len(dataset.test)) == (8, 4)
    assert all("val" in Path(path).parts for path in dataset.test.paths)
    assert any("val/ is what is reported on" in note for note in dataset.notes)


def test_train_and_test_report_on_test(make):
    root = make(train=4, test=2)
    dataset = read(root)
    assert check(root).has_val is False
    assert (dataset.test_name, dataset.val, dataset.notes) == ("test", None, [])
    assert (len(dataset.train), len(dataset.test)) == (8, 4)


def test_train_val_and_test_select_on_val_and_report_on_test(make):
    root = make(train=4, val=3, test=2)
    dataset = read(root)
    assert check(root).has_val is True
    assert dataset.test_name == "test"
    assert [len(split) for split in (dataset.train, dataset.val, dataset.test)] == [8, 6, 4]
    assert all("val" in Path(path).parts for path in dataset.val.paths)
    assert all("test" in Path(path).parts for path in dataset.test.paths)


def test_validation_may_lack_a_class_and_keeps_the_class_numbers(make):
    root = make(classes=("ant", "bee", "cat"), train=2)
    make(classes=("cat",), val=2)
    assert read(root).test.targets.tolist() == [2, 2]


# --------------------------------------------------------------------------------------------------------------- errors


def test_flags_without_effect_on_folders_are_refused(make):
    root = make(train=2)
    for name in ("folder", "imagenet1k", "tiny-imagenet"):
        with pytest.raises(BadRequest, match=f"--download has no effect with --dataset {name}"):
            check(root, name, download=True)
        with pytest.raises(BadRequest, match=f"--no-verify-checksum has no effect with --dataset {name}"):
            check(root, name, verify=False)


def test_a_folder_that_is_not_laid_out_as_it_should_be_is_named(tmp_path):
    with pytest.raises(BadRequest, match="gone: no such folder"):
        check(tmp_path / "gone")
    with pytest.raises(BadRequest, match="has no folder train/"):
        check(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(BadRequest, match="train: has no class folders"):
        check(tmp_path)


def test_a_class_folder_without_images_is_named(make):
    root = make(train=2)
    (root / "train" / "emu").mkdir()
    (root / "train" / "emu" / "notes.txt").write_text("no image")
    with pytest.raises(BadRequest, match="emu: a class folder without images"):
        check(root)


@pytest.mark.parametrize("part", ["val", "test"])
def test_classes_that_train_lacks_are_named(make, part):
    root = make(train=2)
    make(classes=("cat", "emu", "yak"), **{part: 1})
    with pytest.raises(BadRequest, match=f"{part}: has classes that train/ lacks: emu, yak"):
        check(root)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_split_without_images_is_named(make, part):
    root = make(train=2)
    (root / part).mkdir()
    with pytest.raises(BadRequest, match=f"{part}: has no class folders"):
        check(root)
    (root / part / "cat").mkdir()
    with pytest.raises(BadRequest, match=f"{part}/cat: a class folder without images"):
        check(root)


@pytest.mark.parametrize("part", ["train", "test"])
def test_small_images_of_differing_sizes_are_left_in_their_files(make, part):
    root = make(train=3, test=3)
    save(root / part / "dog" / "2.png", random_pixels(np.random.default_rng(0), 9, 8))
    dataset = read(root)
    assert (dataset.side, dataset.train.images, dataset.test.images) == (None, None, None)
    assert "differ in size" in dataset.notes[0]


def test_a_single_class_is_refused(make):
    with pytest.raises(BadRequest, match="has only one class folder, images/"):
        check(make(classes=("images",), train=3))


@pytest.mark.parametrize("content", ["text", "truncated"])
@pytest.mark.parametrize("number", [0, 2])
def test_a_corrupt_image_is_named(make, content, number):
    root = make(train=3, test=3)
    path = root / "train" / "dog" / f"{number}.png"
    path.write_bytes(b"not a PNG" if content == "text" else path.read_bytes()[:100])
    with pytest.raises(BadRequest, match=rf"dog/{number}\.png: cannot be read as an image"):
        read(root)


def test_a_class_of_one_image_cannot_give_a_test_image(make):
    with pytest.raises(BadRequest, match="2 classes have too few training images"):
        read(make(train=1))


# -------------------------------------------------------------------------------------------------- ImageNet's layouts


def test_imagenet_reports_on_val_and_needs_it(make):
    root = make(classes=("n01440764", "n01443537"), width=70, height=50, train=2)
    with pytest.raises(BadRequest, match="has no val/"):
        check(root, "imagenet1k")
    make(classes=("n01440764", "n01443537"), width=50, height=70, val=1)
    dataset = read(root, "imagenet1k")
    assert (dataset.name, dataset.side, dataset.test_name, dataset.val) == ("imagenet1k", None, "val", None)
    assert (len(dataset.train), len(dataset.test)) == (4, 2)
    assert dataset.class_names == ["n01440764", "n01443537"]


@pytest.mark.parametrize("layout", ["as distributed, without labels", "in class folders"])
def test_imagenet_reports_on_val_whatever_lies_in_its_test_folder(make, layout):
    root = make(width=70, height=50, train=2, val=1)
    names = ["ILSVRC2012_test_00000001.JPEG"] if "without" in layout else ["cat/0.JPEG", "dog/0.JPEG"]
    for name in names:
        save(root / "test" / name, random_pixels(np.random.default_rng(0), 70, 50))
    dataset = read(root, "imagenet1k")
    assert check(root, "imagenet1k").has_val is False
    assert (dataset.test_name, dataset.val) == ("val", None)
    assert all("val" in Path(path).parts for path in dataset.test.paths)


@pytest.fixture
def tiny(tmp_path) -> Path:
    """tiny-imagenet-200 as distributed, with two classes; the test folder has no labels."""
    rng = np.random.default_rng(0)
    lines = []
    for wnid in ("n02", "n01"):
        for i in range(3):
            save(tmp_path / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", random_pixels(rng, 64, 64))
        (tmp_path / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
    for i, wnid in enumerate(("n02", "n01", "n02", "n01", "n02")):
        save(tmp_path / "val" / "images" / f"val_{i}.JPEG", random_pixels(rng, 64, 64))
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    save(tmp_path / "test" / "images" / "test_0.JPEG", random_pixels(rng, 64, 64))
    return tmp_path


def test_tiny_imagenet_takes_its_validation_classes_from_the_annotations(tiny):
    dataset = read(tiny, "tiny-imagenet")
    assert (dataset.side, dataset.class_names, dataset.test_name, dataset.val) == (64, ["n01", "n02"], "val", None)
    assert dataset.train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.targets.tolist() == [1, 0, 1, 0, 1]
    for image, path in zip(dataset.test.images, dataset.test.paths, strict=True):
        assert np.array_equal(image, np.asarray(Image.open(path)))
    assert [Path(path).name for path in dataset.test.paths] == [f"val_{i}.JPEG" for i in range(5)]
    assert check(tiny, "tiny-imagenet").has_val is False
    assert any("val/ is what is reported on" in note for note in dataset.notes)


def test_tiny_imagenets_annotations_must_be_there_and_fit(tiny):
    annotations = tiny / "val" / "val_annotations.txt"
    content = annotations.read_text()
    annotations.write_text(content + "val_5.JPEG\tn99\t0\t0\t1\t1\n")
    with pytest.raises(BadRequest, match=r"val_annotations\.txt line 6: class 'n99' is not in train/"):
        check(tiny, "tiny-imagenet")
    annotations.write_text(content + "val_9.JPEG\tn01\t0\t0\t1\t1\n")
    with pytest.raises(BadRequest, match=r"val_9\.JPEG: cannot be read"):
        read(tiny, "tiny-imagenet")
    annotations.write_text("")
    with pytest.raises(BadRequest, match="names no images"):
        check(tiny, "tiny-imagenet")
    annotations.unlink()
    with pytest.raises(BadRequest, match=r"val_annotations\.txt: no such file"):
        check(tiny, "tiny-imagenet")
