"""Time that a command takes before it does anything. `python -m benchmarks.startup --help`."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import hardware
from benchmarks.common import SUITE, Bench, How, Row, read, script
from benchmarks.timing import alternate
from utils import RunFailed

DESCRIPTION = """Seconds that processes take from start to end: --help, a wrong flag, and a run on the digits up to its
first optimiser step, against a process that does nothing but import torch and torchvision."""
ROOT = Path(__file__).resolve().parent.parent
IMPORTS = "import torch, torchvision"
# A run that ends with its first optimiser step. Importing torch here costs nothing: the run imports it anyway.
FIRST_STEP = """
import os, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(lambda *_: os._exit(0))
import main
main.main(sys.argv[1:])
"""


def main(argv: list[str] | None = None) -> int:
    request = read(argv, DESCRIPTION, How, {})
    bench = Bench("startup", request, hardware.facts())
    with tempfile.TemporaryDirectory() as folder:
        run = ["--dataset", "digits", "--model", "resnet20", "--epochs", "1", "--wandb", "disabled"]
        run += ["--runs-dir", folder, "--overwrite"]
        commands = {
            IMPORTS: (["-c", IMPORTS], 0),
            "--help": (["main.py", "--help"], 0),
            "a wrong flag": (["main.py", "--epoch", "3"], 2),
            "start to first step, digits": (["-c", FIRST_STEP, *run], 0),
        }
        sides = {name: functools.partial(seconds, *command) for name, command in commands.items()}
        values = alternate(sides, request.repeats, warmups=0 if request.quick else 1)
    reference = values.pop(IMPORTS)
    bench.rows = [Row(what, "s", {IMPORTS: reference, SUITE: own}) for what, own in values.items()]
    return bench.finish()


def seconds(arguments: list[str], status: int) -> float:
    """Seconds that this Python takes with these arguments. Raises RunFailed if it exits with another status."""
    began = time.perf_counter()
    result = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - began
    if result.returncode != status:
        raise RunFailed(f"{arguments[:2]} ended with status {result.returncode}: {result.stderr[-300:]}")
    return elapsed


if __name__ == "__main__":
    sys.exit(script(main))
