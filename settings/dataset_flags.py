"""The flags that name a data set, in the form in which a run stores them, and how two choices of images differ."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import Any

from image_datasets.registry import is_form, split_place
from settings.flag_types import path
from utils import BadRequest


def settle_dataset(given: dict[str, Any]) -> dict[str, Any]:
    """Returns the given flags with ``csv/FILE`` as --dataset csv --datapath FILE, and --dataset-arg as a dict.

    So --datapath alone names the data if they have moved, whatever their form. Raises BadRequest if both name a place,
    or an argument is given twice.
    """
    name = given.get("dataset")
    if name is not None:
        form, place = split_place(name)
        if place is not None:
            if "data_path" in given:
                raise BadRequest(f"--dataset {name} names its place already: leave out --datapath")
            try:
                given = {**given, "dataset": form, "data_path": path(place)}
            except argparse.ArgumentTypeError as error:
                raise BadRequest(f"--dataset {name}: {error}") from None
    if given.get("dataset_args"):
        arguments: dict[str, Any] = {}
        for key, text in given["dataset_args"]:
            if key in arguments:
                raise BadRequest(f"--dataset-arg {key}: given twice")
            # Those of the other forms are names of folders and configurations, such as 2024_01.
            arguments[key] = literal(text) if str(name).startswith("torchvision/") else text
        given = {**given, "dataset_args": arguments}
    return given


def literal(text: str) -> Any:
    """The value of a Python literal such as 0.1, true or 'name'; any other text as it is."""
    try:
        return ast.literal_eval(text.capitalize() if text in ("true", "false", "none") else text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def comparable(key: str, value: Any) -> Any:
    """A setting, so that values with the same effect are equal.

    The order of --classes has no effect, the folder of a list's files may have moved, and --ema 0 is none.
    """
    if key == "ema":
        return value or None
    if key == "classes":
        return value and sorted(value)
    if key == "dataset_args":
        return {name: str(item) for name, item in (value or {}).items() if name != "root"}
    return value


def other_place(dataset: str | None, stored: str | None, asked: str | None) -> bool:
    """Whether ``csv/FILE`` and the like name another data set than a run's. The same name elsewhere has moved."""
    return dataset is not None and is_form(dataset) and Path(str(stored)).name != Path(str(asked)).name
