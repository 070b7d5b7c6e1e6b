"""A new architecture is one file, which gives its names, flags and help."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent

PATCHWORK = '''
"""An architecture that this test has thought of."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from models.layers import Count
from models.registry import register_model

Reading = Literal["mean", "max"]


class Patchwork(nn.Module):
    """(N, in_chans, H, W) -> (N, num_classes).

    Args:
        hidden: units between the pixels and the head.
        reading: how the units of all
            patches are joined.
    """

    def __init__(self, num_classes: int, in_chans: int, hidden: int, reading: str, gains: tuple[float, ...]):
        super().__init__()
        self.patches = nn.Conv2d(in_chans, hidden, 4, stride=4)
        self.reading, self.gain = reading, sum(gains)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.gain * self.patches(x).relu().flatten(2)
        return self.head(x.mean(2) if self.reading == "mean" else x.amax(2))


@register_model(year=2026, paper="none yet")
def patchwork(
    num_classes: int = 10,
    img_size: int = 8,
    in_chans: int = 1,
    hidden: Count = 16,
    reading: Reading = "mean",
    gains: tuple[float, ...] = (1.0,),
    biased: bool = True,
) -> Patchwork:
    model = Patchwork(num_classes, in_chans, hidden, reading, gains)
    if not biased:
        model.head.bias = None
    return model
'''

QUILTS = '''
"""Two variants of one class."""

from __future__ import annotations

import torch
from torch import nn

from models.layers import Count
from models.registry import register_variants, variant


class Quilt(nn.Module):
    """(N, in_chans, H, W) -> (N, num_classes).

    Args:
        activation: class of the nonlinearity.
        hidden: units of the hidden layer.
        layers: linear layers before the head.
    """

    def __init__(
        self, activation: type, num_classes: int, img_size: int, in_chans: int, hidden: Count = 16, layers: Count = 1
    ):
        super().__init__()
        parts = [nn.Flatten(), nn.Linear(in_chans * img_size**2, hidden), activation()]
        for _ in range(layers - 1):
            parts += [nn.Linear(hidden, hidden), activation()]
        self.body = nn.Sequential(*parts)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


register_variants(
    Quilt,
    variant("quilt", activation=nn.ReLU),
    variant("quilt_deep", activation=nn.GELU, hidden=8, layers=3, takes=("hidden",)),
    year=2026,
    paper="none yet",
)
'''

ROOMS = (
    "analysis",
    "assembly",
    "augmentation",
    "commands",
    "image_datasets",
    "models",
    "records",
    "settings",
    "training",
)


@pytest.fixture
def main(tmp_path):
    """Runs main.py in a copy of the suite with the two files added."""
    for name in ROOMS:
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("main.py", "utils.py", "data_transform.py"):
        shutil.copy(REPO / name, tmp_path)
    (tmp_path / "models/patchwork.py").write_text(PATCHWORK)
    (tmp_path / "models/quilts.py").write_text(QUILTS)

    def run(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "main.py", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    return run


def test_one_file_is_a_model_with_flags_and_help(main, tmp_path):
    shown = " ".join(main("--model", "patchwork", "--help").stdout.split())
    assert "architecture (patchwork):" in shown
    assert "--hidden N units between the pixels and the head (default: 16)" in shown
    assert "--reading WORD how the units of all patches are joined: mean, max (default: mean)" in shown
    assert "--biased, --no-biased" in shown
    assert "--gains" not in shown  # no flag can check a value of its type
    assert "--hidden" not in main("--model", "resnet18", "--help").stdout
    refused = main("--model", "resnet20", "--hidden", "8")
    assert refused.returncode == 2 and "it belongs to patchwork" in refused.stderr

    flags = ["--hidden", "24", "--reading", "max", "--no-biased", "--model-arg", "gains=(1.0, 0.5)"]
    trained = main("--model", "patchwork", *flags, "--epochs", "1", "--run-name", "a", "--wandb", "disabled")
    assert trained.returncode == 0, trained.stderr
    summary = json.loads((tmp_path / "runs/a/summary.json").read_text())
    assert summary["params"] == (16 * 24 + 24) + 24 * 10
    assert summary["settings"]["model_args"] == {
        "hidden": 24, "reading": "max", "gains": [1.0, 0.5], "biased": False
    }  # fmt: skip

    evaluated = main("--evaluate", "runs/a/best.pth", "--run-name", "b", "--wandb", "disabled")
    assert evaluated.returncode == 0, evaluated.stderr
    again = json.loads((tmp_path / "runs/b/summary.json").read_text())
    assert again["loss"] == summary["loss"]

    for words in (["--hidden", "25"], ["--model-arg", "reading=mean"], ["--model-arg", "gains=(2.0,)"]):
        resumed = main("--resume", "--run-name", "a", *words)
        assert resumed.returncode == 2 and "the run to be resumed has" in resumed.stderr, resumed.stderr
    same = main("--resume", "--run-name", "a", "--hidden", "24", "--model-arg", "gains=(1.0, 0.5)")
    assert same.returncode == 0 and "finished already" in same.stdout, same.stderr


def test_a_variant_is_one_line_with_its_own_defaults_and_its_fixed_arguments(main):
    names = [line.split()[0] for line in main("--list-models", "quilt").stdout.splitlines()[1:3]]
    assert names == ["quilt", "quilt_deep"]
    shown = " ".join(main("--model", "quilt", "--help").stdout.split())
    assert "--hidden N units of the hidden layer (default: 16)" in shown
    assert "--layers N linear layers before the head (default: 1)" in shown
    assert "--activation" not in shown  # it has no default, so every variant fixes it
    shown = " ".join(main("--model", "quilt_deep", "--help").stdout.split())
    assert "--hidden N units of the hidden layer (default: 8)" in shown
    assert "--layers" not in shown
    refused = main("--model", "quilt_deep", "--layers", "2")
    assert refused.returncode == 2 and "quilt_deep has no such argument; it belongs to quilt" in refused.stderr
    summary = main("--summary", "--model", "quilt_deep", "--dataset", "digits").stdout
    assert summary.count("GELU") == 3 and f"Total params: {64 * 8 + 8 + 2 * (8 * 8 + 8) + 8 * 10 + 10:,}" in summary
