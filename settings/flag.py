"""A flag is a field of a frozen dataclass. The class is a group of flags, and a script's request has several groups.

The type of a field is what it has once it is settled: a flag without a default is None until then.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

TRAIN, EVALUATE, MEASURE, PREDICT = "train", "evaluate", "measure", "predict"
LIST, SUMMARY, INSPECT = "list", "summary", "inspect"
EVERY_RUN = (TRAIN, EVALUATE)
EVERY_READER = (TRAIN, EVALUATE, INSPECT)  # of a data set's images
EVERY_USER = (TRAIN, EVALUATE, PREDICT, MEASURE)  # of a model
EVERY_BUILDER = (TRAIN, SUMMARY)  # of a model
EVERY_AUGMENTER = (TRAIN, INSPECT)


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: without the leading hyphens, words joined by hyphens.
        key: its name among the settings.
        default: the value when it is not given; None: `default_text` says what happens then.
        check: turns the given text into the value, or raises argparse.ArgumentTypeError. None: a switch.
        negatable: a switch that also has a --no- form.
        modes: the requests of main.py for which the flag has an effect.
        may_change: a resumed run may be given another value, as its results do not depend on it.
        nargs: as in argparse; with "+" a flag that is given again adds to its values.
        const: with nargs "?", the value when it is given without one.
        positional: given as a bare word, without its name.
        variable: an environment variable that replaces the default if it is set.
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
    """A dataclass field that is a flag.

    Args:
        name: if it is not the field's, with hyphens for underscores.
        more: further attributes of `Flag`.
    """
    return dataclasses.field(default=default, metadata={"flag": {"help": help, "name": name, **more}})


def same_flag(group: type, key: str, **changes: Any) -> Any:
    """A dataclass field that is the flag `key` of another group, with some attributes changed."""
    field = next(field for field in dataclasses.fields(group) if field.name == key)
    default = changes.pop("default", field.default)
    return dataclasses.field(default=default, metadata={"flag": {**field.metadata["flag"], **changes}})


def flags_of_group(group: type) -> list[Flag]:
    """The flags of a group, in the order of its fields."""
    flags = []
    for field in dataclasses.fields(group):
        attributes = dict(field.metadata["flag"])
        name = attributes.pop("name") or field.name.replace("_", "-")
        default = list(field.default) if isinstance(field.default, tuple) else field.default  # a field takes no list
        flags.append(Flag(name, field.name, default=default, **attributes))
    return flags


G = TypeVar("G", bound="Groups")


class Groups:
    """Base of frozen dataclasses whose fields are groups of flags; no two groups have a flag of the same key."""

    @classmethod
    def group_types(cls) -> dict[str, type]:
        """The class of each group, by its field."""
        return {field.name: field.default_factory for field in dataclasses.fields(cls)}  # type: ignore[arg-type]

    @classmethod
    def titles(cls) -> dict[str, list[Flag]]:
        """The flags of each group, by the title that --help shows above them: its docstring."""
        return {(group.__doc__ or "").strip(): flags_of_group(group) for group in cls.group_types().values()}

    @classmethod
    @functools.cache
    def flags(cls) -> dict[str, Flag]:
        """All flags by key."""
        return {flag.key: flag for flags in cls.titles().values() for flag in flags}

    @classmethod
    def of(cls: type[G], values: Mapping[str, Any]) -> G:
        """An object with these values by key, and defaults for the others. Keys of no flag are ignored."""
        groups = {}
        for name, group in cls.group_types().items():
            groups[name] = group(**{f.name: values[f.name] for f in dataclasses.fields(group) if f.name in values})
        return cls(**groups)

    def flat(self) -> dict[str, Any]:
        """All values by key, as settings.json holds them."""
        return {key: value for group in vars(self).values() for key, value in vars(group).items()}

    def replace(self: G, **values: Any) -> G:
        """A copy with other values by key. Raises KeyError for a key of no flag."""
        unknown = values.keys() - self.flags().keys()
        if unknown:
            raise KeyError(*unknown)
        return self.of({**self.flat(), **values})


def with_defaults(given: Mapping[str, Any], flags: Mapping[str, Flag]) -> dict[str, Any]:
    """Values by key: what is given, else what the environment says, else the default."""
    defaults = {key: os.environ.get(flag.variable or "", "") or flag.default for key, flag in flags.items()}
    return {**defaults, **given}
