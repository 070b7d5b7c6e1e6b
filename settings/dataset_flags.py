"""The flags that name a data set, in the form in which a run stores them."""

from __future__ import annotations

import ast
from typing import Any

from image_datasets.registry import split_place
from utils import BadRequest


def settle_dataset(given: dict[str, Any]) -> dict[str, Any]:
    """Returns the given flags with ``csv/FILE`` as --dataset csv --datapath FILE, and --dataset-arg as a dict.

    So --datapath alone names the data if they have moved, whatever their form. Raises BadRequest if both name a place,
    or an argument is given twice.
    """
    if given.get("dataset") is not None:
        name, place = split_place(given["dataset"])
        if place is not None:
            if "data_path" in given:
                raise BadRequest(f"--dataset {given['dataset']} names its place already: leave out --datapath")
            given = {**given, "dataset": name, "data_path": place}
    if given.get("dataset_args"):
        arguments: dict[str, Any] = {}
        for key, text in given["dataset_args"]:
            if key in arguments:
                raise BadRequest(f"--dataset-arg {key}: given twice")
            arguments[key] = literal(text)
        given = {**given, "dataset_args": arguments}
    return given


def literal(text: str) -> Any:
    """The value of a Python literal such as 0.1, true or 'name'; any other text as it is."""
    try:
        return ast.literal_eval(text.capitalize() if text in ("true", "false", "none") else text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
