"""What a settings.json, a summary.json or a checkpoint holds of a run: whether it is what the suite writes there, and
errors that come from it."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
from image_datasets import reading
from training import model_flags
from training.flag_types import path
from training.flags import FLAGS, Flag
from utils import BadRequest

PATHS = {  # settings that name what a run reads, and what helps where it is gone
    "data_path": "--datapath PATH names where the data are now",
    "cache_dir": "--cache-dir PATH names where the copy is now",
    "weights": "the file must lie there as it did",
    "teacher_weights": "the file must lie there as it did",
}
OLDER = {**reading.OLDER, "resize_mode": "crop"}
NEEDED = ("model", "model_args", "dataset", "data_path", "run_name", "epochs", "select_by", "seed")  # of settings


def check_settings(settings: Any, source: object) -> None:
    """Raises BadRequest, naming `source`, where settings lack what a run is told by, or a value could not have been
    given."""
    if not isinstance(settings, dict):
        raise BadRequest(f"{source}: damaged (its settings are no object)")
    missing = [key for key in NEEDED if key not in settings]
    if missing:
        raise BadRequest(f"{source}: damaged, or written by another version (no {missing[0]} among its settings)")
    built_with = settings["model_args"]
    for key, value in settings.items():
        if key in FLAGS and key != "model_args" and not _is_value(FLAGS[key], value):
            raise BadRequest(f"{source}: damaged (its {key} is {_short(value)})")
    if not isinstance(built_with, dict):
        raise BadRequest(f"{source}: damaged (its model_args are {_short(built_with)})")
    models.check_name(settings["model"])
    for key, flag in model_flags.flags_of(settings["model"]).items():
        if key in built_with and not _is_value(flag, built_with[key]):
            raise BadRequest(f"{source}: damaged (its model_args: {key} is {_short(built_with[key])})")


def complete_older(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run, with what older versions did where they had no flag for it yet."""
    return {**OLDER, **settings}


@contextlib.contextmanager
def blaming(source: object, values: dict[str, Any]) -> Iterator[None]:
    """Within the block, a BadRequest over a value that `source` stores, and nobody gave, says so.

    Args:
        source: the file that holds it.
        values: by setting, those that come from there.
    """
    try:
        yield
    except BadRequest as error:
        raise BadRequest(_blame(str(error), source, values)) from None


def _blame(message: str, source: object, values: dict[str, Any]) -> str:
    known = {key: FLAGS[key] for key, value in values.items() if key in FLAGS and value is not None}
    for key, flag in known.items():
        flags = "|".join(re.escape(name) for name in (flag.name, *flag.aliases))
        if key in PATHS:
            path = "|".join(re.escape(text) for text in {str(values[key]), str(Path(values[key]))})
            found = re.match(rf"(?:--(?:{flags}) )?((?:{path})(?=[:/ ]).*)", message, re.DOTALL)
            if found:
                where = "" if Path(values[key]).is_absolute() else f", relative to {Path.cwd()}, the current folder"
                return f"{found[1]}; {source} stores this path{where}: {PATHS[key]}"
        elif re.match(rf"--(?:no-)?(?:{flags})(?=[: ])", message):
            other = f"; --{flag.name} {flag.metavar or ''}".rstrip() + " replaces it" if flag.may_change else ""
            return f"{message} ({source} stores --{flag.name}{other})"
    return message


def _is_value(flag: Flag, value: Any) -> bool:
    """Whether a command line could have given it, or the default."""
    if value is None or flag.check is None:
        return flag.default is None if value is None else isinstance(value, bool)
    if flag.check is path:  # earlier versions stored a ~ as it was given
        return isinstance(value, str) and bool(value.strip())
    if isinstance(value, (bool, dict)):
        return False
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    try:
        return _plain(flag.check(text)) == _plain(value)
    except (argparse.ArgumentTypeError, ValueError):
        return False


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _short(value: Any) -> str:
    return repr(value)[:80]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _are(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (list, tuple)) and all(isinstance(item, kind) for item in value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 16


CONTENT: dict[str, Callable[[Any], bool]] = {
    "model": lambda value: isinstance(value, dict),
    "settings": lambda value: isinstance(value, dict),
    "class_names": lambda value: _are(str)(value) and len(value) > 1,
    "in_chans": lambda value: _is_count(value) and value in (1, 3),
    "mean": _are(float),
    "std": lambda value: _are(float)(value) and 0 not in value,
    "img_size": lambda value: _is_count(value) or (_are(int)(value) and len(value) == 2 and all(map(_is_count, value))),
    "eval_crop": lambda value: _is_number(value) and 0 < value <= 1,
    "selected_on": lambda value: isinstance(value, str),
    "best": lambda value: isinstance(value, dict),
}


def check_content(content: dict[str, Any], source: object) -> None:
    """The same for what a checkpoint holds besides: raises BadRequest, naming `source`, for what using it would trip
    over."""
    for key, is_right in CONTENT.items():
        if not is_right(content[key]):
            raise BadRequest(f"{source}: damaged (its {key} is {_short(content[key])})")
    if not len(content["mean"]) == len(content["std"]) == content["in_chans"]:
        raise BadRequest(f"{source}: damaged (its mean or std is not of {content['in_chans']} channels)")
    weights = content["best"].get("weights", "raw")
    if weights not in ("raw", "ema") or (weights == "ema" and not isinstance(content.get("ema"), dict)):
        raise BadRequest(f"{source}: damaged (it lacks the weights that were selected)")
    check_settings(content["settings"], source)
