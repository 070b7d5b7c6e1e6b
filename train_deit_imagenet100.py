"""ViT-Tiny against DeiT-Tiny with distillation on ImageNet-100, as it is distributed in shards.

`python train_deit_imagenet100.py --help` lists the flags; they are those of main.py, with other defaults.
"""

from __future__ import annotations

import sys

from training import options
from training.flags import training_groups

DESCRIPTION = (
    "Train a Vision Transformer on ImageNet-100's shards (train.X*, val.X, Labels.json in --data-path), from labels"
    " alone or from a teacher too, and report on val.X once, with the weights that validation selected."
)
DEFAULTS = {"model": "vit_tiny", "recipe": "seed", "epochs": 5, "wandb_project": "imagenet100"}
WITHOUT = ("dataset", "download", "verify_checksum")  # there is one data set, and it cannot be fetched


def main(argv: list[str] | None = None) -> int:
    """Trains what the command line asks for."""
    argv = sys.argv[1:] if argv is None else argv
    groups = training_groups(DEFAULTS, WITHOUT)
    _, settings, given = options.parse(argv, DESCRIPTION, groups, fixed={"dataset": "imagenet100"})
    return options.train(settings, given)


if __name__ == "__main__":
    sys.exit(options.one_line_errors(main))
