"""Tables of flags: their form in TOML files, and as the words of a command line.

dataset = "digits"       # names without leading hyphens; hyphens and underscores are the same
rand = true              # a switch
widths = [16, 32, 64]    # several values
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from settings import model_flags
from settings.dataset_flags import split_place
from settings.flag import TRAIN, Flag
from settings.groups import FLAGS
from utils import BadRequest, parse_toml, suggestion


def read_toml(file: Path) -> dict[str, Any]:
    """Returns the content of a TOML file. Raises BadRequest, naming the file."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise BadRequest(f"{file}: cannot be read ({reason})") from None
    try:
        return parse_toml(text)
    except ValueError as error:
        found = re.search(r"at line (\d+)", str(error))
        line = text.splitlines()[int(found[1]) - 1].strip() if found else ""
        raise BadRequest(f"{file}: is no TOML: {error}{f': {line}' if line else ''}") from None


def training_flags(titles: dict[str, list[Flag]]) -> dict[str, Flag]:
    """Returns a script's settings of training, by all of their names and aliases, with underscores.

    Args:
        titles: the script's flags, by their title in --help.
    """
    offered = [flag for flags in titles.values() for flag in flags if flag.key in FLAGS and TRAIN in flag.modes]
    offered += model_flags.flags_of(None).values()
    return {name.replace("-", "_"): flag for flag in offered for name in (flag.name, *flag.aliases)}


def read_table(
    place: str, table: Any, known: dict[str, Flag], refused: dict[str, str], switch_words: bool = False
) -> dict[str, Any]:
    """Returns a table's flags by key, with values for `as_words`. Raises BadRequest, naming the key.

    Args:
        place: where the table is, for errors.
        known: see `training_flags`.
        refused: by key, why the table cannot have a flag.
        switch_words: switches are the texts "true" and "false" too.
    """
    if not isinstance(table, dict):
        raise BadRequest(f"{place}: must be a table of flags")
    flags: dict[str, Any] = {}
    for name, value in table.items():
        flag = known.get(name.replace("-", "_"))
        if flag is None and isinstance(value, dict):
            raise BadRequest(f'{place}: {name}: is no flag; a name with a dot in it needs quotation marks, as "a-0.5"')
        if flag is None:
            names = [f"--{known_flag.name}" for known_flag in known.values()]
            raise BadRequest(f"{place}: unknown flag --{name}.{suggestion(f'--{name}'.replace('_', '-'), names)}")
        if flag.key in refused:
            raise BadRequest(f"{place}: {name}: {refused[flag.key]}")
        if flag.key in flags:
            raise BadRequest(f"{place}: {name}: given twice")
        flags[flag.key] = _value(f"{place}: {name}", value, flag, switch_words)
    form, path = split_place(str(flags.get("dataset", "")))
    if path is not None:
        if "data_path" in flags:
            raise BadRequest(f"{place}: dataset: {flags['dataset']} names its place already: leave out data-path")
        flags |= {"dataset": form, "data_path": path}
    return flags


def _value(place: str, value: Any, flag: Flag, switch_words: bool) -> Any:
    if flag.check is None:
        value = {"true": True, "false": False}.get(value, value) if switch_words else value
        if not isinstance(value, bool):
            raise BadRequest(f"{place}: is a switch: true or false")
        return value
    if value is True and flag.nargs == "?":  # a flag that is given without its value
        return value
    items = value if isinstance(value, list) else [value]
    if not items or any(isinstance(item, bool) or not isinstance(item, int | float | str) for item in items):
        raise BadRequest(f"{place}: its value is a number, a text, or a list of these")
    return value


def as_words(flags: dict[str, Any]) -> list[str]:
    """Flags by key as the words of a command line. Omits switches that are off and have no --no- form."""
    known = {**model_flags.flags_of(None), **FLAGS}
    result = []
    for key, value in flags.items():
        flag = known[key]
        if isinstance(value, bool):
            result += [f"--{flag.name}"] if value else [f"--no-{flag.name}"] if flag.negatable else []
        elif flag.nargs == "+":
            result += [f"--{flag.name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            # A value that begins with a hyphen must be in the same word as its flag.
            result += [f"--{flag.name}={text}"] if text.startswith("-") else [f"--{flag.name}", text]
    return result
