"""Flags as dataclass fields: a field is a flag, a frozen dataclass a group, an object of groups a command line.

A field has the type of its final value. A flag without a default is None until that is known.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

TRAIN, EVALUATE, MEASURE, PREDICT = "train", "evaluate", "measure", "predict"
LIST, SUMMARY, INSPECT, AVERAGE = "list", "summary", "inspect", "average"
EVERY_RUN = (TRAIN, EVALUATE, AVERAGE)
EVERY_READER = (TRAIN, EVALUATE, INSPECT)  # modes that read a data set's images
EVERY_USER = (TRAIN, EVALUATE, PREDICT, MEASURE, AVERAGE)  # modes that run a model
EVERY_BUILDER = (TRAIN, EVALUATE, SUMMARY)  # modes that build a new model
EVERY_AUGMENTER = (TRAIN, INSPECT)


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: without the leading hyphens; words are joined by hyphens.
        key: name of the setting.
        default: value if the flag is not given. If None, `default_text` says what happens.
        check: parses the text, or raises argparse.ArgumentTypeError. None for a switch.
        aliases: further names, without the leading hyphens.
        negatable: the switch also has a --no- form.
        modes: modes of main.py in which the flag has an effect.
        may_change: a resumed run accepts another value, as its results do not depend on it.
        nargs: as in argparse; with "+", repeating the flag adds values.
        const: value of a flag with nargs "?" that is given without one.
        positional: given as a bare word, without its name.
        variable: environment variable that replaces the default if it is set.
    """

    name: str
    key: str
    help: str
    default: Any = None
    default_text: str = ""
    check: Callable[[str], Any] | None = None
    metavar: str | tuple[str, ...] | None = None
    aliases: tuple[str, ...] = ()
    negatable: bool = False
    modes: tuple[str, ...] = (TRAIN,)
    may_change: bool = False
    nargs: str | None = None
    const: Any = None
    positional: bool = False
    variable: str | None = None


def flag(help: str, default: Any = None, *, name: str | None = None, **more: Any) -> Any:
    """Returns a dataclass field that declares a flag.

    Args:
        name: by default the field's, with hyphens for underscores.
        more: further attributes of `Flag`.
    """
    return dataclasses.field(default=default, metadata={"flag": {"help": help, "name": name, **more}})


def same_flag(group: type, key: str, **changes: Any) -> Any:
    """Returns a dataclass field that repeats the flag `key` of another group, with some attributes changed."""
    field = next(field for field in dataclasses.fields(group) if field.name == key)
    default = changes.pop("default", field.default)
    return dataclasses.field(default=default, metadata={"flag": {**field.metadata["flag"], **changes}})


def flags_of_group(group: type) -> list[Flag]:
    """Returns the flags of a group, in the order of its fields."""
    flags = []
    for field in dataclasses.fields(group):
        attributes = dict(field.metadata["flag"])
        name = attributes.pop("name") or field.name.replace("_", "-")
        default = list(field.default) if isinstance(field.default, tuple) else field.default  # fields take no list
        flags.append(Flag(name, field.name, default=default, **attributes))
    return flags


G = TypeVar("G", bound="Groups")


class Groups:
    """Base of frozen dataclasses whose fields are groups of flags. Keys are unique across the groups."""

    @classmethod
    def group_types(cls) -> dict[str, type]:
        """Returns the class of each group, by field name."""
        return {field.name: field.default_factory for field in dataclasses.fields(cls)}  # type: ignore[arg-type]

    @classmethod
    def titles(cls) -> dict[str, list[Flag]]:
        """Returns the flags of each group by its title in --help, which is the docstring of its class."""
        return {(group.__doc__ or "").strip(): flags_of_group(group) for group in cls.group_types().values()}

    @classmethod
    @functools.cache
    def flags(cls) -> dict[str, Flag]:
        """Returns all flags, by key."""
        return {flag.key: flag for flags in cls.titles().values() for flag in flags}

    @classmethod
    def of(cls: type[G], values: Mapping[str, Any]) -> G:
        """Builds the groups from values by key. Missing values get their defaults; unknown keys are ignored."""
        groups = {}
        for name, group in cls.group_types().items():
            groups[name] = group(**{f.name: values[f.name] for f in dataclasses.fields(group) if f.name in values})
        return cls(**groups)

    def flat(self) -> dict[str, Any]:
        """Returns all values by key, as in settings.json."""
        return {key: value for group in vars(self).values() for key, value in vars(group).items()}

    def replace(self: G, **values: Any) -> G:
        """Returns a copy with these values, by key. Raises KeyError for an unknown key."""
        unknown = values.keys() - self.flags().keys()
        if unknown:
            raise KeyError(*unknown)
        return self.of({**self.flat(), **values})


def with_defaults(given: Mapping[str, Any], flags: Mapping[str, Flag]) -> dict[str, Any]:
    """Returns values by key: the given one, else that of the environment variable, else the default."""
    defaults = {key: os.environ.get(flag.variable or "", "") or flag.default for key, flag in flags.items()}
    return {**defaults, **given}
