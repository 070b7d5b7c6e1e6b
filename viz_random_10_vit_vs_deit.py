"""Ten random images of the reported split (ImageNet-100's val.X) with the predictions of two trained models.

It prints them, and draws them into a picture. `python viz_random_10_vit_vs_deit.py --help` lists the flags.
"""

from __future__ import annotations

import sys

from settings import checks, two_models
from settings.terminal import run_script
from utils import require


def main(argv: list[str] | None = None) -> int:
    """Draws what the command line asks for."""
    request, given = two_models.ask(sys.argv[1:] if argv is None else argv)
    require(*checks.PACKAGES)
    from commands.compare_predictions import show_predictions  # imports torch

    show_predictions(request, given)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
