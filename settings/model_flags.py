"""Flags of single architectures, made from the arguments of their constructors."""

from __future__ import annotations

import argparse
from typing import Any

import models
from models.arguments import BASIC, Argument
from settings.dataset_flags import literal
from settings.flag import EVERY_BUILDER, Flag
from settings.flag_types import COUNT, FRACTION, POSITIVE, counts, one_of
from utils import BadRequest, shorten

CHECKS = {"Count": COUNT, "Counts": counts, "Fraction": FRACTION, "Positive": POSITIVE}
METAVARS = {"Literal": "WORD", "Count": "N", "Counts": "N,N,...", "Fraction": "X", "Positive": "X"}
# Constructor arguments of timm and torchvision that another flag covers or the suite sets itself.
RESERVED = {"name", "pretrained", "weights", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir",
            "image_size", "progress", "features_only", "init_weights", "aux_logits", "transform_input"}  # fmt: skip


def flags_of(model: str | None) -> dict[str, Flag]:
    """Returns the flags of an architecture by argument name; with None, those of all architectures.

    Models of timm and torchvision have none: --model-arg reaches their arguments.
    """
    entry = None if model is None else models.find_model(model)
    arguments = models.all_arguments() if model is None else {a.name: a for a in entry.arguments} if entry else {}
    return {name: _flag(argument) for name, argument in arguments.items() if argument.kind != "other"}


def _flag(argument: Argument) -> Flag:
    check = one_of(*argument.choices) if argument.kind == "Literal" else CHECKS.get(argument.kind)
    text = argument.help.rstrip(".") or f"the constructor's argument {argument.name}"
    if not all(choice in text for choice in argument.choices):
        text += f": {', '.join(argument.choices)}"
    default = ",".join(map(str, argument.default)) if argument.kind == "Counts" else argument.default
    return Flag(argument.name.replace("_", "-"), argument.name, text, default=default, check=check,
                metavar=METAVARS.get(argument.kind), default_text="by image size", negatable=check is None,
                modes=EVERY_BUILDER)  # fmt: skip


def settle(model: str, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of the model's constructor by name: defaults, replaced by given flags and --model-arg.

    For models of timm and torchvision only given arguments are known.

    Raises BadRequest, naming the flag, for an argument that the model does not take, the suite sets, or is given twice.
    """
    entry = models.find_model(model)
    own = {argument.name: argument for argument in entry.arguments} if entry else {}
    settled = models.default_arguments(model)
    for key in given:
        if key not in models.all_arguments():
            continue
        if key not in own:
            raise BadRequest(f"--{key.replace('_', '-')} has no effect: {_refusal(model, key, entry is None)}")
        settled[key] = given[key]
    seen = set()
    for key, text in given.get("model_args", []):
        if key in BASIC:
            raise BadRequest(f"--model-arg {key}: the data set, --img-size and --in-chans say that")
        if key in RESERVED and key not in own:
            raise BadRequest(
                f"--model-arg {key}: cannot be set; --model, --pretrained and --weights say what is loaded"
            )
        if key in given or key in seen:
            raise BadRequest(f"--model-arg {key}: given twice")
        if entry and key not in own:
            takes = f"it takes {', '.join(own)}" if own else "it takes none"
            raise BadRequest(f"--model-arg {key}: {model} has no such argument; {takes}")
        settled[key] = _value(text, own.get(key))
        seen.add(key)
    # Lists for tuples, as settings.json returns them.
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settled.items()}


def _refusal(model: str, key: str, library: bool) -> str:
    if library:
        return f"it belongs to models of this suite; --model-arg reaches the arguments of {model}"
    entries = ((name, models.find_model(name)) for name in models.list_models())
    owners = [name for name, entry in entries if entry is not None and entry.argument(key)]
    return f"{model} has no such argument; it belongs to {shorten(owners)}"


def _value(text: str, argument: Argument | None) -> Any:
    """Parses the value of an argument, with the check of its flag if it has one."""
    flag = None if argument is None or argument.kind == "other" else _flag(argument)
    if flag is not None and flag.check is not None:
        try:
            return flag.check(text)
        except argparse.ArgumentTypeError as error:
            raise BadRequest(f"--model-arg {flag.key}: {error}") from None
    value = literal(text)
    if argument is not None and argument.kind == "bool" and not isinstance(value, bool):
        raise BadRequest(f"--model-arg {argument.name}: {text!r} is neither true nor false")
    return value
