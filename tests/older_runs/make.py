"""Makes run directories with one checkout of the suite, and records that checkout's results for them.

    .venv/bin/python tests/older_runs/make.py CHECKOUT tests/older_runs/COMMIT

`tests/test_older_runs.py` checks every later version against them. Never regenerate a committed folder: its runs are
those on people's disks. A version that writes something new gets its own folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

CNN = "--dataset digits --model resnet9 --widths 8,16,16 --depths 1,1,1 --lr 0.05 --epochs 5 --batch-size 32"
VIT = (
    "--dataset folder --datapath images --model vit_tiny --patch-size 8 --depth 1 --embed-dim 16 --num-heads 2"
    " --optimizer adamw --lr 0.02 --img-size 24 --epochs 20 --batch-size 8 --num-workers 0"
)
RUNS = {
    "digits": f"{CNN} --augmentation cutmix --ema 0.9 --crop none --precision fp32",
    "folder": f"{VIT} --rand --precision fp32",
    "bf16": f"{CNN} --precision bf16",
}
STOPPED = {"digits-stopped": "digits", "folder-stopped": "folder"}  # stopped within the second epoch; with another seed
STUDY = """\
seeds = [0, 1]

[base]
dataset = "digits"
epochs = 4
batch-size = 32
train-fraction = 0.5
precision = "fp32"
wandb = "disabled"

[variants.cnn]
model = "resnet9"
widths = [8, 16, 16]
depths = [1, 1, 1]
lr = 0.05

[variants.vit]
model = "vit_tiny"
img-size = 32
patch-size = 8
depth = 1
optimizer = "adamw"
lr = 0.01
embed-dim = 16
num-heads = 2
"""
NOT_KEPT = ("*.png", "*.lock", "*.log", "previous.pth")


def draw_images(root: Path) -> None:
    """24 images for each of three classes, 24 to 28 px wide: a square of the class's colour anywhere on noise."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("red", "green", "blue")):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for number in range(24):
            width, height = rng.integers(24, 29, 2)
            pixels = rng.integers(0, 4, (height, width, 3), dtype=np.uint8) * 32  # two bits compress well
            row, column = rng.integers(0, (height - 12, width - 12))
            pixels[row : row + 12, column : column + 12, label] += 60
            Image.fromarray(pixels).save(folder / f"{number:02}.png", optimize=True)


class Checkout:
    """Runs the scripts of the suite at `code` in the folder `where`."""

    def __init__(self, code: Path, where: Path):
        self.code, self.where = code.resolve(), where

    def start(self, script: str, *words: str) -> subprocess.Popen:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, self.code / script, *words], cwd=self.where, env=environment)

    def run(self, script: str, *words: str) -> None:
        if self.start(script, *words).wait():
            raise SystemExit(f"{script} {' '.join(words)}: failed")

    def train(self, *words: str) -> None:
        self.run("main.py", *words, "--wandb", "disabled")

    def train_and_stop(self, name: str, *words: str) -> None:
        """Trains a run and stops it with SIGTERM within its second epoch."""
        words = (*words, "--checkpoint-every", "1", "--run-name", name, "--wandb", "disabled")
        process = self.start("main.py", *words)
        metrics = self.where / "runs" / name / "metrics.csv"
        while process.poll() is None and not metrics.is_file():  # it is written at the end of an epoch
            time.sleep(0.001)
        last = metrics.with_name("last.pth")
        seen = last.stat().st_ino
        while process.poll() is None and last.stat().st_ino == seen:
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        if process.wait() != 128 + signal.SIGTERM:
            raise SystemExit(f"{name}: could not be stopped in time")


def main(code: str, target: str) -> None:
    target = Path(target)
    target.mkdir(parents=True)
    suite = Checkout(Path(code), target)
    draw_images(target / "images")
    for name, words in RUNS.items():
        suite.train(*words.split(), "--run-name", name)
    for name, like in STOPPED.items():
        suite.train_and_stop(name, *RUNS[like].split(), "--seed", "1")
    (target / "small.toml").write_text(STUDY, encoding="utf-8")
    suite.run("study.py", "small.toml")
    for pattern in NOT_KEPT:
        for file in (target / "runs").rglob(pattern):
            file.unlink()
    for file in (target / "runs").rglob("*.json"):
        text = file.read_text(encoding="utf-8").replace(f"{suite.code}/", "")
        file.write_text(text.replace(str(Path(sys.executable).parent), ".venv/bin"), encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(target, copy)
        suite.where = copy
        for name in STOPPED:
            suite.train("--resume", "--run-name", name)
        for name in RUNS:
            suite.run("main.py", "--evaluate", f"runs/{name}/best.pth", "--run-name", f"{name}-evaluated",
                      "--precision", "fp32", "--wandb", "disabled")  # fmt: skip
        suite.run("main.py", "--measure", "runs/digits", "runs/folder", "--corruptions", "--precision", "fp32")
        suite.run("compare.py", "runs/small")
        for file in (
            *(f"{name}/{file}" for name in STOPPED for file in ("metrics.csv", "predictions.npz", "summary.json")),
            *(f"{name}-evaluated/{file}" for name in RUNS for file in ("predictions.npz", "summary.json")),
            "digits/robustness.json",
            "folder/robustness.json",
            *(f"small/comparison/tables/{name}.csv" for name in ("models", "metrics", "differences", "mcnemar")),
        ):
            kept = target / "expected" / file
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(copy / "runs" / file, kept)


if __name__ == "__main__":
    main(*sys.argv[1:])
