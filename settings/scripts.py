"""What each training script offers: its flags, with its defaults. Studies check flags by it, as the scripts do."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from settings import checks
from settings.flags import GROUPS, Flag, training_groups

IMAGENET100_DEFAULTS = {"model": "vit_tiny", "recipe": "seed", "epochs": 5, "wandb_project": "imagenet100"}
IMAGENET100_WITHOUT = ("dataset", "download", "verify_checksum")  # there is one data set, and it cannot be fetched


@dataclass(frozen=True)
class Script:
    """A script that trains.

    Attributes:
        groups: its flags by the title that --help shows above them.
        fixed: settings that it offers no flag for.
    """

    description: str
    groups: dict[str, list[Flag]]
    fixed: dict[str, Any] = field(default_factory=dict)

    def parse(self, argv: list[str]) -> tuple[str, SimpleNamespace, dict[str, Any]]:
        """As `checks.parse`."""
        return checks.parse(argv, self.description, self.groups, self.fixed)


SCRIPTS = {
    "main.py": Script(
        "Train an image classifier, and report on its test split once, with the weights that validation selected.",
        GROUPS,
    ),
    "train_deit_imagenet100.py": Script(
        "Train a Vision Transformer on ImageNet-100's shards (train.X*, val.X, Labels.json in --data-path), from labels"
        " alone or from a teacher too, and report on val.X once, with the weights that validation selected.",
        training_groups(IMAGENET100_DEFAULTS, IMAGENET100_WITHOUT),
        {"dataset": "imagenet100"},
    ),
}
