"""--keep: which checkpoints of single epochs stay, also when the process is killed between two operations on files."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from records.checkpoint import load_checkpoint, selected_kind, selected_weights
from records.kept_checkpoints import wanted_epochs
from records.run_directory import RunDirectory
from training import state as states
from training.evaluation import select_best
from training.metrics import Totals
from training.saving import Saver
from training.state import RunState
from training.stopping import Stop

VALIDATED = [  # top-1 and loss of each epoch
    {"epoch": epoch, "train_loss": 1.0, "val_top1": top1, "val_loss": loss}
    for epoch, (top1, loss) in enumerate([(0.5, 1.0), (0.8, 0.9), (0.8, 0.7), (0.9, 0.8), (0.8, 0.9), (0.6, 0.2)], 1)
]


@pytest.mark.parametrize(
    ("rules", "select_by", "wanted"),
    [
        (["best:1"], "top1", {4}),
        (["best:3"], "top1", {4, 3, 2}),  # of the equal epochs 2 and 5 the first
        (["best:2"], "loss", {6, 3}),
        (["every:2"], "top1", {2, 4, 6}),
        (["best:1", "every:5"], "top1", {4, 5}),
        (["best:9"], "top1", {1, 2, 3, 4, 5, 6}),
    ],
)
def test_the_rules_say_which_epochs_stay(rules, select_by, wanted):
    assert wanted_epochs(VALIDATED, rules, select_by) == wanted


def test_without_validation_the_last_epochs_are_the_best():
    history = [{"epoch": epoch, "train_loss": 1.0} for epoch in range(1, 6)]
    assert wanted_epochs(history, ["best:2"], "top1") == {4, 5}


def new_state() -> RunState:
    model = nn.Linear(1, 1)
    return RunState(model, torch.optim.SGD(model.parameters()), Totals(2, torch.device("cpu")))


@pytest.mark.parametrize("select_by", ["top1", "loss", "map"])
def test_the_best_epoch_is_the_one_that_training_selects_of_raw_and_averaged_weights(select_by):
    rng, state, history = random.Random(0), new_state(), []
    for epoch in range(1, 60):
        scores = {kind: {name: rng.randrange(6) / 6 for name in ("top1", "map", "loss")} for kind in ("raw", "ema")}
        row = {f"val_{name}": value for name, value in scores["raw"].items()}
        history.append({"epoch": epoch, **row, **{f"val_ema_{name}": value for name, value in scores["ema"].items()}})
        state.epoch = epoch
        select_best(state, scores, select_by)
        assert wanted_epochs(history, ["best:1"], select_by) == {state.best["epoch"]}


class Killed(BaseException):
    """The end of the process."""


class Life:
    """A process that dies at its N-th rename or deletion of a file. Afterwards it changes nothing."""

    def __init__(self, operations: int, patch: pytest.MonkeyPatch):
        self.left = operations
        for name in ("replace", "unlink"):
            patch.setattr(Path, name, self.counted(getattr(Path, name)))

    def counted(self, act):
        def operation(*args, **kwargs):
            self.left -= 1
            if self.left < 0:
                raise Killed
            return act(*args, **kwargs)

        return operation


SETTINGS = {"model": "resnet20", "model_args": {}, "dataset": "digits", "data_path": None, "run_name": "a", "epochs": 4,
            "select_by": "top1", "seed": 0}  # fmt: skip
DATA = {"class_names": ["a", "b"], "mean": [0.5], "std": [0.5], "img_size": 8, "in_chans": 1, "eval_crop": 1.0,
        "selected_on": "val", "image_digests": {}}  # fmt: skip


def train(path: Path, rules: list[str] | None) -> None:
    """Trains from the newest checkpoint in `path` to the last epoch, whose number is the weight."""
    directory, state = RunDirectory(path), new_state()
    directory.remove_leftovers()
    if directory.last.is_file():
        states.resume(state, directory, DATA["class_names"], {}, "fp32", rules)
    saver = Saver(directory, state, SETTINGS, DATA, "600s", Stop(None), lambda row, epoch: None, rules)
    for row in VALIDATED[state.epoch : 4]:
        nn.init.constant_(next(state.model.parameters()), row["epoch"])
        state.finish_epoch(row)
        saver.save(select_best(state, {"raw": {"top1": row["val_top1"], "loss": row["val_loss"]}}, "top1"))
        saver.wait()


def test_a_run_killed_at_any_instant_ends_with_the_files_of_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # nothing here cuts the power
    rules, kept, operations = ["best:1", "every:3"], [3, 4], 0
    while True:
        path = tmp_path / str(operations)
        path.mkdir()
        try:
            with pytest.MonkeyPatch.context() as patch:
                Life(operations, patch)
                train(path, rules)
        except Killed:
            train(path, rules)
        else:
            break
        files = sorted(file.name for file in path.glob("*.pth"))
        assert files == ["best.pth", *(f"epoch-000{epoch}.pth" for epoch in kept), "last.pth", "previous.pth"]
        for epoch in kept:
            assert load_checkpoint(path / f"epoch-000{epoch}.pth")["model"]["weight"].item() == epoch
        assert not [file for file in path.iterdir() if file.name.startswith(".")]
        operations += 1
    assert operations > 20


def test_a_resume_with_other_rules_says_what_it_deletes(tmp_path, capsys):
    train(tmp_path, ["best:1", "every:3"])
    assert sorted(RunDirectory(tmp_path).kept_epochs()) == [3, 4]
    train(tmp_path, ["best:1", "every:3"])
    assert "deleted" not in capsys.readouterr().out
    train(tmp_path, ["every:2"])
    assert sorted(RunDirectory(tmp_path).kept_epochs()) == [4]
    assert capsys.readouterr().out.splitlines() == ["deleted       epoch-0003.pth: --keep every:2 does not keep them"]


def test_the_better_weights_of_an_epoch_that_is_not_the_best_are_its_own():
    row = {"val_top1": 0.5, "val_loss": 1.0, "val_ema_top1": 0.5, "val_ema_loss": 1.1}
    content = {"epoch": 3, "batch": 0, "best": {"epoch": 3, "weights": "ema"}, "history": [row],
               "settings": {"select_by": "top1"}, "model": {"of": "raw"}, "ema": {"of": "ema"}}  # fmt: skip
    assert selected_kind(content) == "ema"
    for place in ({"epoch": 4}, {"batch": 2}):
        assert selected_weights({**content, **place}) == {"of": "raw"}
    assert selected_weights({**content, "epoch": 4}, "ema") == {"of": "ema"}
    assert selected_kind({**content, "epoch": 4, "history": [{"train_loss": 1.0}]}) == "ema"


def test_without_the_flag_files_of_single_epochs_are_left_alone(tmp_path):
    (tmp_path / "epoch-0001.pth").touch()
    train(tmp_path, None)
    assert sorted(RunDirectory(tmp_path).kept_epochs()) == [1]
