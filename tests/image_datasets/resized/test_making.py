"""Resized copies: their pixels, what is made again, and what interruptions and damage leave."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_transform import Augment
from image_datasets.batches import StreamedTrainBatches
from image_datasets.reading import CURRENT
from image_datasets.resized import making, store
from image_datasets.resized.making import Form, complete
from image_datasets.resized.store import Copies
from image_datasets.splits import Split
from utils import BadRequest, RunFailed

SIDE = 64  # px, of the copies


def photograph(seed: int, width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height), 3)
    noisy = np.asarray(coarse, int) + rng.integers(-9, 10, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture
def sources(tmp_path) -> list[str]:
    """JPEG and PNG files, wide, tall, and one that is smaller than the copies."""
    paths = []
    (tmp_path / "images").mkdir()
    for i, size in enumerate([(200, 120), (100, 150), (97, 201), (50, 40), (64, 64), (128, 128)]):
        path = tmp_path / "images" / f"{i}.{'png' if i % 2 else 'jpg'}"
        photograph(i, *size).save(path, quality=95)
        paths.append(str(path))
    return paths


def make(place: Path, sources: list[str], kind: str = "raw", workers: int = 0, chans: int = 3) -> Copies:
    form = Form(kind, SIDE, chans, CURRENT)
    return complete(place, form, str(Path(sources[0]).parent), sources, workers, skip_bad=False)


def images(copies: Copies) -> list[np.ndarray]:
    return [copies[i][:, :, :].permute(1, 2, 0).numpy().copy() for i in range(len(copies))]


def expected(path: str, mode: str = "RGB") -> np.ndarray:
    image = Image.open(path).convert(mode)
    scale = SIDE / min(image.size)
    if scale < 1:
        size = [SIDE if side == min(image.size) else int(side * scale) for side in image.size]
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.atleast_3d(np.asarray(image))


def assert_right(copies: Copies, sources: list[str], mode: str = "RGB") -> None:
    """Asserts Pillow's antialiased resize, up to one level."""
    assert len(copies) == len(sources)
    for image, path in zip(images(copies), sources, strict=True):
        reference = expected(path, mode)
        assert image.shape == reference.shape
        assert np.abs(image.astype(int) - reference).max() <= 1


# -------------------------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("workers", [0, 2])
def test_raw_copies_are_pillows_resized_images(tmp_path, sources, workers, mode):
    assert_right(make(tmp_path / "c", sources, workers=workers, chans=len(mode)), sources, mode)


def test_jpeg_copies_are_close_to_them(tmp_path, sources):
    for image, path in zip(images(make(tmp_path / "c", sources, "jpeg")), sources, strict=True):
        error = ((image.astype(float) - expected(path)) ** 2).mean()
        assert 10 * np.log10(255**2 / error) > 28


@pytest.mark.parametrize("kind", ["jpeg", "raw"])
def test_training_batches_do_not_depend_on_the_workers_nor_on_who_made_the_copy(tmp_path, sources, kind):
    def batches(place: str, workers: int) -> list[torch.Tensor]:
        split = Split(np.arange(6), paths=sources, copies=make(tmp_path / place, sources, kind, workers))
        augment = Augment(crop="resized", flip=True)
        stream = StreamedTrainBatches(
            split, augment, 32, (0.5,) * 3, (0.2,) * 3, torch.device("cpu"), 2, 0, workers=workers
        )
        return [part.clone() for epoch in (0, 1) for batch in stream.epoch(epoch) for part in batch]

    alone, helped = batches("a", 0), batches("b", 2)
    assert len(alone) == 12
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize("kind", ["jpeg", "raw"])
def test_an_image_costs_little_memory_and_no_object_of_its_own(tmp_path, sources, kind):
    copies = make(tmp_path / "c", sources, kind)
    many = copies.subset(np.zeros(100_000, dtype=int))
    sent = pickle.dumps(many)
    assert len(sent) < 40 * len(many)
    assert torch.equal(pickle.loads(sent)[7][:, :, :], copies[0][:, :, :])


# --------------------------------------------------------------------------------------------------- what is redone


def test_nothing_is_redone_but_what_changed(tmp_path, sources, capsys):
    place = tmp_path / "c"
    make(place, sources[:5])
    assert "5 of 5 training images were copied" in capsys.readouterr().out
    before = {file: file.read_bytes() for file in place.glob("*.data")}
    make(place, sources[:5])
    assert "all 5 training images are in" in capsys.readouterr().out
    photograph(9, 90, 80).save(sources[1])  # one image replaced, one added, one gone
    assert_right(make(place, sources[1:]), sources[1:])
    assert "2 of 5 training images were copied" in capsys.readouterr().out
    os.utime(sources[2], (1, 1))
    assert_right(make(place, sources), sources)
    told = capsys.readouterr().out
    assert "1 of 6 training images were copied" in told and "2 more are there that this run does not need" in told
    assert all(file.read_bytes() == content for file, content in before.items())


def test_a_complete_copy_is_read_where_nothing_can_be_written(tmp_path, sources, monkeypatch):
    place = tmp_path / "c"
    make(place, sources)

    def refuse(*args, **kwargs):
        raise AssertionError("written to")

    monkeypatch.setattr(making, "_locked", refuse)
    assert_right(make(place, sources), sources)


def test_broken_images_are_named_in_one_line_after_the_others_are_copied(tmp_path, sources, capsys):
    good = Path(sources[2]).read_bytes()
    Path(sources[2]).write_bytes(good[:700])
    with pytest.raises(BadRequest, match=r"1 of 6 images are broken: .*/2\.jpg; repair or delete them") as error:
        make(tmp_path / "c", sources, workers=2)
    assert "\n" not in str(error.value)
    assert "/2.jpg: cannot be read as an image" in capsys.readouterr().out
    Path(sources[2]).write_bytes(good)
    assert_right(make(tmp_path / "c", sources), sources)
    assert "1 of 6 training images were copied" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------- interruptions and damage


def start(place: Path, sources: list[str]) -> multiprocessing.Process:
    """A process that makes the copies one at a time, as slowly as large ones."""

    def work() -> None:
        add = making._Writer.add

        def slow(self, *args):
            time.sleep(0.02)
            add(self, *args)

        making.COMMIT_SECONDS, making.LOADED, making._Writer.add = 0.0, 1, slow
        make(place, sources)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def count(place: Path) -> int:
    return sum(index.stat().st_size // store.RECORD.itemsize for index in place.glob("*.index"))


def wait_for(records: int, place: Path) -> None:
    until = time.monotonic() + 60
    while count(place) < records and time.monotonic() < until:
        time.sleep(0.002)


@pytest.fixture
def many(tmp_path) -> list[str]:
    (tmp_path / "many").mkdir()
    paths = [str(tmp_path / "many" / f"{i}.png") for i in range(40)]
    for i, path in enumerate(paths):
        photograph(i, 80, 70).save(path)
    return paths


def test_a_process_that_is_killed_leaves_what_it_has_done(tmp_path, many, capsys):
    place = tmp_path / "c"
    for reached in (0, 1, 1, 5, 9, 9, 14):  # number of records at which it is killed
        process = start(place, many)
        wait_for(reached, place)
        time.sleep(0.007 * (reached % 4))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    left = count(place)
    assert 14 <= left < 40
    with max(place.glob("*.index")).open("ab") as index:
        index.write(b"half of a record")
    (place / "000099.data").write_bytes(b"begun, and nothing of it finished")
    assert_right(make(place, many), many)
    assert f"{40 - left} of 40 training images were copied" in capsys.readouterr().out
    assert not (place / "000099.data").exists()


def test_two_processes_at_once_do_no_harm_and_no_work_twice(tmp_path, many, capfd):
    place = tmp_path / "c"
    process = start(place, many)
    wait_for(2, place)
    assert_right(make(place, many), many)
    process.join()
    assert process.exitcode == 0
    told = capfd.readouterr().out
    assert "another process is at work" in told
    assert count(place) == 40


@pytest.mark.parametrize("kind", ["jpeg", "raw"])
def test_a_flipped_bit_is_noticed_and_that_image_copied_anew(tmp_path, sources, kind, capsys):
    place = tmp_path / "c"
    copies = make(place, sources, kind)
    right = images(copies)
    file, entry = copies.files[0], copies.entries[2]
    content = bytearray(file.read_bytes())
    content[int(entry["offset"]) + int(entry["size"]) // 2] ^= 4
    file.write_bytes(content)
    with pytest.raises(BadRequest, match=r"000001\.data: the copy at byte .* is damaged .* start again"):
        images(make(place, sources, kind))
    capsys.readouterr()
    again = make(place, sources, kind)
    assert "1 of 6 training images were copied" in capsys.readouterr().out
    assert all(np.array_equal(a, b) for a, b in zip(images(again), right, strict=True))


@pytest.mark.parametrize("damage", ["data cut", "data gone", "index cut", "index flipped", "index of zeros"])
def test_damage_that_shows_at_the_start_is_repaired(tmp_path, sources, damage, capsys):
    place = tmp_path / "c"
    make(place, sources)
    data, index = place / "000001.data", place / "000001.index"
    content = bytearray(index.read_bytes())
    size = store.RECORD.itemsize
    redone = {"data gone": 6, "index of zeros": 6}.get(damage, 1)
    if damage == "data cut":
        os.truncate(data, data.stat().st_size - 1)
    elif damage == "data gone":
        data.unlink()
    elif damage == "index cut":
        index.write_bytes(content[:-1])
    elif damage == "index flipped":
        content[2 * size + 20] ^= 1
        index.write_bytes(content)
    else:
        index.write_bytes(bytes(len(content)))
    capsys.readouterr()
    assert_right(make(place, sources), sources)
    assert f"{redone} of 6 training images were copied" in capsys.readouterr().out


def test_every_bit_of_a_record_counts():
    rng = np.random.default_rng(0)
    record = np.frombuffer(rng.bytes(store.RECORD.itemsize), store.RECORD).copy()
    record["check"] = store.seal(record)
    for bit in range(8 * store.RECORD.itemsize):
        content = bytearray(record.tobytes())
        content[bit // 8] ^= 1 << bit % 8
        changed = np.frombuffer(bytes(content), store.RECORD)
        assert changed["check"] != store.seal(changed)


def test_a_full_disk_loses_nothing_and_is_told_in_one_line(tmp_path, many, monkeypatch, capsys):
    monkeypatch.setattr(making, "COMMIT_SECONDS", 0.0)
    place = tmp_path / "c"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # writing more fails like a full disk
    try:
        with pytest.raises(RunFailed, match=r"c: File too large: .* of 40 images are copied and kept, .* need about"):
            make(place, many)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = count(place)
    assert 0 < kept < 40
    assert next(place.glob("*.data")).stat().st_size <= 100_000
    assert_right(make(place, many), many)
    assert f"{40 - kept} of 40 training images were copied" in capsys.readouterr().out
