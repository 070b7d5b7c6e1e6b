"""Checkpoints of other training scripts, which hold averaged and raw weights: one rule chooses between them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_main import QUICK, stop_after
from torch import nn

from models import weight_files
from utils import BadRequest


def state(value: float, prefix: str = "") -> dict[str, torch.Tensor]:
    return {f"{prefix}fc.weight": torch.full((2, 3), value), f"{prefix}fc.bias": torch.zeros(2)}


def averaged_model(value: float) -> dict[str, torch.Tensor]:
    """An averaged model as torch's own class saves it."""
    model = nn.Module()
    model.fc = nn.Linear(3, 2)
    average = torch.optim.swa_utils.AveragedModel(model)
    with torch.no_grad():
        average.module.fc.weight.fill_(value)
    return average.state_dict()


def write(path: Path, content: dict) -> Path:
    torch.save(content, path)
    return path


FORMS = {
    "timm": {"state_dict": state(1), "state_dict_ema": state(2), "epoch": 3},
    "torchvision's reference": {"model": state(1), "model_ema": averaged_model(2)},
    "DeiT": {"model": state(1, "module."), "model_ema": state(2, "module.")},
    "compiled": {"model": state(1, "module._orig_mod."), "ema": state(2, "_orig_mod.module.")},
    "compiled within": {"model": state(1), "ema": {f"_orig_mod.{key}": value for key, value in state(2).items()}},
    "ema_state_dict": {"model_state_dict": state(1), "ema_state_dict": state(2)},
    "shadow": {"model": state(1), "ema": {"decay": 0.999, "shadow": state(2)}},
    "deeper": {"state_dict": state(1), "ema": {"state_dict": state(2, "module."), "updates": 7}},
}


@pytest.mark.parametrize("form", FORMS)
def test_averaged_weights_are_taken_unless_the_raw_ones_are_asked_for(form, tmp_path):
    path = write(tmp_path / "a.pth", FORMS[form])
    for kind, taken, value in ((None, "ema", 2), ("ema", "ema", 2), ("raw", "raw", 1)):
        found = weight_files.read_weights(path, kind)
        assert (found.kind, found.others, found.notes) == (taken, True, [])
        assert sorted(found.state) == ["fc.bias", "fc.weight"] and torch.all(found.state["fc.weight"] == value)


@pytest.mark.parametrize("nothing", [None, {}, {"decay": 0.9}, 0.999])
def test_an_empty_average_is_none(nothing, tmp_path):
    path = write(tmp_path / "a.pth", {"model": state(1), "model_ema": nothing})
    found = weight_files.read_weights(path)
    assert (found.kind, found.others) == ("raw", False)
    assert len(found.notes) == (nothing == {"decay": 0.9})
    with pytest.raises(BadRequest, match=r"a\.pth: holds no averaged weights, only raw ones"):
        weight_files.read_weights(path, "ema")


def test_an_average_without_names_is_left_aside_and_told(tmp_path):
    path = write(tmp_path / "a.pth", {"model": state(1), "ema": {"shadow_params": [torch.zeros(2)], "decay": 0.9}})
    assert weight_files.read_weights(path).notes == [
        f"{path}: its 'ema' holds no tensors by parameter name, and is left aside"
    ]


def test_an_average_alone_is_taken_as_what_it_is(tmp_path):
    for content in (averaged_model(2), {"model_ema": state(2)}):
        path = write(tmp_path / "a.pth", content)
        found = weight_files.read_weights(path)
        assert (found.kind, found.others) == ("ema", False) and torch.all(found.state["fc.weight"] == 2)
        with pytest.raises(BadRequest, match="holds no raw weights, only averaged ones"):
            weight_files.read_weights(path, "raw")


@pytest.mark.parametrize("selected", ["raw", "ema"])
def test_of_this_suites_checkpoints_those_are_taken_that_were_selected(selected, tmp_path):
    content = {"format": 2, "model": state(1), "ema": state(2), "best": {"epoch": 1, "weights": selected}}
    path = write(tmp_path / "a.pth", content)
    assert weight_files.read_weights(path).kind == selected
    assert weight_files.read_weights(path, weight_files.other_kind(selected)).kind == weight_files.other_kind(selected)


# -------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def foreign(learns, workdir) -> Path:
    """A checkpoint whose averaged weights classify the digits and whose raw weights have diverged."""
    learns("--dataset digits --model resnet20 --batch-size 32 --epochs 2 --lr 0.05 --run-name t")
    good = torch.load(workdir / "runs/t/best.pth", weights_only=True)["model"]
    torch.manual_seed(0)
    bad = {key: torch.randn_like(value) if value.is_floating_point() else value for key, value in good.items()}
    bad = {key: value.abs() if "running_var" in key else value for key, value in bad.items()}
    torch.save({"model": bad, "model_ema": good, "epoch": 300}, workdir / "foreign.pth")
    return workdir


FINE = f"{QUICK} --epochs 1 --lr 1e-7 --weight-decay 0 --weights foreign.pth"


def summary(run: str) -> dict:
    return json.loads(Path(f"runs/{run}/summary.json").read_text())


def test_a_run_starts_from_the_averaged_weights_and_says_so(cli, learns, foreign):
    told = "foreign.pth holds raw and averaged ones: the averaged ones are taken, --weights-kind raw takes the others"
    assert f"weights       {told}\n" in learns(FINE, "--run-name", "a").out
    learns(FINE, "--weights-kind", "raw", "--run-name", "b")
    assert summary("a")["top1"] > summary("b")["top1"] + 0.2
    for run, kind, name in (("a", "ema", "averaged"), ("b", "raw", "raw")):
        assert summary(run)["settings"]["weights_kind"] == kind
        assert f"training started from the {name} weights in foreign.pth" in summary(run)["notes"]
    result = cli(QUICK, "--weights", "runs/t/best.pth", "--weights-kind", "ema", "--run-name", "c")
    assert result.status == 2 and "runs/t/best.pth: holds no averaged weights, only raw ones" in result.err


def test_a_teacher_answers_with_the_averaged_weights(cli, learns, foreign):
    line = f"{QUICK} --epochs 1 --teacher resnet20 --teacher-weights foreign.pth --run-name"
    out = learns(line, "a").out
    assert "foreign.pth (its averaged weights; --teacher-weights-kind raw takes the others): top-1 " in out
    assert summary("a")["teacher"]["weights_kind"] == "ema" and summary("a")["teacher"]["top1"] > 0.2
    result = cli(line, "b", "--teacher-weights-kind", "raw")
    assert result.status == 2 and "is no better than chance" in result.err
    result = cli(line.replace("foreign", "runs/t/best"), "c", "--teacher-weights-kind", "ema")
    assert result.status == 2 and "runs/t/best.pth: holds no averaged weights" in result.err


def test_a_kind_without_a_file_has_no_effect(cli):
    for flag, needed in (("--weights-kind", "--weights"), ("--teacher-weights-kind", "--teacher-weights")):
        result = cli(f"--dataset digits --teacher resnet20 --teacher-epochs 1 {flag} raw")
        assert result.status == 2 and f"{flag} has no effect: it needs {needed}\n" in result.err


def test_what_was_taken_is_told_by_a_run_that_was_stopped_and_resumed_too(cli, learns, foreign, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert cli(FINE.replace("--epochs 1", "--epochs 2"), "--run-name", "a").status == 130
    (foreign / "foreign.pth").unlink()
    learns("--resume --run-name a")
    assert "training started from the averaged weights in foreign.pth" in summary("a")["notes"]
