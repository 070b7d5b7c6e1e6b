"""The picture of two models' predictions: the same images for both, true statements about them, and refusals."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train_deit_imagenet100
import viz_random_10_vit_vs_deit as script

SMALL = "--img-size 32 --patch-size 8 --depth 1 --embed-dim 24 --epochs 1 --batch-size 8 --lr 0.005"


@pytest.fixture
def study(learns, shards) -> Path:
    """Makes the two runs that the script looks for, barely trained. Returns the data folder."""
    root = shards(per_class=8)
    line = f"--data-path {root} {SMALL}"
    learns(f"{line} --model vit_tiny --run-name baseline_vit_tiny", script=train_deit_imagenet100)
    learns(f"{line} --model deit_tiny_distill --seed 3 --run-name deit_tiny_distill", script=train_deit_imagenet100)
    return root


@pytest.fixture
def draw(learns):
    return lambda command="": learns(command, script=script).out


def answers(out: str) -> list[tuple[str, list[tuple[str, float, str]]]]:
    """Parses the output: (image file, [(right or wrong, per cent, prediction) per model])."""
    images = []
    for line in out.splitlines():
        if match := re.match(r" *\d+  .+  (\w+/\w+\.JPEG)$", line):
            images.append((match[1], []))
        elif match := re.match(r"     .+?  (right|wrong) +([\d.]+) %  (.+)$", line):
            images[-1][1].append((match[1], float(match[2]), match[3]))
    return images


@pytest.mark.auto_precision
def test_what_is_said_is_what_the_runs_predicted(draw, study, workdir):
    out = draw()
    told = answers(out)
    assert len(told) == 10 and len({file for file, _ in told}) == 10
    files = sorted((study / "val.X").glob("*/*"), key=lambda path: path.parts[-2:])
    order = {str(Path(*path.parts[-2:])): i for i, path in enumerate(files)}
    for model, run in enumerate(("baseline_vit_tiny", "deit_tiny_distill")):
        stored = np.load(f"runs/{run}/predictions.npz")
        probabilities = torch.tensor(stored["logits"]).softmax(1)
        for file, both in told:
            i = order[file]
            mark, percent, name = both[model]
            assert name == stored["class_names"][int(probabilities[i].argmax())]
            assert percent == pytest.approx(100 * float(probabilities[i].max()), abs=0.06)
            assert (mark == "right") == (int(probabilities[i].argmax()) == stored["targets"][i])
        right = sum(both[model][0] == "right" for _, both in told)
        assert f"{right} of 10 right  (runs/{run}/best.pth)" in out
    with Image.open("vit_vs_deit_random10.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 500


def test_the_seed_chooses_the_images(draw, study):
    first, again, other = ([file for file, _ in answers(draw(f"--num-images 6 --seed {seed}"))] for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 6


def test_disagreements_are_images_on_which_the_two_differ(draw, study):
    out = draw("--disagreements --num-images 5 --batch-size 4")
    told = answers(out)
    assert 0 < len(told) <= 5
    assert all(first[2] != second[2] for _, (first, second) in told)
    assert "on which the two differ (found among " in out


def test_any_two_models_with_what_their_answers_rest_on(draw, learns, study, workdir):
    """A CNN instead of a Transformer, and a checkpoint instead of a run directory."""
    learns(f"--dataset imagenet100 --data-path {study} --model resnet20 --epochs 1 --batch-size 8 --run-name cnn")
    draw("--first runs/cnn/last.pth --num-images 3 --attention --output why.png")
    assert (workdir / "why.png").is_file()


def test_what_cannot_be_drawn_is_refused(cli, learns, study, workdir, image_folder):
    learns(
        f"--dataset folder --data-path {image_folder(side=32, classes=4)} --model resnet20 --epochs 1 --run-name other"
    )
    (workdir / "runs/empty").mkdir()
    before = sorted(workdir.rglob("*"))
    for line, status, needle in (
        ("--second runs/baseline_vit_tiny --disagreements", 1, "both models give the same answer to all 32 images"),
        ("--first nowhere", 2, "--first nowhere: no such run directory or checkpoint"),
        ("--second runs/empty", 2, "--second runs/empty: has no best.pth"),
        ("--second runs/other", 2, "has other classes than imagenet100 (class 0: 'class0', 'tench')"),
        ("--output picture.jpg", 2, "--output picture.jpg: the name of a picture ends in .png"),
        ("--num-images 0", 2, "--num-images: '0' is not a whole number from 1 to 100"),
        ("--data-path nowhere", 2, "--datapath nowhere: no such folder"),
        ("--epochs 3", 2, "unknown flag --epochs"),
    ):
        result = cli(line, script=script)
        assert result.status == status and needle in result.err, line + result.err
        assert len(result.err.splitlines()) == 1
    assert sorted(workdir.rglob("*")) == before


def test_without_the_runs_it_says_how_to_train_them(cli, workdir):
    result = cli("", script=script)
    assert result.status == 2 and not list(workdir.iterdir())
    assert (
        "--first runs/baseline_vit_tiny: no such run directory or checkpoint; train it: python train_deit" in result.err
    )
