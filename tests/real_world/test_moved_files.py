"""Data, weights and devices of a run that are gone: the message says that the run stored them. It does not blame a flag
of the current command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from test_main import QUICK, stop_after

import compare
import viz_random_10_vit_vs_deit as viz
from settings.stored import blaming
from utils import BadRequest

FOLDER = "--dataset folder --datapath images --model resnet20 --batch-size 8"


@pytest.fixture
def moved(learns, image_folder, workdir) -> Path:
    """Two finished runs whose data moved from images/ to elsewhere/."""
    image_folder(parts={"train": 12, "test": 4}).rename(workdir / "images")
    for seed in (0, 1):
        learns(FOLDER, "--epochs", "1", "--seed", str(seed), "--run-name", f"{'ab'[seed]}")
    (workdir / "images").rename(workdir / "elsewhere")
    return workdir


def told(source: str, folder: Path) -> str:
    return (
        f"images: no such folder; {source} stores this path, relative to {folder}, the current folder: --datapath PATH"
        " names where the data are now\n"
    )


@pytest.mark.parametrize(
    ("command", "script", "source"),
    [
        ("--evaluate runs/a/best.pth", None, "runs/a/best.pth"),
        ("--measure runs/a --corruptions", None, "runs/a/summary.json"),
        ("--first runs/a --second runs/b", viz, "runs/a/best.pth"),
        ("runs/a runs/b --images", compare, "runs/a/summary.json"),
    ],
)
def test_a_stored_data_path_that_is_gone_is_told_as_the_runs(cli, learns, moved, command, script, source):
    more = {} if script is None else {"script": script}
    words = [] if script in (None, viz) else ["--wandb", "disabled"]
    result = cli(command, *words, **more)
    assert result.status == 2 and result.err.endswith(f"error: {told(source, moved)}")
    given = cli(command, *words, "--data-path", "nowhere", **more)
    assert given.status == 2 and given.err.endswith("error: --datapath nowhere: no such folder\n")
    learns(command, *words, "--data-path", "elsewhere", **more)


def test_a_run_whose_data_moved_is_resumed_with_their_new_path(cli, learns, image_folder, workdir, monkeypatch):
    image_folder(parts={"train": 12, "test": 4}).rename(workdir / "images")
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert cli(FOLDER, "--epochs", "2", "--run-name", "a").status == 130
    (workdir / "images").rename(workdir / "elsewhere")
    result = cli("--resume --run-name a")
    assert result.status == 2 and result.err == f"main.py: error: {told('runs/a/settings.json', workdir)}"
    learns("--resume --run-name a --datapath elsewhere")


def test_a_data_path_that_is_there_but_no_data_set_is_told_as_the_runs_too(cli, moved):
    (moved / "images").mkdir()
    result = cli("--evaluate runs/a/best.pth")
    assert "error: images: has no folder train/" in result.err
    assert "; runs/a/best.pth stores this path, relative to" in result.err


def test_an_absolute_path_is_relative_to_nothing(cli, learns, image_folder, workdir):
    path = image_folder(parts={"train": 12, "test": 4})
    learns(FOLDER.replace("images", str(path)), "--epochs", "1", "--run-name", "a")
    shutil.rmtree(path)
    err = cli("--evaluate runs/a/best.pth").err
    assert f"{path}: no such folder; runs/a/best.pth stores this path: --datapath PATH" in err


def test_a_teachers_file_that_is_gone_is_told_as_the_runs(cli, learns, workdir, monkeypatch):
    learns(QUICK, "--epochs", "3", "--lr", "0.05", "--run-name", "t")
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        command = f"{QUICK} --epochs 2 --teacher resnet20 --teacher-weights runs/t/best.pth --run-name a"
        assert cli(command).status == 130
    (workdir / "runs/t/best.pth").unlink()
    result = cli("--resume --run-name a")
    assert result.status == 2 and result.err.startswith("main.py: error: runs/t/best.pth: no such checkpoint file; ")
    assert "runs/a/settings.json stores this path, relative to" in result.err


def test_a_stored_device_that_is_not_here_is_told_as_the_runs(cli, workdir, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(BadRequest) as error, blaming("runs/a/settings.json", {"device": "cuda:1", "lr": 0.1}):
        raise BadRequest("--device cuda:1: there are 0 CUDA devices here")
    assert str(error.value) == (
        "--device cuda:1: there are 0 CUDA devices here (runs/a/settings.json stores --device; --device NAME replaces"
        " it)"
    )
    with pytest.raises(BadRequest, match=r"^--lr 3: is too much$"), blaming("runs/a/settings.json", {"epochs": 3}):
        raise BadRequest("--lr 3: is too much")
