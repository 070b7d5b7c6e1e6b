"""ViT-Tiny against DeiT-Tiny with distillation on ImageNet-100, as it is distributed in shards.

`python train_deit_imagenet100.py --help` lists the flags. They are those of main.py, with other defaults.
"""

from __future__ import annotations

import sys

from commands import start_training
from settings import checks
from settings.scripts import SCRIPTS
from settings.terminal import run_script
from utils import require


def main(argv: list[str] | None = None) -> int:
    """Trains what the command line asks for."""
    asked = SCRIPTS["train_deit_imagenet100.py"].ask(sys.argv[1:] if argv is None else argv)
    require(*checks.PACKAGES)
    start_training(asked)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
