"""A data set in the form that a user has it in: trained on, resumed, evaluated and compared like a folder."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import image_forms
import numpy as np
import pytest
import torch
from killing import stop_after

import compare
import study

MODEL = "--model resnet9 --widths 8,8,8 --depths 1,1,1 --batch-size 12 --lr 0.05"


def weights(run: str, file: str = "last.pth") -> dict:
    return torch.load(f"runs/{run}/{file}", weights_only=True)["model"]


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def summary(run: str) -> dict:
    return json.loads(Path(f"runs/{run}/summary.json").read_text())


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """The Arrow files of this test alone."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf" / "datasets")


@pytest.mark.parametrize("side", [16, 80], ids=["in memory", "streamed"])
@pytest.mark.parametrize("form", ["csv", "npz"])  # tests/image_datasets has the others
def test_a_form_trains_to_the_weights_of_a_folder(learns, tmp_path, form, side):
    if (form, side) == ("npz", 80):
        pytest.skip("arrays are always in memory")
    content = image_forms.images(side)
    learns(f"--dataset {image_forms.folder(tmp_path / 'a', content)} {MODEL} --epochs 1 --run-name a")
    learns(f"--dataset {image_forms.FORMS[form](tmp_path / 'b', content)} {MODEL} --epochs 1 --run-name b")
    assert equal(weights("a"), weights("b"))
    first, second = summary("a"), summary("b")
    assert first["top1"] == second["top1"] and first["images"] == second["images"]
    if form != "npz":  # digests of arrays are those of pixels
        assert first["image_digests"] == second["image_digests"]


@pytest.mark.parametrize("form", image_forms.FORMS)
def test_a_form_is_resumed_moved_evaluated_and_compared(cli, learns, monkeypatch, tmp_path, form):
    content = image_forms.images(80 if form in ("hf", "webdataset") else 16)
    line = f"--dataset {image_forms.FORMS[form](tmp_path / 'data', content)} {MODEL} --epochs 2"
    learns(line, "--run-name", "whole")
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert cli(line, "--run-name", "cut").status == 130
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = str(tmp_path / "moved" / {"csv": "list.csv", "npz": "set.npz"}.get(form, ""))
    learns("--resume", "--run-name", "cut", "--datapath", moved)
    assert equal(weights("whole"), weights("cut"))
    learns(f"--evaluate runs/whole/best.pth --run-name scored --datapath {moved}")
    assert summary("scored")["top1"] == summary("whole")["top1"]
    other = line.replace("8,8,8", "8,8,16").replace(str(tmp_path / "data"), str(tmp_path / "moved"))
    learns(other, "--run-name", "other")
    learns("runs/whole runs/other --output report --images --data-path", moved, script=compare)
    assert "whole" in Path("report/report.md").read_text()


def test_the_list_of_a_run_names_the_images_of_a_list(learns, cli, tmp_path):
    line = f"--dataset {image_forms.csv_list(tmp_path / 'data', image_forms.images())} {MODEL} --epochs 1"
    learns(line, "--run-name", "a")
    with gzip.open("runs/a/images.csv.gz", "rt") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 57 and len({row["path"] for row in rows}) == 57
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    content = image_forms.images()
    content["test"][0] = (0, np.zeros_like(content["test"][0][1]))
    image_forms.csv_list(tmp_path / "changed", content)
    result = cli(f"--evaluate runs/a/best.pth --run-name b --datapath {tmp_path}/changed/list.csv")
    assert result.status == 2 and "images with other content: 1" in result.err


def test_a_form_keeps_its_own_validation_split(cli, tmp_path):
    line = f"--dataset {image_forms.csv_list(tmp_path, image_forms.images())} {MODEL} --epochs 1"
    result = cli(line, "--val-fraction", "0.2")
    assert result.status == 2 and "--val-fraction has no effect" in result.err


@pytest.mark.parametrize("form", ["csv", "npz"])
def test_without_a_test_split_a_fifth_is_held_out_by_fixed_rules(learns, tmp_path, form):
    content = image_forms.images(train=20)
    line = f"--dataset {image_forms.FORMS[form](tmp_path, content)} {MODEL} --epochs 1"
    for seed in (0, 1):
        learns(line, "--seed", str(seed), "--run-name", str(seed))
    first, second = summary("0"), summary("1")
    assert first["images"]["test"] == 12
    assert first["image_digests"]["test"] == second["image_digests"]["test"]
    assert first["image_digests"]["val"] != second["image_digests"]["val"]


@pytest.mark.parametrize("form", image_forms.FORMS)
def test_classes_by_name(learns, cli, tmp_path, form):
    line = f"--dataset {image_forms.FORMS[form](tmp_path, image_forms.images())} {MODEL} --epochs 1 --classes"
    owl, cat = ("2", "0") if form == "npz" else ("owl", "cat")
    learns(line, f"{owl},{cat}", "--run-name", "a")
    report = summary("a")
    assert list(report["per_class_accuracy"]) == [cat, owl] and report["images"]["test"] == 8
    result = cli(line, f"{cat},bat")
    assert result.status == 2 and "has no class 'bat'" in result.err


@pytest.mark.parametrize("form", ["csv", "npz"])
def test_a_form_is_inspected(learns, tmp_path, form):
    content = image_forms.images()
    out = learns(f"--dataset {image_forms.FORMS[form](tmp_path, content)} --inspect-data a.png").out
    assert "3 classes" in out and Path("a.png").is_file()


def test_another_file_is_another_run(cli, learns, tmp_path):
    content = image_forms.images()
    lines = [f"--dataset {image_forms.npz(tmp_path / name, content)} {MODEL} --epochs 1" for name in "ab"]
    (tmp_path / "b" / "set.npz").rename(tmp_path / "b" / "other.npz")
    other = lines[1].replace("set.npz", "other.npz")
    learns(lines[0])
    learns(other, "--resume", "auto")
    assert {path.name for path in Path("runs").iterdir()} == {"npz-set-resnet9-seed0", "npz-other-resnet9-seed0"}
    result = cli(other, "--resume", "--run-name", "npz-set-resnet9-seed0")
    assert result.status == 2 and "--datapath alone names data that have moved" in result.err


def test_a_study_of_another_file_is_another_study(cli, learns, tmp_path):
    content = image_forms.images()
    place = image_forms.npz(tmp_path / "a", content)
    text = f'name = "s"\n[base]\ndataset = "{place}"\nmodel = "resnet9"\nepochs = 1\n[variants.one]\nwidths = "8,8,8"\n'
    Path("s.toml").write_text(text)
    learns("s.toml", script=study)
    (tmp_path / "a" / "set.npz").rename(tmp_path / "a" / "other.npz")
    Path("s.toml").write_text(text.replace("set.npz", "other.npz"))
    result = cli("s.toml", script=study)
    assert result.status != 0 and "other.npz" in result.err
    Path("s.toml").write_text(text)
    (tmp_path / "a" / "other.npz").rename(tmp_path / "set.npz")
    assert "1 finished" in learns(f"s.toml --set data-path={tmp_path}/set.npz", script=study).out


def test_an_evaluation_stores_the_choice_of_its_own_data(learns, tmp_path):
    content = image_forms.images()
    learns(f"--dataset {image_forms.csv_list(tmp_path, content)} {MODEL} --epochs 1 --run-name a")
    lines = [f"test/{image_forms.NAMES[label]}/{i:03}.png,x,{image_forms.NAMES[label]},test\n"
             for i, (label, _) in enumerate(content["test"])]  # fmt: skip
    (tmp_path / "only.csv").write_text("path,label,kind,split\n" + "".join(lines))
    learns(f"--evaluate runs/a/best.pth --dataset csv/{tmp_path}/only.csv --label-column kind --run-name b")
    assert summary("b")["top1"] == summary("a")["top1"]
    assert summary("b")["settings"]["label_column"] == "kind" and summary("a")["settings"]["label_column"] is None
    learns("--measure runs/b --corruptions --corrupt-images 3")
    assert Path("runs/b/robustness.json").is_file()


def test_a_list_of_the_same_files_with_other_splits_is_scored_as_other_data(learns, tmp_path):
    learns(f"--dataset {image_forms.csv_list(tmp_path, image_forms.images())} {MODEL} --epochs 1 --run-name a")
    text = (tmp_path / "list.csv").read_text()
    swapped = text.replace(",train", ",x").replace(",test", ",train").replace(",x", ",test")
    (tmp_path / "swapped.csv").write_text(swapped)
    out = learns(f"--evaluate runs/a/best.pth --dataset csv/{tmp_path}/swapped.csv --run-name b").out
    assert "csv: test, 36 images" in out and "of these images the run trained on or validated with: 36" in out


def test_classes_that_leave_a_split_empty_are_refused_before_training(cli, tmp_path):
    content = image_forms.images()
    content["test"] = [pair for pair in content["test"] if pair[0] == 2]
    result = cli(f"--dataset {image_forms.npz(tmp_path, content)} {MODEL} --epochs 1 --classes 0,1")
    assert result.status == 2 and "--classes: the test split has no image of these classes" in result.err


def test_a_place_is_named_once(cli, tmp_path):
    result = cli(f"--dataset csv/a.csv --datapath {tmp_path}")
    assert result.status == 2 and "--dataset csv/a.csv names its place already: leave out --datapath" in result.err
