"""ViT-Tiny against DeiT-Tiny with distillation on ImageNet-100, as it is distributed in shards.

`python train_deit_imagenet100.py --help` lists the flags; they are those of main.py, with other defaults.
"""

from __future__ import annotations

import sys

from commands import start_training
from settings import checks, terminal
from settings.scripts import SCRIPTS
from utils import require


def main(argv: list[str] | None = None) -> int:
    """Trains what the command line asks for."""
    argv = sys.argv[1:] if argv is None else argv
    _, settings, given = SCRIPTS["train_deit_imagenet100.py"].parse(argv)
    require(*checks.PACKAGES)
    start_training(settings, given)
    return 0


if __name__ == "__main__":
    sys.exit(terminal.run_script(main))
