"""The data set that needs no download, and data sets by name."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from image_datasets import list_datasets, load_dataset, locate_dataset
from utils import BadRequest


def test_the_digits_are_scikit_learns_in_full_range():
    dataset = load_dataset(locate_dataset("digits", None, download=False, verify=True))
    assert (dataset.side, dataset.in_chans, dataset.flip) == (8, 1, False)
    assert dataset.class_names == list("0123456789")
    assert dataset.train.images.shape[1:] == (8, 8, 1)
    assert (dataset.train.images.min(), dataset.train.images.max()) == (0, 255)
    source = load_digits()
    known = {
        (image.tobytes(), target)
        for image, target in zip(np.round(source.images * 255 / 16).astype(np.uint8), source.target, strict=True)
    }
    read = [
        (image.tobytes(), target)
        for split in (dataset.train, dataset.test)
        for image, target in zip(split.images, split.targets, strict=True)
    ]
    assert len(read) == 1797
    assert set(read) == known


def test_the_digits_hold_out_the_same_stratified_fifth_and_say_so():
    first, again = (load_dataset(locate_dataset("digits", None, download=False, verify=True)) for _ in range(2))
    assert np.array_equal(first.test.images, again.test.images)
    share = np.bincount(first.test.targets) / np.bincount(load_digits().target)
    assert np.abs(share - 0.2).max() < 0.004
    assert any("no test split of its own" in note for note in first.notes)
    assert first.val is None


def test_the_digits_are_normalised_with_the_training_images_statistics():
    dataset = load_dataset(locate_dataset("digits", None, download=False, verify=True))
    pixels = dataset.train.images.astype(np.float64) / 255
    assert dataset.mean == pytest.approx((pixels.mean(),))
    assert dataset.std == pytest.approx((pixels.std(),))


def test_a_folder_for_the_digits_is_refused_as_without_effect(tmp_path):
    with pytest.raises(BadRequest, match="--datapath has no effect with --dataset digits"):
        locate_dataset("digits", str(tmp_path), download=False, verify=True)


@pytest.mark.parametrize(("download", "verify", "flag"), [(True, True, "--download"), (False, False, "checksum")])
def test_flags_about_files_are_refused_for_the_digits(download, verify, flag):
    with pytest.raises(BadRequest, match=f"{flag} has no effect with --dataset digits"):
        locate_dataset("digits", None, download=download, verify=verify)


def test_an_unknown_data_set_is_refused_with_a_suggestion_and_all_names():
    with pytest.raises(BadRequest) as caught:
        locate_dataset("cifar-10", None, download=False, verify=True)
    assert "unknown data set 'cifar-10'. Did you mean cifar10" in str(caught.value)
    assert all(name in str(caught.value) for name in list_datasets())
    with pytest.raises(BadRequest, match=r"unknown data set 'mnist'\. Known:"):
        locate_dataset("mnist", None, download=False, verify=True)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "folder", "imagenet1k", "tiny-imagenet"])
def test_a_data_set_on_disk_needs_a_folder(name):
    with pytest.raises(BadRequest, match=f"--dataset {name} needs --datapath"):
        locate_dataset(name, None, download=False, verify=True)
