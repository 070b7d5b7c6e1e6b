"""Settings of runs from before an argument of their model: they mean what they meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import compare
from records.stored_settings import complete_older
from settings import resume


@pytest.mark.parametrize(
    ("model", "stored", "meant"),
    [
        ("resnet20", {}, {"shortcut": "A"}),
        ("resnet110", {"shortcut": "B"}, {"shortcut": "B"}),
        ("resnet18", {"stem": "auto"}, {"stem": "auto"}),
        ("timm/resnet18", {}, {}),
        ("a model of another time", {}, {}),
    ],
)
def test_a_run_from_before_the_shortcuts_had_a_flag_has_those_without_parameters(model, stored, meant):
    assert complete_older({"model": model, "model_args": stored})["model_args"] == meant


def test_such_a_run_is_resumed_evaluated_and_compared_as_one_with_the_flag(learns, cli, workdir):
    line = "--dataset digits --model resnet20 --epochs 1 --train-fraction 0.1"
    for seed, name in ((0, "old"), (1, "new")):
        learns(f"{line} --seed {seed} --run-name {name}")
    for file in (Path("runs/old/settings.json"), Path("runs/old/summary.json")):
        content = json.loads(file.read_text())
        assert content["settings"]["model_args"].pop("shortcut") == "A"
        file.write_text(json.dumps(content))
    for name in ("best.pth", "last.pth"):
        content = torch.load(f"runs/old/{name}", weights_only=True)
        content["settings"]["model_args"].pop("shortcut", None)  # the files may be one
        torch.save(content, f"runs/old/{name}")
    learns("--evaluate runs/old/best.pth --run-name again")
    learns("runs/old runs/new", script=compare)
    assert "resnet20, shortcut" not in Path("runs/comparison/report.md").read_text()
    assert resume.read_run_settings(Path("runs/old"))["model_args"] == {"shortcut": "A"}
    Path("runs/old/summary.json").unlink()
    learns(f"{line} --shortcut A --resume --run-name old")
    result = cli(f"{line} --shortcut B --resume --run-name old")
    assert result.status == 2 and "--shortcut B: the run to be resumed has --shortcut A" in result.err
