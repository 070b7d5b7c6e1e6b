"""A run knows its images: its numbers stay right, whatever people do to the data folder meanwhile."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from killing import stop_after
from PIL import Image

import compare
import viz_random_10_vit_vs_deit
from image_datasets.facts import FILE

RUN = "--dataset folder --datapath images --model resnet9 --widths 8,8,8 --depths 1,1,1 --batch-size 16 --lr 0.05"


@pytest.fixture
def noise(workdir):
    """noise(train=20, ...) writes images/<part>/{cat,dog}/*.png of noise, so a model can only memorise the images.
    A side above 64 px makes a streamed set."""

    def make(side: int = 16, classes=("cat", "dog"), root: str = "images", seed: int = 0, **parts: int) -> Path:
        rng = np.random.default_rng(seed)
        for part, count in parts.items():
            for name in classes:
                folder = workdir / root / part / name
                folder.mkdir(parents=True, exist_ok=True)
                for i in range(count):
                    save(folder / f"{i:02}.png", rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        return workdir / root

    return make


def save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def add(root: Path, name: str = "000.png", seed: int = 9) -> None:
    """Adds one image to each class, first in its folder."""
    rng = np.random.default_rng(seed)
    for folder in sorted(root.glob("train/*")):
        with Image.open(next(folder.iterdir())) as image:
            side = image.width
        save(folder / name, rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


def summary(run: str) -> dict:
    return json.loads(Path(f"runs/{run}/summary.json").read_text())


def predictions(run: str) -> np.ndarray:
    with np.load(f"runs/{run}/predictions.npz") as file:
        return file["logits"]


def listed(run: str) -> list[dict]:
    with gzip.open(f"runs/{run}/images.csv.gz", "rt", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("side", [16, 70])
def test_images_that_are_added_move_nothing(cli, learns, noise, monkeypatch, side):
    """Without test/ the split is a fixed fifth of the folder; one more image per class would make it another fifth."""
    root = noise(side, train=20)
    line = f"{RUN} --epochs 3 {'' if side == 16 else '--img-size 16 --num-workers 0'}"
    learns(f"{line} --run-name whole")
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        assert cli(f"{line} --run-name stopped").status == 130
    add(root)
    for run in ("whole", "stopped"):
        learns(f"--evaluate runs/{run}/best.pth --run-name {run}-scored")
    assert np.array_equal(predictions("whole"), predictions("whole-scored"))
    assert summary("whole-scored")["image_digests"]["test"] == summary("whole")["image_digests"]["test"]
    result = learns("--resume --run-name stopped")
    assert "images added since the run began, and left out: 2" in result.out
    assert np.array_equal(predictions("whole"), predictions("stopped"))
    learns("--measure runs/whole --corruptions --num-workers 0")
    found = json.loads(Path("runs/whole/robustness.json").read_text())
    assert found["clean"]["top1"] == summary("whole")["top1"]
    out = learns("--first runs/whole --second runs/stopped --num-images 8", script=viz_random_10_vit_vs_deit).out
    assert "000.png" not in out
    learns(f"{line} --run-name new")  # a new run includes them
    assert sum(summary("new")["images"].values()) == 42


def test_the_list_names_every_image_with_its_split_class_and_content(learns, noise):
    root = noise(train=10, val=3, test=4)
    learns(f"{RUN} --epochs 1 --train-fraction 0.5 --run-name a")
    rows = listed("a")
    assert len(rows) == 34 and {row["split"] for row in rows} == {"train", "val", "test", "unused"}
    for row in rows:
        file = root / row["path"]
        assert file.stat().st_size == int(row["bytes"]) and file.parent.name == row["class"]
    assert sum(row["split"] == "unused" for row in rows) == 10
    assert len({row["hash"] for row in rows}) == 34


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        (lambda root: (root / "train/cat").rename(root / "train/zebra"), "classes gone: cat, new: zebra"),
        (lambda root: shutil.rmtree(root / "train/cat") or noise_in(root / "train/bird"), "gone: cat, new: bird"),
        (lambda root: (root / "train/cat/03.png").unlink(), "images missing: 1 (train/cat/03.png)"),
        (lambda root: (root / "train/cat/03.png").rename(root / "train/cat/x.png"), "images missing: 1"),
        (lambda root: save(root / "train/cat/03.png", np.zeros((16, 16, 3), np.uint8)), "images with other content: 1"),
    ],
)
def test_a_run_does_not_go_on_with_other_images(cli, noise, monkeypatch, change, needle):
    root = noise(train=20)
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert cli(f"{RUN} --epochs 2 --run-name a").status == 130
    change(root)
    before = Path("runs/a/last.pth").read_bytes()
    result = cli("--resume --run-name a")
    assert result.status == 2 and needle in result.err and "--weights runs/a/last.pth" in result.err, result.err
    assert len(result.err.splitlines()) == 1 and Path("runs/a/last.pth").read_bytes() == before


def noise_in(folder: Path) -> None:
    folder.mkdir()
    for i in range(20):
        save(folder / f"{i:02}.png", np.random.default_rng(100 + i).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def test_a_class_that_is_added_moves_no_label(learns, cli, noise, monkeypatch):
    root = noise(train=20, test=4)
    learns(f"{RUN} --epochs 2 --run-name whole")
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert cli(f"{RUN} --epochs 2 --run-name a").status == 130
    noise_in(root / "train/bird")  # sorts before cat and dog
    learns("--resume --run-name a")
    learns("--evaluate runs/whole/best.pth --run-name scored")
    for run in ("a", "scored"):
        assert np.array_equal(predictions("whole"), predictions(run))


def test_scoring_changed_test_images_takes_a_word_and_is_told(cli, learns, noise):
    root = noise(train=20, test=5)
    for seed in (0, 1):
        learns(f"{RUN} --epochs 1 --seed {seed} --run-name s{seed}")
    (root / "test/cat/00.png").unlink()
    (root / "train/cat/00.png").unlink()  # does not matter for a score
    result = cli("--evaluate runs/s0/best.pth --run-name e")
    assert result.status == 2 and "images missing: 1 (test/cat/00.png)" in result.err
    assert "--accept-changed-data" in result.err and not Path("runs/e").exists()
    assert cli("--measure runs/s0 --corruptions").status == 2
    pair = "--first runs/s0 --second runs/s1 --num-images 3"
    assert cli(pair, script=viz_random_10_vit_vs_deit).status == 2
    learns(f"{pair} --accept-changed-data", script=viz_random_10_vit_vs_deit)
    learns("--evaluate runs/s0/best.pth --accept-changed-data --run-name e")
    told = summary("e")
    assert told["changed_data"] == {"missing": 1, "changed": 0} and told["images"] == {"test": 9}
    assert any("images missing: 1" in note for note in told["notes"])
    assert "images missing: 1" in learns("--measure runs/s0 --corruptions --accept-changed-data").out
    out = learns("runs/e runs/s1", script=compare).out
    assert "9 images of test" in out and "10 images of test" in out  # two cohorts, no pair


def test_another_data_set_is_scored_as_such(learns, noise):
    noise(train=20, test=5)
    noise(root="other", seed=5, train=3, test=7)
    learns(f"{RUN} --epochs 1 --run-name a")
    learns("--evaluate runs/a/best.pth --datapath other --run-name other")
    assert summary("other")["images"] == {"test": 14}
    assert any("other images than those that the run was tested on" in note for note in summary("other")["notes"])
    Path("images").rename("moved")
    learns("--evaluate runs/a/best.pth --datapath moved --run-name moved")
    assert np.array_equal(predictions("a"), predictions("moved")) and summary("moved")["notes"] == []


def test_test_images_that_a_run_has_trained_on_are_told(learns, noise):
    root = noise(train=20, test=5)
    learns(f"{RUN} --epochs 1 --run-name a")
    for name in ("cat", "dog"):
        folder = root.parent / "leaky/test" / name
        folder.mkdir(parents=True)
        shutil.copytree(root / "train" / name, root.parent / "leaky/train" / name)
        shutil.copyfile(root / "train" / name / "00.png", folder / "a.png")
        shutil.copyfile(root / "test" / name / "00.png", folder / "b.png")
    learns("--evaluate runs/a/best.pth --datapath leaky --run-name leaky")
    assert any("the run trained on or validated with: 2" in note for note in summary("leaky")["notes"])


def test_a_checkpoint_without_its_list_is_held_to_its_digest(cli, learns, noise):
    root = noise(train=20)
    learns(f"{RUN} --epochs 1 --run-name a")
    shutil.copyfile("runs/a/best.pth", "alone.pth")
    learns("--evaluate alone.pth --run-name same")
    assert np.array_equal(predictions("a"), predictions("same"))
    add(root)
    result = cli("--evaluate alone.pth --run-name moved")
    assert result.status == 2 and "are not those that the run was tested on" in result.err
    learns("--evaluate alone.pth --run-name moved --accept-changed-data")


def test_a_run_killed_before_its_list_was_written_writes_it_when_it_is_resumed(learns, noise):
    noise(train=20)
    learns(f"{RUN} --epochs 1 --run-name a")
    expected = Path("runs/a/images.csv.gz").read_bytes()
    for file in ("images.csv.gz", "last.pth", "best.pth", "previous.pth", "summary.json"):
        Path("runs/a", file).unlink(missing_ok=True)
    learns("--resume --run-name a")
    assert Path("runs/a/images.csv.gz").read_bytes() == expected


# --------------------------------------------------------------------------------------------------------- duplicates


@pytest.mark.parametrize("side", [16, 70])
def test_the_same_picture_in_training_and_test_is_told_and_left_out_on_request(learns, noise, side):
    root = noise(side, train=20, val=4, test=5)
    shutil.copyfile(root / "train/cat/00.png", root / "test/cat/copy.png")
    shutil.copyfile(root / "train/dog/01.png", root / "test/cat/other-label.png")
    shutil.copyfile(root / "train/dog/02.png", root / "val/dog/copy.png")
    line = f"{RUN} --epochs 1 {'' if side == 16 else '--img-size 16 --num-workers 0'}"
    result = learns(f"{line} --run-name a")
    assert "training images that also stand in other splits: 3 (1 in validation, 2 in test); --drop-dup" in result.out
    assert "images that stand under more than one class: 1" in result.out
    assert summary("a")["images"] == {"train": 40, "val": 9, "test": 12}
    learns(f"{line} --drop-duplicates --run-name b")
    assert summary("b")["images"] == {"train": 37, "val": 9, "test": 12}
    assert any("; left out of training" in note for note in summary("b")["notes"])
    assert summary("a")["image_digests"]["test"] == summary("b")["image_digests"]["test"]


def test_small_images_are_the_same_by_their_pixels(learns, noise):
    root = noise(train=20, test=5)
    with Image.open(root / "train/cat/00.png") as image:
        image.save(root / "test/cat/copy.bmp")
    assert "also stand in other splits: 1 (1 in test)" in learns(f"{RUN} --epochs 1 --run-name a").out


# -------------------------------------------------------------------------------------------------------------- seeds


def test_the_split_has_a_seed_of_its_own(learns, noise):
    noise(train=20)
    for name, flags in (("a", "--seed 3"), ("b", "--seed 4 --split-seed 3"), ("c", "--seed 4")):
        learns(f"{RUN} --epochs 1 {flags} --run-name {name}")
    val = {name: {row["path"] for row in listed(name) if row["split"] == "val"} for name in "abc"}
    assert val["a"] == val["b"] != val["c"]
    assert not np.array_equal(predictions("a"), predictions("b"))
    assert summary("b")["selected_on"] == "0.1 of train, stratified, seed 3"


# --------------------------------------------------------------------------------------------------------- comparison


def test_runs_of_different_images_are_not_paired_although_their_classes_agree(learns, noise):
    noise(train=20, test=5)
    noise(root="other", seed=5, train=20, test=5)
    for seed in (0, 1):
        learns(f"{RUN} --epochs 1 --seed {seed} --run-name a{seed}")
        learns(f"{RUN} --datapath other --lr 0.01 --epochs 1 --seed {seed} --run-name b{seed}")
    out = learns("runs/a0 runs/a1 runs/b0 runs/b1", script=compare).out
    report = Path("runs/comparison/report.md").read_text()
    assert "they are scored on other images, whose number and classes are the same" in report
    assert out.count("10 images of test") == 2


# -------------------------------------------------------------------------------------------------------------- cache


def test_files_are_read_once_and_again_where_they_change(learns, noise, monkeypatch):
    from image_datasets import facts

    root = noise(70, train=20, test=5)
    line = f"{RUN} --img-size 16 --num-workers 0 --epochs 1"
    learns(f"{line} --run-name a")
    assert (root / FILE).is_file()
    looked = []
    look = facts._look
    monkeypatch.setattr(facts, "_look", lambda path: looked.append(path) or look(path))
    learns(f"{line} --run-name b")
    assert looked == []
    save(root / "train/cat/00.png", np.zeros((70, 70, 3), np.uint8))
    learns(f"{line} --run-name c")
    assert [Path(path).name for path in looked] == ["00.png"]
    (root / FILE).write_bytes(b"damaged")
    learns(f"{line} --run-name d")
    assert len(looked) == 51


def test_where_the_data_cannot_be_written_the_users_cache_keeps_what_is_known(learns, noise, monkeypatch, tmp_path):
    from image_datasets import facts

    root = noise(70, train=20, test=5)
    (root / FILE).mkdir()  # a folder cannot be replaced, not even by root
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    line = f"{RUN} --img-size 16 --num-workers 0 --epochs 1"
    learns(f"{line} --run-name a")
    monkeypatch.setattr(facts, "_look", lambda path: pytest.fail("it was read again"))
    learns(f"{line} --run-name b")
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 1


def test_the_sheet_of_images_shows_those_that_were_scored(learns, cli, noise):
    root = noise(train=20)
    for seed in (0, 1):
        learns(f"{RUN} --epochs 1 --lr 0.{seed + 1} --run-name s{seed}")
    add(root)
    learns("runs/s0 runs/s1 --images", script=compare)
    tested = next(row["path"] for row in listed("s0") if row["split"] == "test")
    (root / tested).unlink()
    result = cli("runs/s0 runs/s1 --images", script=compare)
    assert result.status == 2 and "is not what the runs were scored on" in result.err


# ---------------------------------------------------------------------------------------------------------- regressions


def test_pixels_in_memory_are_the_same_in_grey_and_colour(learns, workdir):
    for chans in (1, 3):
        line = "--dataset digits --model resnet9 --widths 8,8,8 --depths 1,1,1 --epochs 1 --train-fraction 0.2"
        learns(f"{line} --in-chans {chans} --run-name c{chans}")
        learns(f"--evaluate runs/c{chans}/best.pth --run-name e{chans}")
        assert np.array_equal(predictions(f"c{chans}"), predictions(f"e{chans}"))
    assert summary("c1")["image_digests"]["test"] == summary("c3")["image_digests"]["test"]


def test_a_run_by_the_oldest_rules_is_held_to_its_predictions(cli, learns, noise):
    root = noise(train=20, test=6)
    learns(f"{RUN} --epochs 1 --data-rules 1 --run-name a")
    assert summary("a")["image_digests"] == {} and not Path("runs/a/images.csv.gz").exists()
    learns("--evaluate runs/a/best.pth --run-name same")
    assert any("stores no list of its images" in note for note in summary("same")["notes"])
    (root / "test/cat/00.png").unlink()
    result = cli("--evaluate runs/a/best.pth --run-name fewer")
    assert result.status == 2 and "(11 images, then 12)" in result.err


@pytest.mark.parametrize("rules", [1, 2])
def test_images_that_could_never_be_read_are_no_change(cli, learns, noise, monkeypatch, rules):
    root = noise(70, train=20, test=6)
    for part in ("train", "test"):
        for name in ("07.png", "08.png")[: 1 + (part == "train")]:
            (root / part / "cat" / name).write_bytes(b"no image")
    line = f"{RUN} --img-size 16 --num-workers 0 --on-bad-image skip --data-rules {rules}"
    learns(f"{line} --epochs 2 --drop-duplicates --run-name a" if rules == 2 else f"{line} --epochs 2 --run-name a")
    learns("--evaluate runs/a/best.pth --on-bad-image skip --num-workers 0 --run-name e")
    assert np.array_equal(predictions("a"), predictions("e"))
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert cli(f"{line} --epochs 2 --run-name b").status == 130
    learns("--resume --run-name b")


def test_a_file_that_could_not_be_read_for_a_while_is_read_again(noise, monkeypatch):
    from image_datasets import facts

    root = noise(train=2)
    paths = sorted(map(str, root.glob("train/*/*.png")))
    with monkeypatch.context() as patch:
        patch.setattr(facts.Path, "read_bytes", lambda path: (_ for _ in ()).throw(OSError("a server is away")))
        assert not facts.is_known(facts.file_facts(root, paths, 1)).any()
    found = facts.file_facts(root, paths, 1)
    assert facts.is_known(found).all() and len({bytes(digest) for digest in found["digest"]}) == 4


def test_an_evaluation_on_other_data_can_be_measured(learns, noise):
    noise(train=20, test=5)
    noise(root="other", seed=5, train=3, test=7)
    learns(f"{RUN} --epochs 1 --run-name a")
    learns("--evaluate runs/a/best.pth --datapath other --run-name other")
    learns("--measure runs/other --corruptions")
    found = json.loads(Path("runs/other/robustness.json").read_text())
    assert found["images"] == 14 and found["clean"]["top1"] == summary("other")["top1"]


def test_a_test_folder_that_is_added_later_is_not_what_a_run_was_tested_on(learns, noise):
    noise(train=20, val=5)
    learns(f"{RUN} --epochs 1 --run-name a")
    noise(seed=7, test=6)
    learns("--evaluate runs/a/best.pth --run-name e")
    assert (
        np.array_equal(predictions("a"), predictions("e")) and summary("e")["split"] == summary("a")["split"] == "val"
    )
    assert "images added since the run began, and left out: 12" in summary("e")["notes"]


def test_dropping_all_images_of_a_class_is_refused(cli, noise):
    root = noise(train=20)
    shutil.copytree(root / "train" / "cat", root / "test" / "cat")
    save(root / "test" / "cat" / "more.png", np.zeros((16, 16, 3), np.uint8))
    result = cli(f"{RUN} --epochs 1 --drop-duplicates --run-name a")
    assert result.status == 2 and "no training image would be left of cat" in result.err
    result = cli(f"{RUN} --epochs 1 --drop-duplicates --data-rules 1 --run-name a")
    assert result.status == 2 and "--drop-duplicates has no effect with --data-rules 1" in result.err


def test_a_damaged_list_is_told_in_one_line(cli, learns, noise):
    noise(train=20)
    learns(f"{RUN} --epochs 1 --run-name a")
    whole = Path("runs/a/images.csv.gz").read_bytes()
    for place in range(10, len(whole), 40):
        Path("runs/a/images.csv.gz").write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        result = cli("--evaluate runs/a/best.pth --run-name e --overwrite")
        assert result.status == 2 and "the run's list of images cannot be read" in result.err


def test_a_data_set_of_another_kind_is_refused_by_its_classes(cli, learns, noise):
    noise(train=20)
    learns(f"{RUN} --epochs 1 --run-name a")
    result = cli("--evaluate runs/a/best.pth --dataset digits --run-name e")
    assert result.status == 2 and "has 2 classes, digits has 10" in result.err
