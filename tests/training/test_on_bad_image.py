"""`--on-bad-image`: each command leaves out image files that cannot be read, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train_deit_imagenet100
import viz_random_10_vit_vs_deit
from records.run_directory import RunDirectory

TRAIN = "--dataset folder --model resnet20 --img-size 32 --batch-size 6 --epochs 2 --lr 0.01 --num-workers 0"
ODD = ["a b.png", "ünï 图.png", "two\nlines.png"]


@pytest.fixture(params=["resident", "streamed"])
def root(request, image_folder) -> Path:
    """Three classes of 8 + 4 images. One image of the streamed set has another size. Some names are odd."""
    root = image_folder(side=32)
    if request.param == "streamed":
        file = root / "train/class0/0.png"
        Image.open(file).resize((48, 40)).save(file)
    for name, number in zip(ODD, "567", strict=True):
        (root / f"train/class1/{number}.png").rename(root / "train/class1" / name)
    return root


def spoil(root: Path) -> list[tuple[str, str]]:
    """Damages files of both splits. Returns what bad_images.txt has to list."""
    bad = [("test", "test/class2/1.png"), *(("train", f"train/class1/{name}") for name in ODD)]
    for i, (_, name) in enumerate(bad):
        content = (root / name).read_bytes()
        (root / name).write_bytes([b"", b"text", content[:90], content[: len(content) // 2]][i])
    return [(split, str(root / name)) for split, name in bad]


def listed(directory: Path) -> list[tuple[str, str]]:
    lines = (directory / "bad_images.txt").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert all(entry["reason"] for entry in entries)
    return [(entry["split"], entry["path"]) for entry in entries]


def same_results(a: Path, b: Path) -> None:
    assert (a / "metrics.csv").read_text() == (b / "metrics.csv").read_text()
    assert (a / "bad_images.txt").read_text() == (b / "bad_images.txt").read_text()
    one, two = (torch.load(path / "last.pth", weights_only=True) for path in (a, b))
    assert all(torch.equal(value, two["model"][key]) for key, value in one["model"].items())
    assert np.array_equal(*(np.load(path / "predictions.npz")["logits"] for path in (a, b)))


def test_a_run_goes_on_without_them_counts_them_and_lists_them(cli, learns, workdir, root):
    bad = spoil(root)
    line = f"{TRAIN} --datapath {root} --val-fraction 0"
    result = cli(f"{line} --run-name stopped")
    assert result.status in (1, 2) and "cannot be read as an image" in result.err
    assert len(result.err.splitlines()) == 1

    out = learns(f"{line} --run-name a --on-bad-image skip").out
    assert "bad images    4 cannot be read and were left out (train 3, test 1)" in out
    assert f"wrote         {Path('runs/a/bad_images.txt')}" in out
    summary = json.loads((workdir / "runs/a/summary.json").read_text())
    assert summary["bad_images"] == {"train": 3, "val": 0, "test": 1}
    assert summary["settings"]["on_bad_image"] == "skip"
    assert listed(workdir / "runs/a") == sorted(bad)
    predictions = np.load(workdir / "runs/a/predictions.npz")
    assert predictions["targets"].tolist() == [0] * 4 + [1] * 4 + [2] * 3
    assert summary["top1"] == pytest.approx((predictions["logits"].argmax(1) == predictions["targets"]).mean())
    assert sum(summary["per_class_accuracy"].values()) > 0

    again = learns("--evaluate runs/a/best.pth --run-name b --num-workers 0 --on-bad-image skip")
    assert "left out (test 1)" in again.out
    assert listed(workdir / "runs/b") == [bad[0]]
    # Batches of another size may round otherwise.
    logits = np.load(workdir / "runs/b/predictions.npz")["logits"]
    np.testing.assert_allclose(logits, predictions["logits"], rtol=1e-4, atol=1e-5)
    assert json.loads((workdir / "runs/b/summary.json").read_text())["bad_images"]["test"] == 1


def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits_and_list(cli, learns, workdir, root, monkeypatch):
    spoil(root)
    line = (
        f"{TRAIN} --datapath {root} --augmentation cutmix --accumulate 2 --ema 0.9 --select-by map --on-bad-image skip"
    )
    learns(f"{line} --run-name whole")
    write = RunDirectory.write_metrics

    def write_and_stop(self, history):
        write(self, history)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_metrics", write_and_stop)
        assert cli(f"{line} --run-name parts").status == 130
    assert (workdir / "runs/parts/last.pth").is_file()
    learns("--resume --run-name parts --num-workers 1")
    same_results(workdir / "runs/whole", workdir / "runs/parts")


def test_a_run_that_a_bad_file_stopped_can_be_resumed_without_it(cli, learns, workdir, image_folder):
    root = image_folder(side=80)
    spoiled = root / "test/class0/0.png"
    spoiled.write_bytes(b"")
    line = f"{TRAIN} --datapath {root} --epochs 1 --run-name a"
    result = cli(line)
    assert result.status == 1 and f"{spoiled}: cannot be read as an image" in result.err
    learns("--resume --run-name a --on-bad-image skip")
    assert listed(workdir / "runs/a") == [("test", str(spoiled))]


def test_a_resized_copy_is_made_without_them(cli, learns, workdir, image_folder):
    root = image_folder(side=80)
    bad = root / "train/class1/3.png"
    bad.write_bytes(b"no image")
    line = f"{TRAIN} --datapath {root} --epochs 1 --val-fraction 0 --cache-resized jpeg"
    result = cli(f"{line} --run-name a")
    assert result.status == 2 and "1 of 24 images are broken" in result.err
    for name in ("b", "c"):
        assert "1 cannot be read and have no copy" in learns(f"{line} --run-name {name} --on-bad-image skip").out
        assert listed(workdir / f"runs/{name}") == [("train", str(bad))]
    same_results(workdir / "runs/b", workdir / "runs/c")


@pytest.mark.parametrize("root", ["streamed"], indirect=True)
def test_looking_at_the_data_and_at_answers_goes_on_without_them(cli, learns, workdir, root):
    learns(f"{TRAIN} --datapath {root} --epochs 1 --run-name a")
    spoil(root)
    for path in (root / "test").rglob("0.png"):
        path.write_bytes(b"")
    show = f"--inspect-data samples.png --dataset folder --datapath {root} --on-bad-image skip"
    out = learns(f"{show} --check-images").out
    assert "7 of 36 files are broken, and are skipped" in out and "bad images  2 of" in out  # the third validates
    draw = "--first runs/a --second runs/a/last.pth --num-images 9 --output answers.png --num-workers 0"
    draw += " --accept-changed-data"  # these images were readable when the run was tested
    script = viz_random_10_vit_vs_deit
    result = cli(draw, script=script)
    assert result.status in (1, 2) and "cannot be read as an image" in result.err
    out = learns(f"{draw} --on-bad-image skip", script=script).out
    assert out.count("left out: '") == 4 and "of 8 right" in out
    assert (workdir / "answers.png").is_file() and (workdir / "samples.png").is_file()


def test_the_shards_of_imagenet_100_too(learns, workdir, shards):
    root = shards(side=80)
    first, val = (sorted(root.glob(pattern))[0] for pattern in ("train.X1/*/*", "val.X/*/*"))
    first.write_bytes(b"")
    val.write_bytes(b"x")
    line = f"--data-path {root} --img-size 32 --model vit_tiny --patch-size 16 --depth 1 --epochs 1 --batch-size 8"
    learns(f"{line} --num-workers 0 --on-bad-image skip --val-fraction 0 --run-name a", script=train_deit_imagenet100)
    assert listed(workdir / "runs/a") == [("test", str(val)), ("train", str(first))]


def test_a_set_without_files_refuses_the_flag(cli):
    result = cli("--dataset digits --on-bad-image skip")
    assert result.status == 2 and "--on-bad-image has no effect: digits is no set of image files" in result.err


def test_a_link_to_nowhere_is_a_bad_file(learns, workdir, image_folder):
    root = image_folder(side=80)
    (root / "train/class0/9.png").symlink_to("nowhere.png")
    for kind in ("", "--cache-resized raw"):
        name = "plain" if not kind else "copied"
        learns(f"{TRAIN} --datapath {root} --epochs 1 --val-fraction 0 --on-bad-image skip --run-name {name} {kind}")
        assert listed(workdir / f"runs/{name}") == [("train", str(root / "train/class0/9.png"))]
