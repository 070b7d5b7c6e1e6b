"""The training scripts: flags and defaults of each. Scripts and studies check command lines with them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from settings import checks
from settings.checks import Asked
from settings.flag import TRAIN, Flag
from settings.groups import Settings
from settings.request import Request

IMAGENET100_DEFAULTS = {"model": "vit_tiny", "recipe": "seed", "epochs": 5, "wandb_project": "imagenet100"}
# The data set is fixed, is no table, and cannot be downloaded.
IMAGENET100_WITHOUT = ("dataset", "download", "verify_checksum", "image_column", "label_column", "dataset_args")


@dataclass(frozen=True)
class Script:
    """A training script.

    Attributes:
        description: first paragraph of --help.
        titles: flags by their title in --help.
        fixed: settings without a flag in this script, by key.
    """

    description: str
    titles: dict[str, list[Flag]]
    fixed: dict[str, Any] = field(default_factory=dict)

    def ask(self, argv: list[str]) -> Asked:
        """Parses and checks a command line, see `checks.ask`."""
        return checks.ask(argv, self.description, self.titles, self.fixed)


def training_titles(defaults: dict[str, Any], without: tuple[str, ...]) -> dict[str, list[Flag]]:
    """Returns the flags of training by title, for a script that does nothing else.

    Args:
        defaults: by key, where they differ from main.py's.
        without: keys of flags that the script does not offer.
    """
    titles = {
        title: [dataclasses.replace(flag, default=defaults.get(flag.key, flag.default)) for flag in flags
                if TRAIN in flag.modes and flag.key not in without]
        for title, flags in {**Request.titles(), **Settings.titles()}.items()
    }  # fmt: skip
    return {title: flags for title, flags in titles.items() if flags}


SCRIPTS = {
    "main.py": Script(
        "Train an image classifier, and report on its test split once, with the weights that validation selected.",
        {**Request.titles(), **Settings.titles()},
    ),
    "train_deit_imagenet100.py": Script(
        "Train a Vision Transformer on ImageNet-100's shards (train.X*, val.X, Labels.json in --data-path), from labels"
        " alone or from a teacher too, and report on val.X once, with the weights that validation selected.",
        training_titles(IMAGENET100_DEFAULTS, IMAGENET100_WITHOUT),
        {"dataset": "imagenet100"},
    ),
}
