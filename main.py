"""Trains or evaluates any registered model on any data set. `python main.py --help` lists the flags."""

from __future__ import annotations

import importlib
import sys

from commands import start_prediction, start_training
from commands.menu import run_menu
from settings import checks
from settings.flag import AVERAGE, EVALUATE, INSPECT, LIST, MEASURE, PREDICT, SUMMARY, TRAIN
from settings.scripts import SCRIPTS
from settings.terminal import run_script
from utils import BadRequest, require

STARTS = {TRAIN: start_training, PREDICT: start_prediction}  # by mode; these find the files before torch is imported
COMMANDS = {  # by mode; a module is imported when it runs, as it imports torch
    EVALUATE: ("commands.evaluate", "run_evaluation"),
    AVERAGE: ("commands.average", "run_averaging"),
    MEASURE: ("commands.measure", "run_measurements"),
    LIST: ("commands.catalogue", "print_models"),
    SUMMARY: ("commands.catalogue", "print_summary"),
    INSPECT: ("commands.inspect_data", "inspect_data"),
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; without flags, at a terminal, the menu. Returns the exit status. Raises BadRequest."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv and sys.stdin.isatty() and sys.stdout.isatty():
        return run_menu(main)
    if not argv:
        raise BadRequest(
            "no flags given; usage: main.py [flags]; for a first result: --dataset digits --epochs 20;"
            " all flags: --help; at a terminal there is a menu"
        )
    asked = SCRIPTS["main.py"].ask(argv)
    require(*checks.PACKAGES)
    if asked.mode in STARTS:
        STARTS[asked.mode](asked)
    else:
        module, function = COMMANDS[asked.mode]
        getattr(importlib.import_module(module), function)(asked)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
