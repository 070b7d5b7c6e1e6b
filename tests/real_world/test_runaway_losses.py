"""Trainings that diverge: the messages are right about what the run keeps and why it ended."""

from __future__ import annotations

import math
import re

import pytest
import torch

from assembly import trainee
from comparison.metric_names import METRICS
from records.plots import plot_curves
from training.progress import describe_epoch
from utils import decimal

LINE = "--dataset digits --train-fraction 0.2 --model resnet20 --batch-size 64 --epochs 2 --run-name a"  # five steps


def explode(monkeypatch, steps: int, rate: float = 1e30) -> None:
    """Sets the learning rate to `rate` from this step on."""
    usual = trainee.learning_rate
    monkeypatch.setattr(trainee, "learning_rate", lambda step, **more: usual(step, **more) if step < steps else rate)


def test_nothing_is_said_to_be_kept_where_no_checkpoint_was_saved(cli, workdir, monkeypatch):
    explode(monkeypatch, 0)
    result = cli(LINE)
    assert result.status == 1 and "not finite in epoch 1, step" in result.err
    assert result.err.endswith("; no checkpoint was saved before that\n")
    assert not list((workdir / "runs/a").glob("*.pth"))


def test_the_checkpoint_that_is_kept_is_named(cli, workdir, monkeypatch):
    explode(monkeypatch, 5)
    result = cli(LINE)
    assert result.status == 1 and "not finite in epoch 2, step" in result.err
    assert result.err.endswith("; the last good checkpoint is kept: runs/a/last.pth\n")
    assert torch.load(workdir / "runs/a/last.pth", weights_only=True)["epoch"] == 1


def test_a_full_disk_before_the_first_checkpoint_keeps_none(cli, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    result = cli(LINE)
    assert result.status == 1
    assert "last.pth: cannot be saved (No space left on device)" in result.err
    assert "No checkpoint was saved before it" in result.err and "is kept" not in result.err


def test_rollbacks_that_left_out_a_whole_epoch_are_told_as_the_reason(cli, monkeypatch):
    explode(monkeypatch, 0)
    result = cli(LINE.replace("--batch-size 64", "--batch-size 150"), "--on-nonfinite", "rollback")
    assert result.status == 1 and "image could be read" not in result.err
    assert re.search(r"rollbacks? left out all 2 batches of epoch 1, as their losses were not finite", result.err)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.1235"), (12345.0, "12345.0000"), (1.2345e37, "1.2e+37"), (-3e9, "-3.0e+09"), (math.inf, "inf"),
     (math.nan, "nan")],
)  # fmt: skip
def test_a_loss_is_short_whatever_its_size(value, text):
    assert decimal(value) == text
    row = {"epoch": 1, "lr": 0.1, "train_loss": value, "train_top1": 0.5, "val_loss": value, "val_top1": 0.5}
    assert describe_epoch(row).count(f"loss {text}") == 2


def test_tables_and_plots_take_a_loss_that_ran_away(tmp_path):
    assert METRICS["loss"].show(4.2e36) == "4.2e+36" and METRICS["loss"].show(0.12) == "0.1200"
    losses = (2.3, 1.2e37)
    history = [{"epoch": i + 1, "lr": 0.1, "train_loss": losses[i], "train_top1": 0.1} for i in range(2)]
    plot_curves(history, {"epoch": 2}, "a", "b", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()
