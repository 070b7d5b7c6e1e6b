"""Estimates the time and memory of a study from a few measured steps of each variant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from typing import Any

from experiments.plan import Plan, Run, python_path
from settings.groups import Settings
from utils import duration, human

LEFT_OUT = "checkpoints, plots, wandb, the copies of --cache-resized, and what runs at once cost each other"


def print_estimate(plan: Plan, runs: list[Run], settings: dict[str, Settings]) -> int:
    """Measures each variant once, and prints a row for it (and each fraction), then the total.

    Returns the exit status: 1 if a variant could not be measured.
    """
    counts = Counter((run.variant, run.fraction) for run in runs)
    if not counts:
        return 0
    width = max(len(run.variant) for run in runs)
    print(
        f"\n{'variant':{width}}  {'fraction':>9}  {'images/s':>8}  {'an epoch':>8}  {'a run':>8}  {'memory':>8}  runs"
    )
    total, failed = 0.0, False
    first: dict[tuple, Run] = {}
    measured: dict[str, tuple[dict[str, Any] | str, float]] = {}
    for run in runs:
        first.setdefault((run.variant, run.fraction), run)
    for key, run in first.items():
        if run.variant not in measured:
            measured[run.variant] = (_measure(plan, run), run.fraction or 1.0)
        found, of_fraction = measured[run.variant]
        if isinstance(found, str):
            print(f"{run.variant:{width}}  cannot be measured: {found}")
            failed = True
            continue
        epoch, whole = seconds(found, settings[run.name].optimization.epochs, (run.fraction or 1.0) / of_fraction)
        total += counts[key] * whole
        columns = (
            f"{run.variant:{width}}",
            f"{'all' if run.fraction is None else f'{run.fraction:g}':>9}",
            f"{found['step_images'] / found['step_seconds']:8.0f}",
            f"{duration(epoch):>8}",
            f"{duration(whole):>8}",
            "unknown".rjust(8) if found["peak_memory"] is None else f"{human(found['peak_memory']):>7}B",
            f"{counts[key]:4}",
        )
        print("  ".join(columns), flush=True)
    about = "at least" if failed else "about"
    print(f"{about} {duration(total)} for all of these, one after the other and from the start")
    print(f"left out: {LEFT_OUT}")
    if any(settings[run.name].distillation.teacher is not None for run in runs):
        print("left out, too: the teachers, which train first (--teacher-epochs) or answer in each step")
    return 1 if failed else 0


def seconds(found: dict[str, Any], epochs: int, share: float) -> tuple[float, float]:
    """(seconds of an epoch, seconds of a whole run).

    Args:
        found: the result of `commands.dry_run`, and start_seconds.
        share: training images of the run, divided by those of the measured run.
    """
    epoch = found["step_seconds"] * found["train_images"] * share / found["step_images"]
    epoch += found["eval_seconds"] * found["val_images"]
    return epoch, found["start_seconds"] + epochs * epoch + found["eval_seconds"] * found["test_images"]


def _measure(plan: Plan, run: Run) -> dict[str, Any] | str:
    """The result of `commands.dry_run`, and start_seconds (imports, data and model); or its error as one line."""
    command = [sys.executable, "-m", "commands.dry_run", plan.study.script, *plan.trial_arguments(run)]
    began = time.monotonic()
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": python_path()}, stdin=subprocess.DEVNULL,
                           capture_output=True, text=True)  # fmt: skip
    if ended.returncode != 0:
        return (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1]
    found = json.loads(ended.stdout.strip().splitlines()[-1])
    return {**found, "start_seconds": time.monotonic() - began - found["measuring_seconds"]}
