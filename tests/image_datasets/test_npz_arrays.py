"""Arrays in an .npz file: MedMNIST's form, Keras's form, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from image_datasets import load_dataset, locate_dataset
from utils import BadRequest

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


def locate(path, **arrays):
    np.savez_compressed(path / "a.npz", **arrays)
    return locate_dataset("npz", str(path / "a.npz"))


def parts(form: str, labels: str, *names: str, images=IMAGES, of=LABELS[:, None]) -> dict:
    return {key.format(part): value for part in names for key, value in ((form, images), (labels, of))}


def test_medmnists_form(tmp_path):
    found = locate(tmp_path, **parts("{}_images", "{}_labels", "train", "val", "test"))
    dataset = load_dataset(found)
    assert found.has_val and dataset.class_names == ["0", "1", "2"] and dataset.side == 8
    for split in (dataset.train, dataset.val, dataset.test):
        assert np.array_equal(split.images, IMAGES) and split.targets.tolist() == LABELS.tolist()
    pixels = IMAGES / 255
    assert dataset.mean == pytest.approx(pixels.mean((0, 1, 2))) and dataset.std == pytest.approx(pixels.std((0, 1, 2)))


def test_kerass_form_of_grey_images(tmp_path):
    dataset = load_dataset(locate(tmp_path, **parts("x_{}", "y_{}", "train", "test", images=IMAGES[..., 0], of=LABELS)))
    assert (dataset.in_chans, dataset.val, dataset.test_name) == (1, None, "test")
    assert np.array_equal(dataset.test.images[..., 0], IMAGES[..., 0])


def test_one_pair_of_arrays_is_split_by_fixed_rules(tmp_path):
    names = np.array(["cat", "dog", "owl"])
    found = locate(tmp_path, images=np.repeat(IMAGES, 5, 0), labels=np.repeat(LABELS, 5), class_names=names)
    dataset = load_dataset(found)
    assert (len(dataset.train), len(dataset.test), dataset.class_names) == (48, 12, ["cat", "dog", "owl"])


def test_only_a_validation_split_is_reported_on(tmp_path):
    dataset = load_dataset(locate(tmp_path, **parts("{}_images", "{}_labels", "train", "val")))
    assert dataset.test_name == "val" and "there is no test split: val is what is reported on" in dataset.notes


GOOD = parts("{}_images", "{}_labels", "train", "test")


@pytest.mark.parametrize(
    ("changes", "needle"),
    [
        ({"train_images": IMAGES / 255}, "train_images: holds float64, and nothing says which value is black"),
        ({"train_images": IMAGES[:, :4]}, "train_images: the images are 4 x 8 px; images in memory must be squares"),
        ({"train_images": IMAGES[:, None]}, "train_images: has the shape (12, 1, 8, 8, 3)"),
        ({"train_labels": np.zeros((12, 14), int)}, "train_labels: has 14 labels for each image"),
        ({"train_labels": LABELS - 1}, "has the label -1; classes are numbered from 0"),
        ({"class_names": np.array(["a", "b"])}, "has the label 2, but names of 2 classes, numbered from 0"),
        ({"test_images": IMAGES[:0], "test_labels": LABELS[:0]}, "the test split has no images"),
        ({"train_labels": LABELS[:5]}, "train_labels: is no class index for each of 12 images"),
        ({"train_labels": LABELS / 2}, "train_labels: is no class index"),
        ({"train_labels": LABELS * 0}, "its test split has classes without training images: 1, 2"),
        ({"test_images": IMAGES[:, :4, :4]}, "the images of its splits have different shapes"),
        ({"test_labels": LABELS.astype(object)}, "cannot be read (Object arrays cannot be loaded"),
    ],
)
def test_arrays_of_another_kind_are_refused(tmp_path, changes, needle):
    with pytest.raises(BadRequest) as caught:
        load_dataset(locate(tmp_path, **{**GOOD, **changes}))
    assert needle in str(caught.value)


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(BadRequest, match="no such file"):
        locate_dataset("npz", str(tmp_path / "b.npz"))
    with pytest.raises(BadRequest, match=r"has neither train_images and train_labels.*but logits, targets"):
        locate(tmp_path, logits=IMAGES, targets=LABELS)
    locate(tmp_path, **GOOD)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[200:400] = bytes(200)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(BadRequest, match=r"a\.npz: cannot be read"):
        load_dataset(locate_dataset("npz", str(tmp_path / "a.npz")))
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(BadRequest, match=r"damaged, or no \.npz file"):
        locate_dataset("npz", str(tmp_path / "a.npz"))
