"""The arguments of a model's constructor, read from source text, so that `--help` imports nothing heavy.

A constructor's arguments beyond `num_classes`, `img_size` and `in_chans` become flags of its architecture, if their
annotation is one of the kinds in models/layers.py, ``bool`` or a ``Literal`` of words. Their help is what the
docstrings of the constructor, or of the classes and functions in its file, say below "Args:".
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

BASIC = ("num_classes", "img_size", "in_chans")  # these come from the data set
KINDS = ("Count", "Counts", "Fraction", "Positive", "bool")
REQUIRED = object()  # the default of an argument that has none


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor.

    Attributes:
        kind: one of KINDS, "Literal", or "other": no flag, but --model-arg sets it.
        choices: the words of a Literal.
        help: empty if no docstring describes it.
    """

    name: str
    kind: str
    default: Any
    help: str = ""
    choices: tuple[str, ...] = ()


def read_arguments(constructor: ast.FunctionDef | ast.ClassDef, module: ast.Module) -> tuple[Argument, ...]:
    """The arguments of a class or function defined in `module`, without the basic ones.

    The default of an argument that has none is REQUIRED; one that is no literal stays an `ast.expr`. Raises ValueError
    for a class without an `__init__` of its own.
    """
    nodes = constructor.body if isinstance(constructor, ast.ClassDef) else [constructor]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    function = next((node for node in functions if node.name in ("__init__", constructor.name)), None)
    if function is None:
        raise ValueError(f"{constructor.name} has no __init__ of its own")
    described = _described(constructor, module)
    positional, optional = function.args.args, function.args.defaults
    pairs = list(zip(positional, [None] * (len(positional) - len(optional)) + optional, strict=True))
    pairs += zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    arguments = []
    for arg, default in pairs:
        if arg.arg not in ("self", *BASIC):
            kind, choices = _kind(arg.annotation, module)
            value = REQUIRED if default is None else literal(default)
            arguments.append(Argument(arg.arg, kind, value, described.get(arg.arg, ""), choices))
    return tuple(arguments)


def variant_arguments(
    name: str, arguments: Sequence[Argument], values: dict[str, Any], takes: Sequence[str] | None
) -> tuple[Argument, ...]:
    """The arguments that the variant `name` takes, with its own defaults.

    Args:
        arguments: those of its constructor.
        values: the variant's own; they replace the defaults of the arguments that it takes, and fix the others.
        takes: names of the arguments that it takes; None: all with a default in the constructor's signature.

    Raises ValueError, naming variant and argument, for a name that is no argument, an argument without a value, and a
    default that is no literal.
    """
    known = {argument.name for argument in arguments}
    if unknown := [key for key in (*values, *(takes or ())) if key not in known]:
        raise ValueError(f"{name}: its constructor has no argument {unknown[0]}")
    taken = []
    for argument in arguments:
        default = values.get(argument.name, argument.default)
        if default is REQUIRED:
            raise ValueError(f"{name}: its argument {argument.name} needs a value")
        if argument.name in takes if takes is not None else argument.default is not REQUIRED:
            if isinstance(default, ast.expr):
                raise ValueError(f"{name}: its argument {argument.name} needs a literal as its default")
            taken.append(replace(argument, default=default))
    return tuple(taken)


def literal(node: ast.expr) -> Any:
    """The value of a literal; any other expression as it is."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return node


def _kind(annotation: ast.expr | None, module: ast.Module) -> tuple[str, tuple[str, ...]]:
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.right, ast.Constant):  # "Count | None"
        annotation = annotation.left
    if isinstance(annotation, ast.Name):
        if annotation.id in KINDS:
            return annotation.id, ()
        aliases = {
            getattr(node.targets[0], "id", None): node.value
            for node in [*_shared().body, *module.body]
            if isinstance(node, ast.Assign)
        }
        annotation = aliases.get(annotation.id)
    if isinstance(annotation, ast.Subscript) and getattr(annotation.value, "id", None) == "Literal":
        words = ast.literal_eval(annotation.slice)
        return "Literal", words if isinstance(words, tuple) else (words,)
    return "other", ()


@functools.cache
def _shared() -> ast.Module:
    return ast.parse((Path(__file__).parent / "layers.py").read_text(encoding="utf-8"))


def _described(constructor: ast.FunctionDef | ast.ClassDef, module: ast.Module) -> dict[str, str]:
    """The help of each argument, from the docstrings of a file; the constructor's own docstring comes first."""
    texts: dict[str, str] = {}
    for node in [constructor, *(node for node in module.body if isinstance(node, (ast.ClassDef, ast.FunctionDef)))]:
        _, found, section = (ast.get_docstring(node) or "").partition("Args:\n")
        if not found:
            continue
        section = re.split(r"\n(?=\S)", section)[0]  # up to the first line that is not indented
        for entry in re.split(r"\n(?= {4}\w)", "\n" + section):
            names, colon, text = entry.strip().partition(":")
            if colon and re.fullmatch(r"\w+(, \w+)*", names):
                for name in names.split(", "):
                    texts.setdefault(name, " ".join(text.split()))
    return texts
