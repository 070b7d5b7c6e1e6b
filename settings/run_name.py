"""Names of runs that name settings: ``--run-name "{model}-lr{lr}"``."""

from __future__ import annotations

import argparse
import re
from typing import Any

from settings.flag_types import plain_name
from settings.groups import Settings
from utils import BadRequest, suggestion

# Settings that the data, or the file of --weights, decide if they are not given.
BY_DATA = ("data_rules", "exif_orientation", "img_size", "in_chans", "flip", "crop", "crop_padding", "val_fraction",
           "weights_kind")  # fmt: skip


def names_settings(name: str | None) -> bool:
    """Whether a name has braces."""
    return name is not None and re.search("[{}]", name) is not None


def fill(template: str, settings: Settings) -> str:
    """Returns the name of a run, with the values of the settings that the template names in braces.

    Args:
        settings: as the flags resolve them, before data and device are known.

    Raises BadRequest for an unknown setting, one that only data or device decide, and braces without a partner.
    """
    place = f"--run-name {template}"
    if not re.fullmatch(r"(?:[^{}]|\{[^{}]*\})*", template):
        raise BadRequest(f"{place}: a brace has no partner; {{lr}} is the value of --lr")
    values = {**settings.model.model_args, **settings.stored()}
    known = [key for key, value in values.items() if key != "run_name" and not isinstance(value, dict)]

    def value_of(match: re.Match[str]) -> str:
        key = match[1].replace("-", "_")
        if key not in known:
            raise BadRequest(f"{place}: {{{match[1]}}} is no setting.{suggestion(key, known)} It takes flags such as"
                             " {model}, {lr} and {seed}")  # fmt: skip
        if values[key] == "auto" or (values[key] is None and key in BY_DATA):
            raise BadRequest(f"{place}: {{{match[1]}}} is not known yet: data or device decide it, unless --"
                             f"{key.replace('_', '-')} is given")  # fmt: skip
        return _text(values[key]).replace("/", "_")

    name = re.sub(r"\{([^{}]*)\}", value_of, template)
    try:
        return plain_name(name)
    except argparse.ArgumentTypeError as error:
        raise BadRequest(f"{place}: {error}") from None


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "x".join(map(_text, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
