"""The settings that a run stores, as far as they can be read without knowing the flags."""

from __future__ import annotations

from typing import Any

import models
from image_datasets import reading
from utils import BadRequest

OLDER = {**reading.OLDER, "resize_mode": "crop"}  # behaviour of runs from before these flags
OLDER_ARGUMENTS = {"shortcut": "A", "layer_scale": 0.0, "pool": "token"}  # likewise, of the models that take them
NEEDED = ("model", "model_args", "dataset", "data_path", "run_name", "epochs", "select_by", "seed")


def check_needed(settings: Any, source: object) -> None:
    """Raises BadRequest, naming `source`, if the settings are no dict or lack a key that every run stores."""
    if not isinstance(settings, dict):
        raise BadRequest(f"{source}: damaged (its settings are no object)")
    missing = [key for key in NEEDED if key not in settings]
    if missing:
        raise BadRequest(f"{source}: damaged, or written by another version (no {missing[0]} among its settings)")


def complete_older(settings: dict[str, Any]) -> dict[str, Any]:
    """Fills in the former behaviour for flags that are newer than the run."""
    entry = models.find_model(str(settings.get("model")))
    arguments = {key: value for key, value in OLDER_ARGUMENTS.items() if entry is not None and entry.argument(key)}
    if arguments and isinstance(settings.get("model_args"), dict):
        settings = {**settings, "model_args": {**arguments, **settings["model_args"]}}
    policy = "randaugment" if settings.get("rand") else "none"
    return {**OLDER, "auto_augment": policy, **settings}
