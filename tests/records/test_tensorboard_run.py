"""TensorBoard's own reader finds in the event files what the run logged; no failure stops a run."""

import csv
import errno
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from records.tensorboard_run import EventFile, TensorBoard, check_installed
from records.trackers import Trackers
from utils import BadRequest

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
QUICK = "--dataset digits --model resnet20 --batch-size 64 --train-fraction 0.2 --epochs 1"


def read(folder: Path):
    found = event_accumulator.EventAccumulator(str(folder))
    found.Reload()
    return found


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, round(event.value, 4)) for event in read(folder / "tensorboard").Scalars(tag)]


def row(epoch: int, loss: float) -> dict:
    return {"epoch": epoch, "lr": 0.1, "train_loss": loss, "train_agreement_top1": 0.5, "val_ema_top5": None}


@pytest.mark.draws
def test_a_run_s_epochs_summary_and_pictures_are_in_its_event_files(learns, workdir):
    learns(f"{QUICK} --tensorboard --run-name a")
    found = read(workdir / "runs/a/tensorboard")
    with (workdir / "runs/a/metrics.csv").open() as file:
        [epoch] = csv.DictReader(file)
    tags = {name.replace("_", "/", 1): float(value) for name, value in epoch.items() if name != "epoch"}
    assert {"lr", "train/loss", "train/top1", "val/loss", "val/top1"} <= tags.keys() <= set(found.Tags()["scalars"])
    for tag, value in tags.items():
        assert [(event.step, event.value) for event in found.Scalars(tag)] == [(1, pytest.approx(value))], tag
    assert 0 <= found.Scalars("summary/top1")[0].value <= 1
    for name in ("curves", "confusion"):
        with Image.open(workdir / f"runs/a/{name}.png") as picture:
            [event] = found.Images(name)
            assert (event.width, event.height) == picture.size
    assert found.summary_metadata["_hparams_/session_start_info"]


def test_a_resumed_run_has_each_epoch_once(tmp_path):
    """The third epoch was logged and its checkpoint lost; the second is in the checkpoint and was never logged."""
    first = TensorBoard(tmp_path, {}, [])
    first.log(row(1, 1.0), 1)
    first.log(row(3, 0.3), 3)
    first.stop(failed=False, preempted=True)
    [file] = (tmp_path / "tensorboard").iterdir()
    file.rename(file.with_name("events.out.tfevents.0000000001"))  # the second may begin within the same second

    second = TensorBoard(tmp_path, {}, [row(1, 1.0), row(2, 0.5)])
    second.log(row(3, 0.25), 3)
    second.finish({"top1": 0.9}, {"curves": tmp_path / "missing.png"})
    assert curve(tmp_path, "train/loss") == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert curve(tmp_path, "train/agreement_top1") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert curve(tmp_path, "summary/top1") == [(3, 0.9)]


def test_an_epoch_can_be_read_at_once(tmp_path):
    run = TensorBoard(tmp_path, {}, [])
    run.log(row(1, 1.0), 1)
    assert curve(tmp_path, "train/loss") == [(1, 1.0)]
    run.stop(failed=True)


@pytest.mark.parametrize("when", ["start", "log", "finish"])
def test_a_failure_is_said_once_and_the_other_trackers_go_on(tmp_path, capsys, monkeypatch, when):
    def full(self, **fields):
        raise OSError(errno.ENOSPC, "No space left on device")

    class Other:
        called: ClassVar = []

        def log(self, values, step):
            self.called.append(step)

        def finish(self, summary, pictures):
            self.called.append("finish")

        def stop(self, failed, preempted=False):
            self.called.append("stop")

    Other.called = []
    if when == "start":
        (tmp_path / "tensorboard").write_text("a file where the folder should be")
    trackers = Trackers(TensorBoard(tmp_path, {"lr": 0.1}, []), Other())
    trackers.log(row(1, 1.0), 1)
    if when == "log":
        monkeypatch.setattr(EventFile, "write", full)
    trackers.log(row(2, 0.5), 2)
    trackers.log(row(3, 0.5), 3)
    damaged = tmp_path / "curves.png"
    damaged.write_bytes(b"no picture")
    trackers.finish({"top1": 0.9}, {"curves": damaged})
    trackers.stop(failed=True)
    captured = capsys.readouterr()
    assert captured.out.count("tensorboard   given up: ") == 1 and captured.err == ""
    assert Other.called == [1, 2, 3, "finish", "stop"]


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    run = TensorBoard(tmp_path, {}, [row(1, 1.0)])
    run.log(row(2, 1.0), 2)
    run.finish({}, {})
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_request_is_refused_before_anything_is_written(cli, workdir, monkeypatch):
    monkeypatch.setattr("records.tensorboard_run.importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadRequest, match="--tensorboard needs a package that is not installed"):
        check_installed()
    result = cli(f"{QUICK} --tensorboard --run-name a")
    assert result.status == 2 and not list(workdir.iterdir())
