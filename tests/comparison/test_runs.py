"""A damaged run directory is refused in one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from simulated import write_run

from comparison.runs import read_run
from utils import BadRequest


def remove(name: str):
    return lambda path: (path / name).unlink()


def put(name: str, text: str):
    return lambda path: (path / name).write_text(text)


def summary_with(**values):
    def change(path: Path) -> None:
        content = json.loads((path / "summary.json").read_text())
        (path / "summary.json").write_text(json.dumps({**content, **values}))

    return change


def summary_without(key: str):
    def change(path: Path) -> None:
        content = json.loads((path / "summary.json").read_text())
        del content[key]
        (path / "summary.json").write_text(json.dumps(content))

    return change


def predictions_with(**values):
    def change(path: Path) -> None:
        with np.load(path / "predictions.npz") as file:
            content = {**file, **values}
        np.savez(path / "predictions.npz", **{key: value for key, value in content.items() if value is not None})

    return change


ROBUSTNESS = '{"clean": {}, "corruptions": {"blur": 3}, "mean_corruption_error": 1}'


@pytest.mark.parametrize(
    ("damage", "needle"),
    [
        (remove("summary.json"), "the run is not finished (no summary.json); main.py --resume"),
        (remove("settings.json"), "is no run directory (no settings.json)"),
        (put("summary.json", "{"), "summary.json: cannot be read as JSON"),
        (put("summary.json", "[1]"), "summary.json: is no JSON object"),
        (summary_without("ece"), "summary.json: has no 'ece'"),
        (summary_with(settings={"model": "a"}), "summary.json: its 'settings' lack model, dataset or seed"),
        (summary_with(top1="high"), "summary.json: 'top1' is 'high', not a number"),
        (summary_with(notes=[1]), "summary.json: 'notes' is [1], not a list of texts"),
        (summary_with(teacher={"train_seconds": "1"}), "summary.json: 'teacher' is {\"train_seconds\": \"1\"}, not"),
        (summary_with(top1=0.1), "predictions.npz: its top-1 is 0."),
        (remove("predictions.npz"), "predictions.npz: no such file; main.py --evaluate"),
        (put("predictions.npz", "PK but no archive"), "predictions.npz: cannot be read"),
        (predictions_with(targets=None), "predictions.npz: has no 'targets'"),
        (predictions_with(targets=np.zeros(7, dtype=np.int64)), "predictions.npz: 'logits' (300, 10), 'targets' (7,)"),
        (predictions_with(targets=np.full(300, 10)), "predictions.npz: 'targets' has classes outside 0 to 9"),
        (predictions_with(logits=np.full((300, 10), np.nan)), "predictions.npz: 'logits' are not all finite"),
        (predictions_with(class_names=np.array([None] * 10)), "predictions.npz: cannot be read"),  # pickled
        (put("metrics.csv", "epoch,val_top1\none,0.5\n"), "metrics.csv: cannot be read"),
        (put("cost.json", '{"peak_memory": "much"}'), "cost.json: 'peak_memory' is 'much', not a number"),
        (put("robustness.json", '{"clean": {"top1": 1}}'), "robustness.json: has no 'corruptions'"),
        (put("robustness.json", ROBUSTNESS), "robustness.json: corruptions: 'blur' is 3, not a list of accuracies"),
    ],
)  # fmt: skip
def test_damage_is_named_with_its_file(tmp_path, damage, needle):
    path = write_run(tmp_path / "a", accuracy=0.8)
    damage(path)
    with pytest.raises(BadRequest) as error:
        read_run(path)
    assert needle in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)
