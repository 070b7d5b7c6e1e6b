"""Recipes: sets of flag values that belong together. Any flag that is given takes the place of a recipe's value."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import models
from utils import BadRequest

# Values by flag; a function makes one of the settings as they are by then. A flag of an architecture (drop_path) is
# left out where the model has no such argument.
RECIPES: dict[str, dict[str, Any]] = {
    # The plain training of a small study: nothing that has to be tuned to the number of epochs.
    "seed": {
        "optimizer": "adamw",
        "lr": 0.0005,
        "weight_decay": 0.05,
        "schedule": "constant",
        "crop": "resized",
    },
    # Touvron et al., arXiv:2012.12877, table 9 and section 6, without repeated augmentation. The paper warms up for 5
    # of 300 epochs; a short training for a tenth of its epochs. Its smallest rate is that of its code at batch 1,024.
    "deit": {
        "optimizer": "adamw",
        "lr": lambda s: 0.0005 * s.batch_size * s.accumulate / 512,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "min_lr": lambda s: s.lr / 100,
        "warmup_epochs": lambda s: min(5.0, s.epochs / 10),
        "crop": "resized",
        "rand": True,
        "random_erasing": 0.25,
        "augmentation": "cutmix+mixup",
        "cutmix_alpha": 1.0,
        "mixup_alpha": 0.8,
        "mix_prob": 1.0,
        "label_smoothing": 0.1,
        "drop_path": 0.1,
        "ema": 0.99996,
    },
    # The quickest way to a good accuracy on small images, after Page's "How to Train Your ResNet" and arXiv:2404.00498;
    # results/cifar-fast.md has the figures. All images are trained on and the last epoch is reported, as one whose rate
    # falls to nothing is the best one but for chance.
    "cifar-fast": {
        "model": "resnet9",
        "epochs": 15,
        "batch_size": 512,
        "optimizer": "muon-sgd",
        "lr": lambda s: 0.3 * (s.batch_size * s.accumulate / 256) ** 0.5,
        "weight_decay": 0.0005,
        "schedule": "linear",
        "warmup_epochs": lambda s: s.epochs / 5,
        "label_smoothing": 0.1,
        "crop": "pad",
        "crop_padding": lambda s: 2 if s.crop == "pad" else None,
        "val_fraction": 0.0,
    },
}


def apply(s: SimpleNamespace, given: dict[str, Any]) -> None:
    """Puts the recipe's values into the settings, but for flags that are given. Arguments of the model are
    `model_arguments`' part."""
    if s.batch_size == "auto" and "lr" not in given and callable(RECIPES[s.recipe].get("lr")):
        raise BadRequest(f"--batch-size auto: the learning rate of --recipe {s.recipe} follows from the batch size;"
                         " give one of the two as a number")  # fmt: skip
    for key, value in RECIPES[s.recipe].items():
        if key not in given and hasattr(s, key):
            setattr(s, key, value(s) if callable(value) else value)


def model_arguments(recipe: str | None, model: str, given: dict[str, Any]) -> dict[str, Any]:
    """The recipe's values for arguments that the model takes, where they are not given as flags or by --model-arg."""
    entry = models.find_model(model)
    if recipe is None or entry is None:
        return {}
    named = {*given, *(key for key, _ in given.get("model_args", []))}
    return {key: value for key, value in RECIPES[recipe].items() if entry.argument(key) and key not in named}


def describe(s: SimpleNamespace) -> str:
    """What the settings, complete by now, hold for the recipe's flags."""
    used = {**s.model_args, **vars(s)}
    words = []
    for key in RECIPES[s.recipe]:
        value = used.get(key, f"(not taken by {s.model})")
        words.append(f"{key.replace('_', '-')} {f'{value:g}' if isinstance(value, float) else value}")
    return f"{s.recipe}: {', '.join(words)}"
