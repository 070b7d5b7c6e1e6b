"""Defaults that depend on other flags: on the recipe, the optimiser, the schedule, --rand and --pretrained."""

from __future__ import annotations

import os
import re
from typing import Any

import models
from settings.groups import FLAGS, Settings
from settings.recipes import RECIPES
from utils import BadRequest, cores


def apply_recipe(settings: Settings, given: dict[str, Any]) -> Settings:
    """Returns the settings with the recipe's values for all flags that are not given.

    Leaves arguments of the model's constructor to `recipe_arguments`. Raises BadRequest if --batch-size is auto and the
    recipe's learning rate depends on it.
    """
    recipe = settings.optimization.recipe
    if recipe is None:
        return settings
    values = RECIPES[recipe]
    lr_follows = "lr" not in given and callable(values.get("lr"))
    if lr_follows and settings.optimization.batch_size == "auto":
        raise BadRequest(f"--batch-size auto: the learning rate of --recipe {recipe} follows from the batch size;"
                         " give one of the two as a number")  # fmt: skip
    if lr_follows and settings.optimization.lr_base_size is not None:
        raise BadRequest(f"--lr-base-size: the learning rate of --recipe {recipe} follows from the batch size already;"
                         " give --lr for so many images too")  # fmt: skip
    for key, value in values.items():  # in order: a function reads the values before it
        if key not in given and key in FLAGS:
            settings = settings.replace(**{key: value(settings) if callable(value) else value})
    return settings


def recipe_arguments(recipe: str | None, model: str, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the recipe's values for constructor arguments that neither a flag nor --model-arg gives."""
    entry = models.find_model(model)
    if recipe is None or entry is None:
        return {}
    named = {*given, *(key for key, _ in given.get("model_args", []))}
    return {key: value for key, value in RECIPES[recipe].items() if entry.argument(key) and key not in named}


def describe_recipe(settings: Settings) -> str:
    """Returns a line with the recipe's name and the values of its flags in complete settings."""
    recipe = settings.optimization.recipe or ""
    used = {**settings.model.model_args, **settings.flat()}
    words = []
    for key in RECIPES[recipe]:
        value = used.get(key, f"(not taken by {settings.model.model})")
        words.append(f"{key.replace('_', '-')} {f'{value:g}' if isinstance(value, float) else value}")
    return f"{recipe}: {', '.join(words)}"


def optimization_defaults(settings: Settings) -> dict[str, Any]:
    """Returns learning rate, its scaling, weight decay, epochs of decay and EMA, by key."""
    group = settings.optimization
    values: dict[str, Any] = {"ema": group.ema or None}
    if group.lr is None:
        values["lr"] = 0.1 if group.optimizer in ("sgd", "muon-sgd") else 0.001
    if group.weight_decay is None:
        values["weight_decay"] = {"sgd": 0.0005, "muon-sgd": 0.0005, "adamw": 0.05}.get(group.optimizer, 0.0)
    if group.schedule == "wsd":
        values["decay_epochs"] = group.decay_epochs or group.epochs / 5
    if group.lr_base_size is not None and group.lr_base_scale is None:  # as timm's train.py
        values["lr_base_scale"] = "sqrt" if re.search("ada|lamb", group.optimizer) else "linear"
    if group.schedule == "step":
        values["step_size"] = group.step_size or max(1, group.epochs // 3)
    if group.schedule == "multistep":
        shares = (0.3, 0.6, 0.8)
        values["milestones"] = group.milestones or sorted({max(1, round(share * group.epochs)) for share in shares})
    return values


def augmentation_defaults(settings: Settings) -> dict[str, Any]:
    """Returns --auto-augment, probability of erasing and normalisation, by key."""
    values: dict[str, Any] = {}
    group = settings.augmentation
    if group.auto_augment is None:
        values["auto_augment"] = "randaugment" if group.rand else "none"
    if group.random_erasing is None:
        values["random_erasing"] = 0.25 if group.rand else 0.0
    if settings.data.normalization is None:
        values["normalization"] = "pretrained" if settings.model.pretrained else "dataset"
    return values


def default_workers(given: int | None) -> int:
    """Returns the number of workers of a process: `given`, or if None its share of the cores, at most 24."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # that torchrun started on this machine
    return max(1, min(24, cores() // processes)) if given is None else given
