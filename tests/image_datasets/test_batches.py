"""Batches: every image once an epoch; seed, epoch and step decide the order and the augmentation."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_transform import Augment, Normalize
from image_datasets.batch_plan import batch_bounds
from image_datasets.batches import EvalBatches, ResidentTrainBatches, StreamedTrainBatches
from image_datasets.splits import Split
from utils import RunFailed

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
COUNT = 13
EVERYTHING = Augment(crop="resized", padding=2, flip=True, policy="randaugment", erasing=0.5)


@pytest.fixture
def resident() -> Split:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 10, 10, 3), dtype=np.uint8)
    return Split(np.arange(COUNT), images)


@pytest.fixture
def files(tmp_path) -> Split:
    """Images of different sizes; the class of an image is its index."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(COUNT):
        pixels = rng.integers(0, 256, (18 + i, 30 - i, 3), dtype=np.uint8)
        path = tmp_path / f"{i}.{'png' if i % 2 else 'jpg'}"
        Image.fromarray(pixels).save(path)
        paths.append(str(path))
    return Split(np.arange(COUNT), paths=paths)


def train_batches(split: Split, augment: Augment = EVERYTHING, seed: int = 3, workers: int = 0, batch_size: int = 4):
    args = (split, augment, 12, MEAN, STD, CPU, batch_size, seed)
    return ResidentTrainBatches(*args) if split.paths is None else StreamedTrainBatches(*args, workers=workers)


def eval_batches(split: Split, img_size: int, workers: int = 0) -> EvalBatches:
    return EvalBatches(split, img_size, MEAN, STD, CPU, batch_size=5, workers=workers)


def collect(batches) -> list[tuple[torch.Tensor, ...]]:
    """The batches, each with a draw like that of dropout, which must not change later batches."""
    return [(images.clone(), targets, torch.rand(3)) for images, targets in batches]


def assert_equal(a, b) -> None:
    assert len(a) == len(b)
    for batch, other in zip(a, b, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(batch, other, strict=True))


def order(batches) -> list[int]:
    return torch.cat([batch[1] for batch in batches]).tolist()


@pytest.fixture(params=["resident", "files"])
def split(request) -> Split:
    return request.getfixturevalue(request.param)


# --------------------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [
        (12, 4, [4, 4, 4]),
        (14, 4, [4, 4, 4, 2]),
        (13, 4, [4, 4, 5]),
        (5, 4, [5]),
        (3, 4, [3]),
        (1, 4, [1]),
        (3, 1, [1, 1, 1]),
        (3, 2, [3]),
    ],
)
def test_batches_cover_all_images_and_none_has_a_single_one_without_need(count, batch_size, sizes):
    bounds = batch_bounds(count, batch_size)
    assert [end - start for start, end in bounds] == sizes
    assert [i for start, end in bounds for i in range(start, end)] == list(range(count))


# ------------------------------------------------------------------------------------------------------------- training


def test_an_epoch_gives_every_image_once_in_normalised_channels_last_batches(split):
    batches = train_batches(split)
    drawn = collect(batches.epoch(0))
    assert [len(batch[1]) for batch in drawn] == batches.sizes == [4, 4, 5]
    assert sorted(order(drawn)) == list(range(COUNT))
    for images, targets, _ in drawn:
        assert images.shape == (len(targets), 3, 12, 12)
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_images_and_targets_stay_together_without_augmentation(split):
    batches = train_batches(split, Augment())
    reference = torch.cat([images for images, _ in eval_batches(split, 12)])
    for images, targets in batches.epoch(1):
        torch.testing.assert_close(images, reference[targets])


def test_the_same_seed_and_epoch_give_the_same_batches(split):
    first = collect(train_batches(split).epoch(2))
    torch.manual_seed(12345)
    again = train_batches(split)
    collect(again.epoch(0))
    assert_equal(first, collect(again.epoch(2)))


def test_another_epoch_or_seed_has_another_order_and_other_crops(split):
    one, two = collect(train_batches(split).epoch(0)), collect(train_batches(split).epoch(1))
    other = collect(train_batches(split, seed=4).epoch(0))
    assert order(one) != order(two)
    assert order(one) != order(other)
    for a in (two, other):
        images = {target: image for batch in a for image, target in zip(batch[0], batch[1].tolist(), strict=True)}
        repeated = [
            torch.equal(image, images[target])
            for batch in one
            for image, target in zip(batch[0], batch[1].tolist(), strict=True)
        ]
        assert sum(repeated) < 3


@pytest.mark.parametrize("crop", ["pad", "resized"])
@pytest.mark.parametrize("start", [1, 2, 3])
def test_an_epoch_taken_up_at_a_batch_goes_on_bit_for_bit(split, crop, start):
    augment = Augment(crop=crop, padding=2, flip=True, policy="randaugment", erasing=0.5)
    whole = collect(train_batches(split, augment).epoch(1))
    rest = collect(train_batches(split, augment).epoch(1, start))
    assert_equal(whole[start:], rest)


def test_the_order_does_not_depend_on_where_the_images_are(resident, files):
    assert order(train_batches(resident).epoch(4)) == order(train_batches(files).epoch(4))


def test_worker_processes_change_nothing_over_several_epochs(files):
    alone, helped = train_batches(files, workers=0), train_batches(files, workers=2)
    for epoch in (0, 1):
        assert_equal(collect(alone.epoch(epoch)), collect(helped.epoch(epoch)))
    assert_equal(collect(alone.epoch(2, 1)), collect(helped.epoch(2, 1)))
    next(helped.epoch(3))  # abandoning an epoch after its first batch leaves nothing behind
    assert_equal(collect(alone.epoch(4)), collect(helped.epoch(4)))


def test_a_grey_set_of_files_gives_one_channel(files):
    batches = StreamedTrainBatches(files, EVERYTHING, 12, (0.5,), (0.2,), CPU, 4, 0, workers=0)
    assert {images.shape[1] for images, _ in batches.epoch(0)} == {1}


def test_random_erasing_acts_on_about_the_share_of_images_asked_for(split):
    plain, erased = train_batches(split, Augment()), train_batches(split, Augment(erasing=0.5))
    touched = []
    for epoch in range(12):
        for (before, _), (after, _) in zip(plain.epoch(epoch), erased.epoch(epoch), strict=True):
            changed = before != after
            touched += changed.flatten(1).any(1).tolist()
            assert (after[changed] == 0).all()
    assert 0.35 < np.mean(touched) < 0.65


def test_what_the_workers_get_can_be_sent_to_new_processes(files):
    batches = train_batches(files)
    sent = pickle.loads(pickle.dumps(batches.loader.dataset))
    for key in ((0, 6, 0), (1, 7, 0)):  # a JPEG and a PNG file
        assert torch.equal(sent[key][0], batches.loader.dataset[key][0])


def test_the_crop_of_a_file_depends_on_seed_epoch_its_number_and_the_copies_before(files):
    dataset = train_batches(files).loader.dataset
    first = dataset[(2, 6, 0)][0]
    torch.manual_seed(99)
    dataset[(2, 7, 0)]
    assert torch.equal(first, dataset[(2, 6, 0)][0])
    assert not torch.equal(first, dataset[(3, 6, 0)][0])
    assert not torch.equal(first, train_batches(files, seed=4).loader.dataset[(2, 6, 0)][0])
    assert not torch.equal(first, dataset[(2, 6, 1)][0])


# ----------------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_goes_through_files_in_order_and_nothing_is_random(files, workers):
    batches = eval_batches(files, 14, workers)
    first, again = collect(batches), collect(batches)
    assert [len(batch[1]) for batch in first] == [5, 5, 3]
    assert order(first) == list(range(COUNT))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    expected = []
    for path in files.paths:  # short side to 14 / 0.875 = 16 px, then the centre
        image = Image.open(path)
        scale = 16 / min(image.size)
        resized = image.resize(tuple(int(side * scale) for side in image.size), Image.Resampling.BILINEAR)
        left, top = (round((side - 14) / 2) for side in resized.size)
        pixels = np.asarray(resized.crop((left, top, left + 14, top + 14)))
        expected.append(torch.from_numpy((pixels / 255 - MEAN) / STD).permute(2, 0, 1))
    difference = (torch.cat([batch[0] for batch in first]).double() - torch.stack(expected)).abs()
    assert difference[1::2].max() < 1e-5  # the PNG files go through Pillow
    one_level = max(1 / 255 / s for s in STD)
    assert difference.max() <= one_level * 1.001
    assert (difference > 1e-5).double().mean() < 0.05


def test_evaluation_of_images_in_memory_gives_them_in_order_as_they_are(resident):
    batches = collect(eval_batches(resident, 10))
    assert [len(batch[1]) for batch in batches] == [5, 5, 3]
    assert order(batches) == list(range(COUNT))
    expected = (resident.images / 255 - MEAN) / STD
    torch.testing.assert_close(
        torch.cat([batch[0] for batch in batches]).double(),
        torch.from_numpy(expected).permute(0, 3, 1, 2),
        rtol=1e-5,
        atol=1e-5,
    )


def test_evaluation_of_images_in_memory_resizes_them_as_pillow_does(resident):
    images = torch.cat([images for images, _ in eval_batches(resident, 16)])
    pixels = [Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR) for image in resident.images]
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in pixels])).permute(0, 3, 1, 2)
    one_level = max(1 / 255 / s for s in STD)
    assert (images - Normalize(MEAN, STD, CPU)(stacked)).abs().max() <= one_level * 1.001


# -------------------------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_a_file_that_cannot_be_read_stops_the_run_and_is_named(files, workers, damage):
    path = Path(files.paths[6])
    path.write_bytes(path.read_bytes()[:400])
    if damage == "gone":
        path.unlink()
    with pytest.raises(RunFailed, match=r"/6\.jpg: cannot be read as an image"):
        collect(train_batches(files, workers=workers).epoch(0))
    with pytest.raises(RunFailed, match=r"/6\.jpg: cannot be read as an image"):
        collect(eval_batches(files, 12, workers))
