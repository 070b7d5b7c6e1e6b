"""Trains ViT-Tiny, or DeiT-Tiny with distillation, on the shards of ImageNet-100.

`python train_deit_imagenet100.py --help` lists the flags: main.py's for training, with other defaults.
"""

from __future__ import annotations

import sys

from commands import start_training
from settings import checks
from settings.scripts import SCRIPTS
from settings.terminal import run_script
from utils import require


def main(argv: list[str] | None = None) -> int:
    """Trains the run that the command line describes. Returns the exit status."""
    asked = SCRIPTS["train_deit_imagenet100.py"].ask(sys.argv[1:] if argv is None else argv)
    require(*checks.PACKAGES)
    start_training(asked)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
