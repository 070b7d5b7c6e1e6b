"""Runs of earlier versions still resume, evaluate, measure and compare, with the numbers of their own version.

`older_runs/make.py` made the fixtures.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import compare
import study

HERE = Path(__file__).parent / "older_runs"
VERSIONS = sorted(path.name for path in HERE.iterdir() if (path / "expected").is_dir())
# Logits of one network differ between CPUs by rounding; after further training, by a little more.
SAME_WEIGHTS, TRAINED_ON = 1e-4, 0.02


@pytest.fixture(params=VERSIONS)
def expected(request, workdir) -> Path:
    """The results that the older version got from its runs. Copies the runs themselves into the working directory."""
    shutil.copytree(HERE / request.param, workdir, dirs_exist_ok=True)
    return HERE / request.param / "expected"


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def assert_same_predictions(run: Path, expected: Path, tolerance: float) -> None:
    """Asserts the same logits for the same images in the same order."""
    ours, theirs = (np.load(folder / "predictions.npz") for folder in (run, expected))
    assert ours["class_names"].tolist() == theirs["class_names"].tolist()
    assert ours["targets"].tolist() == theirs["targets"].tolist()
    assert ours["logits"] == pytest.approx(theirs["logits"], abs=tolerance)


def columns(file: Path) -> dict[str, list[str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    return {name: [row[name] for row in rows] for name in rows[0]}


def assert_same_table(ours: Path, theirs: Path, tolerance: float) -> None:
    """Asserts that every column of the older version is there, with its values."""
    found = columns(ours)
    for name, values in columns(theirs).items():
        for i, (value, wanted) in enumerate(zip(found[name], values, strict=True)):
            try:
                assert float(value) == pytest.approx(float(wanted), abs=tolerance, rel=tolerance), (name, i)
            except ValueError:
                assert value == wanted, (name, i)


@pytest.mark.auto_precision
@pytest.mark.parametrize("name", ["digits-stopped", "folder-stopped"])
def test_a_run_stopped_within_an_epoch_goes_on_as_if_it_had_not_been(learns, expected, name):
    assert "batch 2 of the next" in learns(f"--resume --run-name {name}").out
    run = Path("runs") / name
    assert_same_predictions(run, expected / name, TRAINED_ON)
    assert_same_table(run / "metrics.csv", expected / name / "metrics.csv", TRAINED_ON)
    ours, theirs = read(run / "summary.json"), read(expected / name / "summary.json")
    for key in ("split", "selected_on", "selected_by", "epochs", "best_epoch", "images", "params", "flops"):
        assert ours[key] == theirs[key], key
    assert set(ours["notes"]) >= set(theirs["notes"])


@pytest.mark.auto_precision
@pytest.mark.parametrize("name", ["digits", "folder", "bf16"])
def test_a_checkpoint_scores_what_it_scored(learns, expected, name):
    """In fp32. The older version evaluated in fp32 too, even the run that it trained and scored in bf16."""
    learns(f"--evaluate runs/{name}/best.pth --run-name again")
    assert_same_predictions(Path("runs/again"), expected / f"{name}-evaluated", SAME_WEIGHTS)
    ours, theirs = read(Path("runs/again/summary.json")), read(expected / f"{name}-evaluated/summary.json")
    for key in ("top1", "loss", "map", "ece"):
        assert ours[key] == pytest.approx(theirs[key], abs=1e-4), key
    assert ours["per_class_accuracy"] == theirs["per_class_accuracy"]


def test_robustness_is_measured_on_the_same_damaged_images(learns, expected):
    learns("--measure runs/digits runs/folder --corruptions")
    for name in ("digits", "folder"):
        ours, theirs = (read(folder / name / "robustness.json") for folder in (Path("runs"), expected))
        one_image = 1.01 / theirs["images"]  # a tie may fall to either side
        assert ours["clean"]["top1"] == theirs["clean"]["top1"] and ours["images"] == theirs["images"]
        for corruption, values in theirs["corruptions"].items():
            assert ours["corruptions"][corruption] == pytest.approx(values, abs=one_image), corruption


@pytest.mark.auto_precision
def test_the_cost_of_an_older_run_can_be_measured(learns, expected):
    learns("--measure runs/folder --speed --batch-size 4")
    cost = read(Path("runs/folder/cost.json"))
    assert cost["train_images_per_second"] > 0 and cost["params"] == read(Path("runs/folder/summary.json"))["params"]


def test_a_study_compares_as_it_did(learns, expected):
    learns("runs/small", script=compare)
    for file in sorted((expected / "small/comparison/tables").iterdir()):
        assert_same_table(Path("runs/small/comparison/tables") / file.name, file, 1e-6)


def test_a_finished_study_has_nothing_left_to_train(learns, expected):
    before = {file: file.read_bytes() for file in Path("runs/small").glob("*/*.*")}
    learns("small.toml", script=study)
    assert {file: file.read_bytes() for file in before} == before


# ---------------------------------------------------------------------------------------- runs without a list of images


def test_an_older_run_is_refused_where_its_classes_have_changed(cli, expected):
    Path("images/train/red").rename("images/train/zebra")
    result = cli("--resume --run-name folder-stopped")
    assert result.status == 2 and "gone: red; new: zebra" in result.err


def test_the_scores_of_an_older_run_are_refused_where_images_have_moved_its_split(cli, learns, expected):
    """Only the number and the classes of its test images are known."""
    for folder in Path("images/train").iterdir():
        for i in range(6):
            shutil.copyfile(folder / "00.png", folder / f"0{i}-more.png")
    for command in ("--evaluate runs/folder/best.pth --run-name again", "--measure runs/folder --corruptions"):
        result = cli(command)
        assert result.status == 2 and "not those that the run was tested on (18 images, then 15)" in result.err
    learns("--evaluate runs/folder/best.pth --run-name again --accept-changed-data")
    notes = read(Path("runs/again/summary.json"))["notes"]
    assert any("the run stores no list of its images" in note for note in notes)
    assert any("18 images, then 15" in note for note in notes)
