"""Shows predictions of two trained models for ten random images of the reported split (ImageNet-100's val.X).

Prints them and draws a picture. `python viz_random_10_vit_vs_deit.py --help` lists the flags.
"""

from __future__ import annotations

import sys

from settings import checks, two_models
from settings.terminal import run_script
from utils import require


def main(argv: list[str] | None = None) -> int:
    """Prints and draws the predictions that the command line asks for. Returns the exit status."""
    request, given = two_models.ask(sys.argv[1:] if argv is None else argv)
    require(*checks.PACKAGES)
    from commands.compare_predictions import show_predictions  # imports torch

    show_predictions(request, given)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
