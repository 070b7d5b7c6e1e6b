"""The recipe cifar-fast: the values it sets, the flags that override it, and its printed lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from settings.scripts import SCRIPTS

SMALL = "--dataset digits --recipe cifar-fast --widths 8,16 --depths 1,1 --train-fraction 0.2"


def settings(run: str) -> dict:
    return json.loads(Path(f"runs/{run}/settings.json").read_text())["settings"]


def test_cifar_fast_chooses_the_model_too_and_is_printed_and_stored(learns, workdir):
    result = learns(f"{SMALL} --epochs 5 --run-name a")
    assert "recipe        cifar-fast: model airbench94, epochs 5, batch-size 1024, optimizer muon-sgd" in result.out
    assert "selected on: last epoch" in result.out
    stored = settings("a")
    expected = {"recipe": "cifar-fast", "model": "airbench94", "epochs": 5, "warmup_epochs": 0.0, "schedule": "linear",
                "optimizer": "muon-sgd", "crop": "pad", "crop_padding": 2, "val_fraction": 0.0}  # fmt: skip
    assert {key: stored[key] for key in expected} == expected
    assert stored["model_args"] == {"widths": [8, 16], "depths": [1, 1], "stem_stride": 1}
    (workdir / "runs/a/summary.json").unlink()
    assert "resumed       after epoch 5 of 5" in learns("--resume --run-name a").out


def test_the_decay_of_cifar_fast_is_not_given_to_optimisers_that_would_scale_it():
    """2e-6 * batch size per step; Adam would add so much to each gradient."""
    base = ["--dataset", "digits", "--recipe", "cifar-fast"]
    decays = [SCRIPTS["main.py"].ask([*base, *more]).settings.optimization.weight_decay for more in (
        [], ["--lr", "0.1"], ["--optimizer", "adam"], ["--optimizer", "adamw"])]  # fmt: skip
    assert decays == [pytest.approx(2e-6 * 1024 / 0.344), pytest.approx(2e-6 * 1024 / 0.1), 0.0, 0.05]


def test_given_flags_win_over_cifar_fast(learns, workdir):
    given = "--epochs 1 --batch-size 64 --lr 0.01 --optimizer sgd --crop none --val-fraction 0.1 --label-smoothing 0"
    learns(f"--dataset digits --recipe cifar-fast --train-fraction 0.2 --model resnet20 {given} --run-name a")
    stored = settings("a")
    expected = {"model": "resnet20", "epochs": 1, "batch_size": 64, "lr": 0.01, "optimizer": "sgd", "crop": "none",
                "crop_padding": None, "val_fraction": 0.1, "label_smoothing": 0.0, "warmup_epochs": 0.0}  # fmt: skip
    assert {key: stored[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("flags", "rate"),
    [("--batch-size 1024", 0.344), ("--batch-size 64", 0.086), ("--batch-size 256 --accumulate 16", 0.688)],
)
def test_the_rate_of_cifar_fast_grows_with_the_root_of_the_batch(workdir, flags, rate):
    asked = SCRIPTS["main.py"].ask(f"{SMALL} {flags}".split())
    assert asked.settings.optimization.lr == pytest.approx(rate)


def test_a_metric_cannot_select_where_cifar_fast_holds_nothing_out(cli, workdir):
    result = cli(f"{SMALL} --select-by f1")
    assert (
        result.status == 2
        and "--select-by has no effect: with --val-fraction 0 the last epoch is reported" in result.err
    )
