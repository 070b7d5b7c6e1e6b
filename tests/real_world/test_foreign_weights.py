"""Published weights on the published pixels give the published scores.

The folders are named by environment variables: WEIGHTS_DIR, CIFAR100_DIR and CIFAR10_PYTHON_DIR.
"""

from __future__ import annotations

import json
import os

import pytest

FOLDERS = {name: os.environ.get(name) for name in ("WEIGHTS_DIR", "CIFAR100_DIR", "CIFAR10_PYTHON_DIR")}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(FOLDERS.values()), reason=f"{', '.join(FOLDERS)} name no folders"),
]


def evaluate(learns, workdir, file: str, dataset: str, folder: str, *more: str) -> tuple[dict, str]:
    """Scores published weights from the command line. Returns (summary, what was printed)."""
    line = f"--evaluate {FOLDERS['WEIGHTS_DIR']}/{file} --model resnet20 --dataset {dataset} --run-name a"
    result = learns(line, "--datapath", str(FOLDERS[folder]), "--no-verify-checksum", *more)
    return json.loads((workdir / "runs/a/summary.json").read_text()), result.out


def test_resnet20_with_convolutions_as_shortcuts_on_cifar100(learns, workdir):
    summary, out = evaluate(learns, workdir, "dans-cifar100_resnet20.pth", "cifar100", "CIFAR100_DIR")
    assert summary["images"]["test"] == 10_000 and summary["test_precision"] == "fp32"
    assert summary["top1"] == pytest.approx(0.6883, abs=1.001e-4)
    assert summary["settings"]["model_args"] == {"shortcut": "B"} and "built with shortcut B" in out


def test_resnet20_without_parameters_in_its_shortcuts_on_cifar10(learns, workdir):
    """The normalisation is ImageNet's, and the note says that it is the best of the usual ones."""
    file, dataset, folder = "akamaster-resnet20-12fca82f.th", "cifar10", "CIFAR10_PYTHON_DIR"
    summary, out = evaluate(learns, workdir, file, dataset, folder, "--normalization", "imagenet")
    assert summary["top1"] == pytest.approx(0.9173, abs=1.001e-4)
    assert summary["settings"]["model_args"] == {"shortcut": "A"} and "'linear' of " in out
    (note,) = [note for note in summary["notes"] if "normalised" in note]
    assert "512 training images: imagenet 100.0 % (used)" in note and "half 8" in note
