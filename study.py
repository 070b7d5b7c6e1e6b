"""Runs a study file: variants x seeds x fractions. `python study.py --help` lists the flags."""

from __future__ import annotations

import sys

from experiments.request import read_request
from experiments.run_study import run_study
from settings import terminal


def main(argv: list[str] | None = None) -> int:
    """Runs, submits or shows the study that the command line names. Returns the exit status."""
    return run_study(read_request(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(terminal.run_script(main))
