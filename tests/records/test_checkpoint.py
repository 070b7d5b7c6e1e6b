"""Damaged, half-written and unwritable checkpoints: at most the newest of two is lost."""

from __future__ import annotations

import os
import resource
import shutil
import signal

import pytest
import torch
from test_main import QUICK, assert_same_run, stop_after
from torch import nn

from models.weight_files import check_sums, read_checkpoint
from records import checkpoint
from records.checkpoint import FORMAT, load_newest
from records.run_directory import RunDirectory
from settings.groups import Settings
from training.metrics import Totals
from training.saving import save_newest
from training.state import RunState, resume
from utils import BadRequest, RunFailed


@pytest.fixture
def state() -> RunState:
    torch.manual_seed(0)
    model = nn.Linear(12, 5)
    return RunState(model, torch.optim.SGD(model.parameters(), lr=0.1), Totals(5, torch.device("cpu")))


FACTS = {
    "class_names": list("abcde"), "mean": (0.5,) * 3, "std": (0.5,) * 3, "img_size": 2, "in_chans": 3, "eval_crop": 1.0,
    "selected_on": "last epoch",
}  # fmt: skip


def save(directory: RunDirectory, state: RunState, step: int) -> None:
    state.step = step
    settings = Settings.of({"model": "resnet20", "dataset": "digits", "run_name": "a", "model_args": {}})
    save_newest(directory, {"format": FORMAT, **state.state_dict(), "settings": settings.flat(), **FACTS})


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip_a_weight(data: bytes) -> bytes:
    """Flips a bit in the middle of the file, among the weights, where only a checksum notices it."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


@pytest.mark.parametrize("damage", [truncate, flip_a_weight, lambda data: b"", lambda data: b"junk" * 100],
                         ids=["truncated", "a bit flipped", "empty", "junk"])  # fmt: skip
def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before(cli, learns, workdir, monkeypatch, damage):
    learns(QUICK, "--epochs", "3", "--run-name", "whole")
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        assert cli(QUICK, "--epochs", "3", "--run-name", "hurt").status == 130
    last = workdir / "runs/hurt/last.pth"
    data = last.read_bytes()
    last.unlink()  # best.pth may be a hard link to it
    last.write_bytes(damage(data))
    result = learns("--resume --run-name hurt")
    assert "last.pth: damaged, or not a checkpoint" in result.out
    assert "previous.pth, the checkpoint before it, takes its place" in result.out
    assert "resumed       after epoch 1 of 3" in result.out
    assert_same_run(workdir / "runs/whole", workdir / "runs/hurt")


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path, state):
    """torch.load alone silently reads wrong weights from most of these files."""
    directory = RunDirectory(tmp_path)
    save(directory, state, 1)
    data = directory.last.read_bytes()
    expected = read_checkpoint(directory.last)["model"]
    noticed, file = 0, tmp_path / "flipped.pth"
    for at in range(0, len(data), 7):
        file.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        try:
            found = read_checkpoint(file)["model"]
        except BadRequest:
            noticed += 1
        else:
            assert all(torch.equal(found[key], value) for key, value in expected.items()), at
    assert noticed > len(data) / 7 / 3


@pytest.mark.parametrize("step", range(8))
def test_at_every_instant_of_saving_there_is_a_whole_checkpoint(tmp_path, state, monkeypatch, step):
    """Kills the process at each call that changes the folder."""
    directory = RunDirectory(tmp_path)
    save(directory, state, 1)
    save(directory, state, 2)

    class Killed(BaseException):
        pass

    calls = 0

    def count(function):
        def call(*args, **kwargs):
            nonlocal calls
            if calls == step:
                raise Killed
            calls += 1
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "link", "fsync", "unlink"):
            patch.setattr(os, name, count(getattr(os, name)))
        killed = False
        try:
            save(directory, state, 3)
        except Killed:
            killed = True
    found = load_newest(directory)["step"]
    assert found in (2, 3) and (killed or found == 3)
    check_sums(directory.previous)
    assert read_checkpoint(directory.previous)["step"] in (1, 2)


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, state):
    """A limit on the file size simulates it: writing fails in the middle of the file."""
    directory = RunDirectory(tmp_path)
    save(directory, state, 1)
    before = directory.last.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(RunFailed, match=r"last.pth: cannot be saved \(.*it takes .*B are free there"):
            save(directory, state, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert directory.last.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pth"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_run_on_a_full_disk_stops_and_is_continued_elsewhere(cli, learns, workdir, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=4m tmpfs {disk} 2>/dev/null"):
        pytest.skip("no tmpfs can be mounted here")
    try:
        learns(QUICK, "--epochs", "2", "--run-name", "whole")
        result = cli(QUICK, "--epochs", "2", "--runs-dir", str(disk), "--run-name", "full")
        assert result.status == 1 and len(result.err.splitlines()) == 1
        assert "full/last.pth: cannot be saved (No space left on device)" in result.err
        assert not [path for path in (disk / "full").iterdir() if path.name.startswith(".last")]
        shutil.copytree(disk / "full", workdir / "runs/full")
    finally:
        os.system(f"umount {disk}")
    result = learns("--resume --run-name full --runs-dir runs")
    assert "resumed       after epoch 1 of 2" in result.out
    assert_same_run(workdir / "runs/whole", workdir / "runs/full")


def test_the_best_epoch_survives_a_damaged_best_pth_where_another_file_holds_it(tmp_path, state):
    directory = RunDirectory(tmp_path)
    state.epoch, state.best = 1, {"epoch": 1, "weights": "raw"}
    save(directory, state, 5)
    checkpoint.copy_checkpoint(directory.last, directory.best)
    state.batch = 3
    save(directory, state, 8)
    directory.best.unlink()
    directory.best.write_bytes(b"")
    resume(state, directory, list("abcde"), {}, "fp32")
    assert read_checkpoint(directory.best)["step"] == 5
    save(directory, state, 9)
    directory.best.unlink()
    directory.best.write_bytes(b"")
    with pytest.raises(
        BadRequest, match=r"best.pth: damaged.*the weights of epoch 1, the best so far, are nowhere else"
    ):
        resume(state, directory, list("abcde"), {}, "fp32")
