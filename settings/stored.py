"""Validates the settings in a settings.json, summary.json or checkpoint, and attributes errors to that file."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models
from records.stored_settings import check_needed
from settings import model_flags
from settings.flag import Flag
from settings.flag_types import class_names, path
from settings.groups import FLAGS
from utils import BadRequest, read_json

PATHS = {  # settings that name files a run reads, and advice if they are gone
    "data_path": "--datapath PATH names where the data are now",
    "cache_dir": "--cache-dir PATH names where the copy is now",
    "weights": "the file must lie there as it did",
    "teacher_weights": "the file must lie there as it did",
}


def read_run_file(file: Path) -> dict[str, Any]:
    """Reads the settings.json of a training run; `complete_older` completes its "settings".

    Raises BadRequest, naming the file, if it is damaged, or that of an evaluation.
    """
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise BadRequest(f'{file}: damaged (no object with "settings")')
    if {"evaluated", "averaged"} & content["settings"].keys():
        raise BadRequest(f"{file}: {file.parent} holds an evaluation or an average, not a training run")
    check_settings(content["settings"], file)
    return content


def check_settings(settings: Any, source: object) -> None:
    """Raises BadRequest, naming `source`, if a required setting is missing or a value is not one the flag accepts."""
    check_needed(settings, source)
    built_with = settings["model_args"]
    for key, value in settings.items():
        if key in FLAGS and key not in ("model_args", "dataset_args") and not _is_value(FLAGS[key], value):
            raise BadRequest(f"{source}: damaged (its {key} is {value!r:.80})")
    for key, value in (("model_args", built_with), ("dataset_args", settings.get("dataset_args") or {})):
        if not isinstance(value, dict):
            raise BadRequest(f"{source}: damaged (its {key} are {value!r:.80})")
    models.check_name(settings["model"])
    for key, flag in model_flags.flags_of(settings["model"]).items():
        if key in built_with and not _is_value(flag, built_with[key]):
            raise BadRequest(f"{source}: damaged (its model_args: {key} is {built_with[key]!r:.80})")


@contextlib.contextmanager
def blaming(source: object, values: dict[str, Any]) -> Iterator[None]:
    """Within the block, a BadRequest about a value that comes from `source` says so.

    Args:
        source: the file that stores the values.
        values: settings that come from that file, by key.
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
    """Whether the flag accepts the value, or it is the default."""
    if value is None or flag.check is None:
        is_switch = isinstance(value, bool) or (flag.key == "extend" and isinstance(value, int))
        return flag.default is None if value is None else is_switch
    if flag.nargs == "+":
        return isinstance(value, list) and all(_is_value(dataclasses.replace(flag, nargs=None), item) for item in value)
    if flag.check is path:  # earlier versions stored ~ unexpanded
        return isinstance(value, str) and bool(value.strip())
    if flag.check is class_names:  # a name may hold a comma
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    if isinstance(value, (bool, dict)):
        return False
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    try:
        return _plain(flag.check(text)) == _plain(value)
    except (argparse.ArgumentTypeError, ValueError):
        return False


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
