"""Real folders hold more than images in class folders: what counts as an image, and what as a class."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_datasets import load_dataset, locate_dataset
from image_datasets.reading import Reading
from utils import BadRequest


@pytest.fixture
def root(tmp_path) -> Path:
    """train/ with 10 and test/ with 4 images of 8 px per class, cat/ and dog/."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 4)):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                save(folder / f"{i}.png", rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return tmp_path / "images"


def save(path: Path, pixels: np.ndarray, kind: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, kind)


def colour(seed: int = 5, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def read(root: Path, rules: int = 2):
    return load_dataset(locate_dataset("folder", str(root), False, True, reading=Reading(rules)))


def counts(dataset) -> list[int]:
    return np.bincount(dataset.train.targets).tolist()


def told(dataset, needle: str) -> bool:
    return any(needle in note for note in dataset.notes)


# ------------------------------------------------------------------------------------------------ hidden files, litter


def test_what_nobody_sees_is_no_image_and_no_class(root):
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".git"):
        save(root / "train" / "cat" / name / "0-checkpoint.png", colour())
        save(root / "train" / name / "0.png", colour())
    save(root / "train" / "cat" / "._0.png", colour(), "png")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / "train" / "dog" / name).write_bytes(b"\0\1")
    dataset = read(root)
    assert dataset.class_names == ["cat", "dog"] and counts(dataset) == [10, 10]
    assert told(dataset, "left out: 12 files and folders that are hidden, or that programs leave behind")


def test_an_older_run_still_has_what_it_had(root):
    save(root / "train" / "cat" / ".ipynb_checkpoints" / "0.png", colour())
    dataset = read(root, rules=1)
    assert counts(dataset) == [11, 10] and told(dataset, "by the rules of earlier versions (--data-rules 1)")


# ------------------------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("name", ["valid", "validation", "dev", "val"])
def test_the_usual_names_of_the_validation_split_are_understood(root, name):
    for label in ("cat", "dog"):
        save(root / name / label / "0.png", colour(hash(label) % 100))
    dataset = read(root)
    assert len(dataset.val) == 2 and len(dataset.test) == 8 and dataset.notes == []


def test_two_folders_for_one_split_are_refused(root):
    for name in ("val", "valid"):
        save(root / name / "cat" / "0.png", colour())
    with pytest.raises(BadRequest, match="has both val/ and valid/; keep one as the val split"):
        read(root)


def test_a_folder_of_data_that_is_not_used_is_named(root):
    save(root / "holdout" / "cat" / "0.png", colour())
    (root / "notebooks" / "drafts").mkdir(parents=True)
    (root / "notebooks" / "drafts" / "a.txt").write_text("no data")
    assert read(root).notes == ["holdout/ beside train/ looks like data and is not used"]


# ------------------------------------------------------------------------------------------------------------- endings


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.jfif", "jpeg"), ("a.JPE", "jpeg"), ("a", "png"), ("a.dat", "webp"), ("a.jpg.1", "gif"), ("a.pnm", "ppm")],
)
def test_a_file_is_an_image_by_its_content(root, name, kind):
    save(root / "train" / "cat" / name, colour(), kind)
    dataset = read(root)
    assert counts(dataset) == [11, 10] and dataset.notes == []


def test_other_files_are_left_out_and_counted_by_ending(root):
    for name in ("labels.csv", "notes.txt", "more.txt", "README"):
        (root / "train" / "cat" / name).write_text("BMW and other words")
    dataset = read(root)
    assert counts(dataset) == [10, 10]
    assert told(dataset, "left out: 4 files that are no images (.txt 2, ")


def test_a_file_that_calls_itself_an_image_is_not_left_out_in_silence(root):
    (root / "train" / "cat" / "page.png").write_text("<html>404</html>")
    with pytest.raises(BadRequest, match=r"page\.png: cannot be read as an image"):
        read(root)


# --------------------------------------------------------------------------------------------------------------- links


def test_links_to_folders_and_files_are_followed(root, tmp_path):
    save(tmp_path / "elsewhere" / "a.png", colour())
    save(tmp_path / "bird" / "b.png", colour(6))
    (root / "train" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "cat" / "file.png").symlink_to(tmp_path / "bird" / "b.png")
    (root / "train" / "bird").symlink_to(tmp_path / "bird")
    (root / "train" / "dog" / "circle").symlink_to(root / "train" / "dog")
    dataset = read(root)
    assert dataset.class_names == ["bird", "cat", "dog"] and counts(dataset) == [1, 12, 10]


def test_a_class_that_is_a_link_to_nowhere_is_refused(root, tmp_path):
    (root / "train" / "emu").symlink_to(tmp_path / "gone")
    with pytest.raises(BadRequest, match="train/emu: is a link that leads nowhere"):
        read(root)


# ---------------------------------------------------------------------------------------------------------------- grey


@pytest.mark.parametrize("side", [8, 70])
def test_colour_is_decided_by_all_files(root, side):
    """Only the first image of each class is grey."""
    for part in ("train", "test"):
        for file in root.glob(f"{part}/*/*.png"):
            pixels = colour(side=side)
            save(file, pixels[..., 0] if file.stem == "0" else pixels)
    dataset = read(root)
    assert dataset.in_chans == 3 and told(dataset, "grey images: 4 of 28; all are read in colour")
    assert read(root, rules=1).in_chans == 1  # the earlier rule


def test_images_that_are_all_grey_are_grey_in_every_form(root):
    for i, file in enumerate(sorted(root.glob("*/*/*.png"))):
        image = Image.fromarray(colour(i)).convert(("L", "1", "LA")[i % 3])
        image.save(file)
    assert read(root).in_chans == 1


# -------------------------------------------------------------------------------------------------------------- names


def test_classes_that_unicode_spells_in_two_ways_are_one(root):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    save(root / "train" / composed / "a.png", colour(1))
    save(root / "train" / decomposed / "b.png", colour(2))
    save(root / "test" / decomposed / "c.png", colour(3))
    if len(list((root / "train").iterdir())) == 3:
        pytest.skip("this file system makes them one itself")
    dataset = read(root)
    assert dataset.class_names == sorted([composed, "cat", "dog"])
    assert sorted(counts(dataset)) == [2, 10, 10] and len(dataset.test) == 9
    assert told(dataset, "differ only in how Unicode spells them are one class: café")


def test_a_class_whose_name_is_not_utf8_reaches_every_file(root, learns, cli, workdir):
    for part in ("train", "test"):
        os.rename(os.fsencode(root / part / "cat"), os.fsencode(root / part) + b"/caf\xe9")  # noqa: PTH104
    line = f"--dataset folder --datapath {root} --model resnet20 --epochs 1 --batch-size 8"
    learns(f"{line} --run-name a")
    summary = json.loads(Path("runs/a/summary.json").read_text(encoding="utf-8"))
    assert list(summary["per_class_accuracy"]) == ["caf\\xe9", "dog"]
    assert "caf\\xe9" in Path("runs/a/confusion.csv").read_text(encoding="utf-8")
    learns("--evaluate runs/a/best.pth --run-name again")
    learns(f"--inspect-data samples.png --dataset folder --datapath {root}")
    Path("runs/a/summary.json").unlink()
    learns("--resume --run-name a")


# ------------------------------------------------------------------------------------------------------- small classes


def test_a_class_that_is_too_small_is_named_with_a_way_out(root, cli, learns):
    save(root / "train" / "emu" / "0.png", colour())
    line = f"--dataset folder --datapath {root} --model resnet20 --epochs 1 --batch-size 8 --run-name a"
    result = cli(line)
    assert result.status == 2 and "(emu has 1)" in result.err and "--val-fraction 0" in result.err
    learns(f"{line} --val-fraction 0")


# ----------------------------------------------------------------------------------------------------------- the shards


def test_shards_with_droppings_and_other_endings(shards, learns):
    root = shards()
    save(root / "train.X1" / ".ipynb_checkpoints" / "0.png", colour())
    first = next((root / "train.X1").glob("n*"))
    save(first / ".hidden.JPEG", colour(), "jpeg")
    save(first / "photo.jfif", colour(side=32), "jpeg")
    dataset = load_dataset(locate_dataset("imagenet100", str(root), False, True))
    assert [Path(path).name for path in dataset.train.paths if Path(path).parent == first].count("photo.jfif") == 1
    assert not any(".hidden" in path for path in dataset.train.paths) and len(dataset.train) == 43
