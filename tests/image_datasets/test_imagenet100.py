"""ImageNet-100's shards: one order of classes for all, no image of val.X in training, named refusals."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_datasets import Wanted, dimensions, imagenet100, load_dataset, locate_dataset
from utils import BadRequest

NAMES = {"n03": "crane, lifting machine", "n01": "tench, Tinca tinca", "n02": "crane, a bird"}


@pytest.fixture
def make(tmp_path):
    """make({"train.X1": {"n01": 2, ...}, ...}) writes that many images of each class, all different."""

    def write(parts: dict[str, dict[str, int]], names: dict | None = None, side: int = 16) -> Path:
        rng = np.random.default_rng(0)
        for part, classes in parts.items():
            for wnid, count in classes.items():
                folder = tmp_path / part / wnid
                folder.mkdir(parents=True, exist_ok=True)
                for i in range(count):
                    pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{part}-{wnid}-{i}.JPEG")
        (tmp_path / "Labels.json").write_text(json.dumps(NAMES if names is None else names))
        return tmp_path

    return write


def whole(make) -> Path:
    """n03 is in the tenth shard only."""
    return make({
        "train.X1": {"n01": 2, "n02": 3}, "train.X2": {"n01": 1}, "train.X10": {"n03": 4},
        "val.X": {"n01": 1, "n02": 2, "n03": 1},
    })  # fmt: skip


def check(root: Path):
    return locate_dataset("imagenet100", str(root), download=False, verify=True)


def test_shards_are_merged_under_the_sorted_wnids(make):
    root = whole(make)
    dataset = load_dataset(check(root))
    assert dataset.wnids == ["n01", "n02", "n03"]
    assert dataset.class_names == ["tench", "crane (n02)", "crane (n03)"]
    assert np.bincount(dataset.train.targets).tolist() == [3, 3, 4]
    assert np.bincount(dataset.test.targets).tolist() == [1, 2, 1]
    assert (dataset.test_name, dataset.val) == ("val.X", None)
    for split in (dataset.train, dataset.test):
        assert [Path(path).parent.name for path in split.paths] == [dataset.wnids[t] for t in split.targets]
    notes = " ".join(dataset.notes)
    assert "3 training shards are merged: train.X1, train.X2, train.X10" in notes
    assert "3 of 3 classes live in some of the shards only" in notes
    assert "10 images in the training shards; the full set has 130,000" in notes
    assert "4 images in val.X; the full set has 5,000" in notes
    assert dimensions(Wanted("imagenet100", str(root))) == (3, 16, 3)


def test_one_shard_alone_trains_on_its_own_classes(make):
    root = make({"train.X1": {"n01": 2, "n02": 3}, "val.X": {"n01": 1, "n02": 2, "n03": 1}})
    dataset = load_dataset(check(root))
    assert dataset.wnids == ["n01", "n02"] and dataset.class_names == ["tench", "crane (n02)"]
    assert np.bincount(dataset.test.targets).tolist() == [1, 2]
    assert any(
        note.startswith("1 of the 3 classes of Labels.json have no training image here") for note in dataset.notes
    )


def test_classes_are_named_by_name_or_wordnet_id(make):
    root = whole(make)
    dataset = load_dataset(locate_dataset("imagenet100", str(root), classes=["n03", "tench"]))
    assert dataset.wnids == ["n01", "n03"] and dataset.class_names == ["tench", "crane (n03)"]
    assert np.bincount(dataset.train.targets).tolist() == [3, 4]
    assert [Path(path).parent.name for path in dataset.test.paths] == ["n01", "n03"]
    for classes, needle in ((["n03", "n3"], "imagenet100 has no class 'n3'"), (["n03"], "at least two classes"),
                            (["n01", "tench"], "'tench' is named twice")):  # fmt: skip
        with pytest.raises(BadRequest, match=needle):
            locate_dataset("imagenet100", str(root), classes=classes)


def test_val_alone_can_be_scored(make):
    root = make({"val.X": {"n01": 1, "n02": 2, "n03": 1}})
    dataset = load_dataset(locate_dataset("imagenet100", str(root), with_train=False))
    assert (len(dataset.train), len(dataset.test), dataset.test_name) == (0, 4, "val.X")


def test_training_files_that_stand_in_val_are_left_out(make):
    root = whole(make)
    copy = root / "train.X2/n01/another-name.JPEG"
    copy.write_bytes((root / "val.X/n02/val.X-n02-1.JPEG").read_bytes())
    dataset = load_dataset(check(root))
    assert len(dataset.train) == 10 and str(copy) not in dataset.train.paths
    assert any("1 training images also stand in val.X" in note and "another-name" in note for note in dataset.notes)


def test_the_scan_is_kept_until_a_folder_changes(make, monkeypatch):
    root = whole(make)
    first = check(root).layout
    with monkeypatch.context() as patch:
        patch.setattr(imagenet100, "_images", lambda folder: pytest.fail("scanned again"))
        assert check(root).layout == first
    (root / "train.X1/n02/train.X1-n02-0.JPEG").unlink()
    assert len(check(root).layout.splits["train"][0]) == 9
    (root / imagenet100.SCAN).write_text("{damaged")
    assert len(check(root).layout.splits["train"][0]) == 9


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_written_is_scanned_each_time(make):
    root = whole(make)
    root.chmod(0o555)
    try:
        assert len(check(root).layout.splits["train"][0]) == 10
    finally:
        root.chmod(0o755)
    assert not (root / imagenet100.SCAN).exists()


GOOD = {"train.X1": {"n01": 1, "n02": 1, "n03": 1}, "val.X": {"n01": 1, "n02": 1, "n03": 1}}


@pytest.mark.parametrize(
    ("parts", "names", "needle"),
    [
        ({"val.X": GOOD["val.X"]}, NAMES, "has no train.X* folders"),
        ({"train.X1": GOOD["train.X1"]}, NAMES, "has no val.X/"),
        (GOOD, ["n01"], "Labels.json: is no object of names by WNID"),
        (GOOD, {"n01": 1, "n02": 2}, "Labels.json: is no object of names by WNID"),
        (GOOD, {"n01": "tench"}, "Labels.json: names 1 classes; at least two are needed"),
        (GOOD, {"n01": "a", "n02": "b"}, "train.X1: has classes that Labels.json does not name: n03"),
        ({**GOOD, "train.X1": {"n02": 1}}, NAMES, "only one class has training images (n02)"),
        ({**GOOD, "train.X2": {"n04": 1}}, {**NAMES, "n04": "d"}, "Labels.json have no image in val.X: n04"),
        ({**GOOD, "train.X2": {"n01": 0}}, NAMES, "train.X2/n01: a class folder without images"),
    ],
)  # fmt: skip
def test_what_is_missing_or_unknown_is_named(make, parts, names, needle):
    root = make(parts, names)
    with pytest.raises(BadRequest) as caught:
        check(root)
    assert needle in str(caught.value)
    assert not (root / imagenet100.SCAN).exists() or needle.endswith(("image in val.X: n04", "(n02)"))


def test_labels_that_are_missing_or_damaged_are_named(make):
    root = make(GOOD)
    (root / "Labels.json").write_text("{")
    with pytest.raises(BadRequest, match=r"Labels.json: cannot be read as JSON"):
        check(root)
    (root / "Labels.json").unlink()
    with pytest.raises(BadRequest, match=r"Labels.json: no such file"):
        check(root)


def test_main_trains_on_the_shards_and_stores_the_wnids(learns, make, workdir):
    import torch

    root = make({f"train.X{i}": {"n01": 4, "n02": 4, "n03": 4} for i in (1, 2)} | {"val.X": GOOD["val.X"]})
    learns(f"--dataset imagenet100 --data-path {root} --model resnet20 --epochs 1 --batch-size 8 --run-name a")
    content = torch.load(workdir / "runs/a/best.pth", weights_only=True)
    assert content["wnids"] == ["n01", "n02", "n03"]
    assert json.loads((workdir / "runs/a/summary.json").read_text())["split"] == "val.X"
