"""The order of an epoch: balanced, and with repeated augmentation as in DeiT."""

import numpy as np
import pytest
import torch
from torch.utils.data import WeightedRandomSampler

from image_datasets.batch_plan import EpochOrder, batch_bounds, epoch_order

TARGETS = np.array([0] * 70 + [1] * 20 + [2] * 10)


def order(**changes) -> EpochOrder:
    values = {"targets": TARGETS, "bounds": batch_bounds(100, 12), "seed": 3, **changes}
    return EpochOrder(**values)


def test_a_shuffled_epoch_has_each_image_once():
    assert torch.equal(order()(5), epoch_order(100, 3, 5))
    assert not order().copies(order()(5)).any()


def test_a_balanced_epoch_has_as_many_images_of_each_class_like_a_weighted_sampler():
    found = order(sampler="balanced")(0)
    counts = np.bincount(TARGETS[found])
    assert len(found) == 100 and counts.max() - counts.min() <= 1
    weights = 1 / np.bincount(TARGETS)[TARGETS]
    drawn = list(WeightedRandomSampler(weights.tolist(), 30000, generator=torch.Generator().manual_seed(0)))
    assert np.bincount(TARGETS[drawn]) / 300 == pytest.approx(counts, abs=2)
    # No image comes a second time before all others of its class have come once.
    for label in range(3):
        members = np.flatnonzero(label == TARGETS)
        times = np.bincount(found, minlength=100)[members]
        assert times.max() - times.min() <= 1


def test_a_balanced_epoch_with_copies_is_balanced_too():
    found = order(sampler="balanced", repeats=3, bounds=batch_bounds(100, 30))(0)
    counts = np.bincount(TARGETS[found])
    assert counts.max() - counts.min() <= 3


def test_balanced_orders_differ_by_epoch_and_seed_and_repeat():
    first = order(sampler="balanced")
    assert torch.equal(first(1), order(sampler="balanced")(1))
    assert not torch.equal(first(1), first(2))
    assert not torch.equal(first(1), order(sampler="balanced", seed=4)(1))


def test_copies_of_an_image_are_in_one_batch_as_in_deit_and_never_beside_each_other():
    found = order(repeats=3)(0)
    expected = epoch_order(100, 3, 0).repeat_interleave(3)[:100]  # DeiT's RASampler, all processes together
    for start, end in batch_bounds(100, 12)[:-1]:
        batch = found[start:end]
        assert sorted(batch.tolist()) == sorted(expected[start:end].tolist())
        assert batch.unique(return_counts=True)[1].tolist() == [3] * 4
        assert (batch != batch.roll(1)).all()


@pytest.mark.parametrize("changes", [{"repeats": 3}, {"sampler": "balanced"}, {"sampler": "balanced", "repeats": 2}])
def test_copies_are_numbered_so_that_each_is_augmented_anew(changes):
    rule = order(**changes)
    found = rule(0)
    keys = list(zip(found.tolist(), rule.copies(found).tolist(), strict=True))
    assert len(set(keys)) == len(keys) == 100
    seen: dict[int, int] = {}
    for image, copy in keys:
        assert copy == seen.get(image, 0)
        seen[image] = copy + 1
