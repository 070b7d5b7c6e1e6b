"""A new architecture is one file, which gives its names, flags and help."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Result

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


# Runs each command line, and prints a list of (exit status, output, errors).
EACH = """
import contextlib, io, json, sys
import main
from settings.terminal import run_script

results = []
for line in sys.argv[1:]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = run_script(lambda: main.main(line.split()))
        except SystemExit as end:  # from --help
            status = end.code
    results.append((status, out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""


@pytest.fixture
def main(tmp_path):
    """Runs main.py with each command line, all in one process, in a copy of the suite with the two files added."""
    for name in ROOMS:
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("main.py", "utils.py", "data_transform.py"):
        shutil.copy(REPO / name, tmp_path)
    (tmp_path / "models/patchwork.py").write_text(PATCHWORK)
    (tmp_path / "models/quilts.py").write_text(QUILTS)

    def run(*lines: str) -> list[Result]:
        command = [sys.executable, "-c", EACH, *lines]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return [Result(*each) for each in json.loads(done.stdout)]

    return run


def test_one_file_is_a_model_with_flags_and_help(main, tmp_path):
    flags = "--hidden 24 --reading max --no-biased --model-arg gains=(1.0,0.5)"
    help_of_it, help_of_another, refused, trained, evaluated, *resumed, same = main(
        "--model patchwork --help",
        "--model resnet18 --help",
        "--model resnet20 --hidden 8",
        f"--model patchwork {flags} --epochs 1 --run-name a --wandb disabled",
        "--evaluate runs/a/best.pth --run-name b --wandb disabled",
        *(
            f"--resume --run-name a {other}"
            for other in ("--hidden 25", "--model-arg reading=mean", "--model-arg gains=(2.0,)")
        ),
        "--resume --run-name a --hidden 24 --model-arg gains=(1.0,0.5)",
    )
    shown = " ".join(help_of_it.out.split())
    assert "architecture (patchwork):" in shown
    assert "--hidden N units between the pixels and the head (default: 16)" in shown
    assert "--reading WORD how the units of all patches are joined: mean, max (default: mean)" in shown
    assert "--biased, --no-biased" in shown
    assert "--gains" not in shown  # no flag can check a value of its type
    assert "--model" in help_of_another.out and "--hidden" not in help_of_another.out
    assert refused.status == 2 and "it belongs to patchwork" in refused.err

    assert trained.status == 0, trained.err
    summary = json.loads((tmp_path / "runs/a/summary.json").read_text())
    assert summary["params"] == (16 * 24 + 24) + 24 * 10
    assert summary["settings"]["model_args"] == {
        "hidden": 24, "reading": "max", "gains": [1.0, 0.5], "biased": False
    }  # fmt: skip

    assert evaluated.status == 0, evaluated.err
    again = json.loads((tmp_path / "runs/b/summary.json").read_text())
    assert again["loss"] == summary["loss"]

    for result in resumed:
        assert result.status == 2 and "the run to be resumed has" in result.err, result.err
    assert same.status == 0 and "finished already" in same.out, same.err


def test_a_variant_is_one_line_with_its_own_defaults_and_its_fixed_arguments(main):
    listed, quilt, deep, refused, summary = main(
        "--list-models quilt",
        "--model quilt --help",
        "--model quilt_deep --help",
        "--model quilt_deep --layers 2",
        "--summary --model quilt_deep --dataset digits",
    )
    assert [line.split()[0] for line in listed.out.splitlines()[1:3]] == ["quilt", "quilt_deep"]
    shown = " ".join(quilt.out.split())
    assert "--hidden N units of the hidden layer (default: 16)" in shown
    assert "--layers N linear layers before the head (default: 1)" in shown
    assert "--activation" not in shown  # it has no default, so every variant fixes it
    shown = " ".join(deep.out.split())
    assert "--hidden N units of the hidden layer (default: 8)" in shown
    assert "--layers" not in shown
    assert refused.status == 2 and "quilt_deep has no such argument; it belongs to quilt" in refused.err
    assert summary.out.count("GELU") == 3
    assert f"Total params: {64 * 8 + 8 + 2 * (8 * 8 + 8) + 8 * 10 + 10:,}" in summary.out
