"""torchvision's data sets by name: its splits, labels and files; what is no classification set is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import image_forms
import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from image_datasets import Wanted, dimensions, load_dataset, locate_dataset
from utils import BadRequest

SIDE = 20


def save(path: Path, seed: int, side: int = SIDE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def eurosat(root: Path) -> int:
    """One folder for each class, no splits."""
    for label, name in enumerate(("AnnualCrop", "Forest")):
        for i in range(10):
            save(root / "eurosat" / "2750" / name / f"{name}_{i}.png", 10 * label + i)
    return 20


def pets(root: Path) -> int:
    """Lists of file names with labels from 1, and splits trainval and test."""
    for part, count in (("trainval", 6), ("test", 4)):
        lines = []
        for i in range(count):
            breed = ("Abyssinian", "beagle")[i % 2]
            save(root / "oxford-iiit-pet" / "images" / f"{breed}_{part}{i}.jpg", i)
            lines.append(f"{breed}_{part}{i} {i % 2 + 1} 1 1")
        file = root / "oxford-iiit-pet" / "annotations" / f"{part}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n")
    (root / "oxford-iiit-pet" / "annotations" / "trimaps").mkdir()
    return 10


def food(root: Path) -> int:
    """JSON lists by class, and splits train and test."""
    meta = root / "food-101" / "meta"
    meta.mkdir(parents=True)
    for part, count in (("train", 5), ("test", 3)):
        names = {name: [f"{name}/{part}{i}" for i in range(count)] for name in ("apple_pie", "sushi")}
        for seed, name in enumerate([*names["apple_pie"], *names["sushi"]]):
            save(root / "food-101" / "images" / f"{name}.jpg", seed)
        (meta / f"{part}.json").write_text(json.dumps(names))
    return 16


def textures(root: Path) -> int:
    """Text files of paths, and splits train, val and test."""
    labels = root / "dtd" / "dtd" / "labels"
    labels.mkdir(parents=True)
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        names = [f"{name}/{name}_{part}{i}.jpg" for name in ("banded", "dotted") for i in range(count)]
        for seed, name in enumerate(names):
            save(root / "dtd" / "dtd" / "images" / name, seed)
        (labels / f"{part}1.txt").write_text("\n".join(names) + "\n")
    return 18


@pytest.mark.parametrize(
    ("name", "write", "parts"),
    [
        ("EuroSAT", eurosat, {"train": 16, "test": 4}),
        ("OxfordIIITPet", pets, {"train": 6, "test": 4}),
        ("Food101", food, {"train": 10, "test": 6}),
        ("DTD", textures, {"train": 8, "val": 4, "test": 6}),
    ],
)
def test_a_set_of_files_has_torchvisions_images_labels_and_splits(tmp_path, name, write, parts):
    write(tmp_path)
    dataset = load_dataset(locate_dataset(f"torchvision/{name}", str(tmp_path)))
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    assert {part: len(split) for part, split in splits.items() if split} == parts
    assert (dataset.side, dataset.in_chans, dataset.flip) == (SIDE, 3, True)
    more = {} if name == "EuroSAT" else {"split": "test"}
    reference = getattr(datasets, name)(tmp_path, **more)
    by_pixels = {np.asarray(image).tobytes(): reference.classes[label] for image, label in reference}
    for image, target in zip(dataset.test.images, dataset.test.targets, strict=True):
        assert by_pixels[image.tobytes()] == dataset.class_names[target]
    assert all(Path(path).is_file() for path in dataset.test.paths)


def test_pillow_opens_files_again_after_the_list_was_read(tmp_path):
    pets(tmp_path)
    locate_dataset("torchvision/OxfordIIITPet", str(tmp_path))
    with Image.open(next(tmp_path.rglob("*.jpg"))) as image:
        assert image.size == (SIDE, SIDE)


def test_mnist_is_kept_in_memory_and_not_mirrored(tmp_path):
    content = image_forms.images(28, 1)
    image_forms.mnist(tmp_path, content)
    dataset = load_dataset(locate_dataset("torchvision/MNIST", str(tmp_path)))
    assert (dataset.side, dataset.in_chans, dataset.flip, dataset.val) == (28, 1, False, None)
    assert np.array_equal(dataset.train.images[..., 0], np.stack([pixels for _, pixels in content["train"]]))
    assert dataset.test.targets.tolist() == [label for label, _ in content["test"]]
    assert dataset.class_names == ["0 - zero", "1 - one", "2 - two"]
    pixels = dataset.train.images / 255
    assert dataset.mean == pytest.approx((pixels.mean(),)) and dataset.std == pytest.approx((pixels.std(),))
    assert dimensions(Wanted("torchvision/MNIST", str(tmp_path))) == (3, 28, 1)


def test_mnist_is_trained_on_from_the_command_line(learns, cli, tmp_path):
    line = f"--dataset {image_forms.mnist(tmp_path / 'm', image_forms.images(28, 1))}"
    learns(f"{line} --model resnet9 --widths 8,8,8 --depths 1,1,1 --batch-size 12 --epochs 1")
    report = json.loads(Path("runs/torchvision_MNIST-resnet9-seed0/summary.json").read_text())
    assert report["settings"]["dataset"] == "torchvision/MNIST" and report["images"]["test"] == 12
    learns("--evaluate runs/torchvision_MNIST-resnet9-seed0/best.pth --run-name b")
    result = cli(f"{line} --epochs 1 --no-verify-checksum")
    assert result.status == 2 and "--no-verify-checksum has no effect" in result.err


def test_cifar_by_torchvisions_name_is_the_same_as_ours(cifar100_folder):
    ours = load_dataset(locate_dataset("cifar100", str(cifar100_folder)))
    theirs = load_dataset(locate_dataset("torchvision/CIFAR100", str(cifar100_folder)))
    assert np.array_equal(ours.train.images, theirs.train.images) and ours.class_names == theirs.class_names
    assert np.array_equal(ours.test.targets, theirs.test.targets)


def test_arguments_reach_torchvision(tmp_path):
    for name in ("root", "transform", "nonsense"):
        with pytest.raises(BadRequest, match=f"--dataset-arg {name}: torchvision/DTD takes no such argument"):
            locate_dataset("torchvision/DTD", str(tmp_path), arguments={name: 1})
    textures(tmp_path)
    found = locate_dataset("torchvision/DTD", str(tmp_path), arguments={"split": "val"})
    assert [len(paths) for paths, _ in found.layout.splits.values()] == [4]
    with pytest.raises(BadRequest, match=r"torchvision/DTD: Unknown value 'tset' for argument split"):
        locate_dataset("torchvision/DTD", str(tmp_path), arguments={"split": "tset"})
    with pytest.raises(BadRequest, match=r"torchvision/EMNIST: .*'split'.*--dataset-arg NAME=VALUE"):
        locate_dataset("torchvision/EMNIST", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "needle"),
    [
        ("FashionMnist", "torchvision has no data set 'FashionMnist'. Did you mean FashionMNIST?"),
        ("Food101", "torchvision/Food101 is not there, or damaged (Dataset not found)"),
        ("MNIST", "--download fetches it"),
        ("SBU", "is not there"),
    ],
)
def test_what_is_unknown_or_missing_is_named(tmp_path, name, needle):
    with pytest.raises(BadRequest) as caught:
        locate_dataset(f"torchvision/{name}", str(tmp_path))
    assert needle in str(caught.value)


def test_a_set_of_other_things_than_classes_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="torchvision has no data set 'FakeData'"):
        locate_dataset("torchvision/FakeData", str(tmp_path))
    for name in ("a.jpg", "b.jpg"):
        save(tmp_path / name, 0)
    (tmp_path / "boxes.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}))
    with pytest.raises(BadRequest):
        locate_dataset("torchvision/CocoDetection", str(tmp_path))


def test_damaged_files_are_one_line(tmp_path):
    image_forms.mnist(tmp_path, image_forms.images(28, 1))
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"damaged, as it happens")
    with pytest.raises(BadRequest, match="torchvision/MNIST is not there, or damaged"):
        locate_dataset("torchvision/MNIST", str(tmp_path))


@pytest.mark.parametrize("name", ["SEMEION", "SBU"])
def test_nothing_is_fetched_unless_it_is_asked_for(tmp_path, monkeypatch, name):
    """These two fetch by default."""
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: pytest.fail("the network was used"))
    with pytest.raises(BadRequest, match="--download fetches it"):
        locate_dataset(f"torchvision/{name}", str(tmp_path))


def test_a_download_that_fails_says_where_the_files_belong(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fail)
    with pytest.raises(BadRequest, match=r"torchvision/MNIST cannot be downloaded \(.*\); put its files into"):
        locate_dataset("torchvision/MNIST", str(tmp_path), download=True)


def test_a_located_set_travels_to_other_processes(tmp_path):
    textures(tmp_path)
    found = locate_dataset("torchvision/DTD", str(tmp_path))
    assert pickle.loads(pickle.dumps(found)) == found
