"""Splits: stratified, seeded, disjoint, nested; and the same images in grey or colour."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from image_datasets import Dataset
from image_datasets.splits import Split, hold_out_fold, split_test
from image_datasets.splits import split_train as split_by_name
from utils import BadRequest

NAMES = ["cat", "dog", "emu"]


def split_train(*args, **kwargs):
    return split_by_name(*args, **kwargs, class_names=NAMES)


@pytest.fixture
def train() -> Split:
    """Classes of 100, 60 and 40 images in random order; the only pixel of an image is its index."""
    targets = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [100, 60, 40]))
    images = np.arange(200, dtype=np.uint8).reshape(200, 1, 1, 1)
    return Split(targets.astype(np.int64), images, [f"{i}.png" for i in range(200)])


def numbers(split: Split) -> list[int]:
    return split.images.ravel().tolist()


def test_training_and_validation_images_are_disjoint_and_cover_everything(train):
    kept, val = split_train(train, 0.1, 1.0, seed=3)
    assert sorted(numbers(kept) + numbers(val)) == list(range(200))


def test_every_class_has_its_share_in_both_splits(train):
    kept, val = split_train(train, 0.1, 0.5, seed=3)
    assert np.bincount(val.targets).tolist() == [10, 6, 4]
    assert np.bincount(kept.targets).tolist() == [45, 27, 18]


def test_images_targets_and_file_names_stay_together(train):
    for split in split_train(train, 0.25, 0.5, seed=1):
        assert split.paths == [f"{i}.png" for i in numbers(split)]
        assert split.targets.tolist() == train.targets[numbers(split)].tolist()
        assert len(split) == len(split.paths)


def test_the_seed_decides_the_split_and_nothing_else_does(train):
    first = split_train(train, 0.1, 0.5, seed=1)
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)
    again, other = (
        split_train(train, 0.1, 0.5, seed=1),
        split_train(train, 0.1, 0.5, seed=2),
    )
    assert [numbers(split) for split in first] == [numbers(split) for split in again]
    assert numbers(first[1]) != numbers(other[1])
    assert numbers(first[0]) != numbers(other[0])


def test_the_validation_images_do_not_depend_on_how_many_training_images_are_used(train):
    vals = [numbers(split_train(train, 0.2, fraction, seed=5)[1]) for fraction in (0.1, 0.5, 1.0)]
    assert vals[0] == vals[1] == vals[2]


def test_smaller_training_subsets_lie_within_larger_ones(train):
    subsets = [set(numbers(split_train(train, 0.2, fraction, seed=5)[0])) for fraction in (0.01, 0.1, 0.25, 0.6, 1.0)]
    assert [len(subset) for subset in subsets] == [3, 16, 40, 96, 160]  # at least one image of each class
    assert all(small < large for small, large in zip(subsets, subsets[1:], strict=False))  # noqa: RUF007


def test_without_a_validation_share_all_images_train(train):
    kept, val = split_train(train, 0.0, 1.0, seed=0)
    assert val is None
    assert numbers(kept) == list(range(200))


def test_the_held_out_test_split_is_a_stratified_fifth_whatever_the_random_state(train):
    kept, test = split_test(train, NAMES)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert [numbers(split) for split in split_test(train, NAMES)] == [numbers(kept), numbers(test)]
    assert np.bincount(test.targets).tolist() == [20, 12, 8]
    assert sorted(numbers(kept) + numbers(test)) == list(range(200))
    vals = [set(numbers(split_train(kept, 0.2, 1.0, seed)[1])) for seed in range(5)]
    assert not any(val & set(numbers(test)) for val in vals)


@pytest.mark.parametrize(
    "split",
    [lambda train: split_test(train, NAMES), lambda train: split_train(train, 0.1, 1.0, seed=0)],
)
def test_a_class_of_one_image_cannot_be_held_out_and_is_named(split):
    lonely = Split(np.array([0, 0, 0, 1, 2, 2]), paths=list("abcdef"))
    with pytest.raises(BadRequest, match=r"1 class has too few .*\(dog has 1\); add images"):
        split(lonely)


def test_a_class_of_two_images_gives_one_to_each_split():
    pairs = Split(np.array([0, 0, 1, 1]), paths=list("abcd"))
    kept, val = split_train(pairs, 0.1, 1.0, seed=0)
    assert sorted(kept.targets) == sorted(val.targets) == [0, 1]


# ---------------------------------------------------------------------------------------------------- grey and colour


@pytest.fixture
def colour() -> Dataset:
    rng = np.random.default_rng(0)
    parts = [Split(np.zeros(4, np.int64), rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)) for _ in range(3)]
    return Dataset("folder", ["a"], (0.5, 0.4, 0.3), (0.2, 0.3, 0.1), 16, parts[0], parts[1], val=parts[2])


def test_colour_images_become_grey_as_pillow_does(colour):
    grey = colour.with_channels(1)
    assert (colour.in_chans, grey.in_chans) == (3, 1)
    for part in ("train", "val", "test"):
        ours, source = getattr(grey, part).images, getattr(colour, part).images
        assert ours.dtype == np.uint8
        theirs = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in source])[..., None]
        difference = np.abs(ours.astype(int) - theirs)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01
    assert grey.mean == pytest.approx((0.299 * 0.5 + 0.587 * 0.4 + 0.114 * 0.3,))
    assert len(grey.std) == 1


def test_grey_images_become_colour_with_three_equal_channels(colour):
    grey = colour.with_channels(1)
    again = grey.with_channels(3)
    assert again.train.images.shape == (4, 16, 16, 3)
    assert (again.train.images == grey.train.images).all()
    assert again.mean == grey.mean * 3
    assert again.std == grey.std * 3


def test_asking_for_the_channels_there_are_changes_nothing(colour):
    same = colour.with_channels(3)
    assert same.mean == colour.mean
    assert (same.train.images == colour.train.images).all()


def test_images_in_files_keep_their_files_in_grey():
    files = Split(np.zeros(2, np.int64), paths=["a.png", "b.png"])
    grey = Dataset("folder", ["a"], (0.5,) * 3, (0.2,) * 3, None, files, files).with_channels(1)
    assert grey.train.paths == ["a.png", "b.png"]
    assert grey.val is None
    assert grey.in_chans == 1


def test_folds_are_stratified_cover_every_image_once_and_depend_on_the_data_alone():
    targets = np.random.default_rng(0).integers(0, 3, 100)
    folds = [hold_out_fold(targets, f"{i}/4", NAMES) for i in range(1, 5)]
    assert sorted(np.concatenate([held for _, held in folds]).tolist()) == list(range(100))
    for kept, held in folds:
        assert sorted([*kept, *held]) == list(range(100))
        for label in range(3):
            whole = (targets == label).sum() / 4
            assert abs((targets[held] == label).sum() - whole) < 1
    again = hold_out_fold(targets, "2/4", NAMES)[1]
    assert (again == folds[1][1]).all() and not (folds[1][1] == np.arange(25, 50)).all()


def test_a_fold_that_takes_the_only_image_of_a_class_is_refused():
    targets = np.array([0, 0, 0, 0, 1])
    with pytest.raises(BadRequest, match="1 class has too few training images to hold out fold"):
        for i in range(1, 6):
            hold_out_fold(targets, f"{i}/5", NAMES)
