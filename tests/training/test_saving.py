"""Checkpoints are written while training goes on, and keep their promises."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import torch
from test_main import QUICK, assert_same_run, stop_after

from commands import train
from records.checkpoint import load_checkpoint
from training import saving
from training.saving import snapshot
from utils import RunFailed


def test_a_slow_write_does_not_hold_up_the_steps_and_stores_the_moment_of_saving(learns, workdir, monkeypatch):
    """The first epoch's file is written only when a step of the second has been made."""
    learns(QUICK, "--epochs", "2", "--run-name", "whole")
    stepped, write, steps = threading.Event(), saving.save_newest, []

    def slow(directory, content):
        if content["epoch"] == 1:
            assert stepped.wait(60), "the loop waits for the file"
            steps.append(content["step"])
        write(directory, content)

    after_step = saving.Saver.after_step

    def seen(self):
        after_step(self)
        if self.state.epoch == 1:
            stepped.set()

    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_newest", slow)
        patch.setattr(saving.Saver, "after_step", seen)
        learns(QUICK, "--epochs", "2", "--run-name", "slow")
    assert steps == [load_checkpoint(workdir / "runs/slow/last.pth")["step"] // 2]
    assert_same_run(workdir / "runs/whole", workdir / "runs/slow")


def test_a_failed_write_ends_the_run_at_the_next_step_and_keeps_the_checkpoint_before(cli, workdir, monkeypatch):
    write, steps = saving.save_newest, 0

    def failing(directory, content):
        if content["epoch"] == 2:
            raise RunFailed("last.pth: cannot be saved")
        write(directory, content)

    after_step = saving.Saver.after_step

    def counted(self):
        nonlocal steps
        steps += self.state.epoch == 2
        if steps and self.pending is not None:
            threading.Event().wait(0.5)  # the write has failed by now
        after_step(self)

    monkeypatch.setattr(saving, "save_newest", failing)
    monkeypatch.setattr(saving.Saver, "after_step", counted)
    result = cli(QUICK, "--epochs", "5", "--run-name", "a")
    assert result.status == 1 and "cannot be saved" in result.err
    assert steps == 1
    assert load_checkpoint(workdir / "runs/a/last.pth")["epoch"] == 1


def test_the_epoch_is_logged_when_its_checkpoint_is_on_disk(learns, workdir, monkeypatch):
    found = []

    class Tracker(train.Wandb):
        def log(self, row, epoch):
            found.append((epoch, load_checkpoint(workdir / "runs/a/last.pth")["epoch"]))

    monkeypatch.setattr(train, "Wandb", Tracker)
    learns(QUICK, "--epochs", "3", "--run-name", "a")
    assert [epoch for epoch, _ in found] == [1, 2, 3]
    assert all(saved >= epoch for epoch, saved in found)


def test_an_epoch_that_is_on_disk_is_logged_although_the_next_one_fails(cli, workdir, monkeypatch):
    found = []

    class Tracker(train.Wandb):
        def log(self, row, epoch):
            found.append(epoch)

    def failing(self):
        if self.state.epoch == 1:
            raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(train, "Wandb", Tracker)
    monkeypatch.setattr(saving.Saver, "after_step", failing)
    assert cli(QUICK, "--epochs", "3", "--run-name", "a").status == 1
    assert found == [load_checkpoint(workdir / "runs/a/last.pth")["epoch"]] == [1]


def test_an_unwritten_checkpoint_is_reported_although_another_error_ends_the_run(cli, workdir, monkeypatch):
    def unwritable(directory, content):
        raise RunFailed("last.pth: cannot be saved")

    def failing(self):
        if self.state.epoch == 1:
            raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(saving, "save_newest", unwritable)
    monkeypatch.setattr(saving.Saver, "after_step", failing)
    result = cli(QUICK, "--epochs", "3", "--run-name", "a")
    assert result.status == 1 and "warning: last.pth: cannot be saved" in result.out
    assert "not enough memory" in result.err


def test_a_snapshot_shares_no_memory_and_keeps_what_torch_stores_beside_a_state_dict():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    state = {"model": model.state_dict(), "rows": [torch.ones(2), (1, "a")], "none": None}
    copied = snapshot(state)
    expected = {key: value.clone() for key, value in state["model"].items()}
    for tensor in (*state["model"].values(), state["rows"][0]):
        tensor.add_(1)
    assert all(torch.equal(copied["model"][key], value) for key, value in expected.items())
    assert copied["rows"][0].tolist() == [1, 1] and copied["rows"][1] == (1, "a") and copied["none"] is None
    assert copied["model"]._metadata == state["model"]._metadata
    assert copied["model"]["0.weight"].stride() == model[0].weight.stride()


def test_a_run_of_another_arithmetic_says_so_where_bits_differ(cli, learns, workdir, monkeypatch):
    """As if a version from before had begun it. fp32 on a CPU rounds as it did."""
    for precision, told in (("bf16", True), ("fp32", False)):
        with monkeypatch.context() as patch:
            stop_after(1, patch)
            cli(QUICK, "--epochs", "2", "--precision", precision, "--run-name", precision)
        file = workdir / "runs" / precision / "last.pth"
        content = torch.load(file, weights_only=True)
        del content["arithmetic"]
        file.unlink()
        torch.save(content, file)
        out = learns("--resume --run-name", precision).out
        assert ("rounds otherwise on GPUs and in bf16" in out) == told
        assert json.loads(Path(f"runs/{precision}/summary.json").read_text())["epochs"] == 2
