"""What every form of a data set has to do like the `folder` form, for tests of the other forms."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

import torch
from test_main import assert_same_run, stop_after

from image_datasets import locate_dataset

LINE = "--model resnet9 --widths 8,8,8 --depths 1,1,1 --img-size 32 --batch-size 6 --seed 1"


def files(root: Path) -> Iterator[tuple[str, str, Path]]:
    """(split, class name, file) of each image of a folder, in the order of its data set."""
    layout = locate_dataset("folder", str(root)).layout
    for part, (paths, labels) in layout.splits.items():
        for path, label in zip(paths, labels, strict=True):
            yield part, layout.class_names[label], Path(path)


def listed(run: Path) -> list[dict[str, str]]:
    """The rows of a run's list of images."""
    with gzip.open(run / "images.csv.gz", "rt", newline="") as lines:
        return list(csv.DictReader(lines))


def assert_trains_alike(learns, folder: Path, data: str) -> None:
    """A training of the data set that the flags `data` name has the weights of one of the same images in a folder."""
    more = f"{LINE} --num-workers 2 --epochs 1 --rand"
    learns(f"--dataset folder --datapath {folder} {more} --run-name as-folder")
    learns(f"{data} {more} --run-name as-form")
    runs = [Path("runs", name) for name in ("as-folder", "as-form")]
    first, second = (torch.load(run / "last.pth", weights_only=True) for run in runs)
    assert first["class_names"] == second["class_names"] and first["image_digests"] == second["image_digests"]
    assert first["model"].keys() == second["model"].keys()
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    assert (runs[0] / "metrics.csv").read_bytes() == (runs[1] / "metrics.csv").read_bytes()
    rows = [[{**row, "path": ""} for row in listed(run)] for run in runs]
    assert rows[0] == rows[1]


def assert_resumes(cli, learns, monkeypatch, data: str) -> None:
    """A training of the data set that the flags `data` name is the same if it is interrupted."""
    line = f"{data} {LINE} --epochs 3 --rand"
    learns(f"{line} --num-workers 2 --run-name whole")
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        assert cli(f"{line} --num-workers 0 --run-name stopped").status == 130
    learns("--resume --run-name stopped")
    assert_same_run(Path("runs/whole"), Path("runs/stopped"))
