"""What a model's constructor can be asked for, read from source text: nothing heavy is imported to know the flags.

A registered function's arguments beyond `num_classes`, `img_size` and `in_chans` are flags of its architecture, where
their annotation is one of the kinds in models/layers.py, ``bool`` or a ``Literal`` of words. Their help is what the
docstrings of the function, or of the classes and functions in its file, say below "Args:".
"""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASIC = ("num_classes", "img_size", "in_chans")  # these come from the data set
KINDS = ("Count", "Counts", "Fraction", "Positive", "bool")


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor.

    Attributes:
        kind: one of KINDS, "Literal", or "other": such an argument is no flag, --model-arg reaches it.
        choices: the words of a Literal.
        help: empty where no docstring tells.
    """

    name: str
    kind: str
    default: Any
    help: str = ""
    choices: tuple[str, ...] = ()


def read_arguments(function: ast.FunctionDef, module: ast.Module) -> tuple[Argument, ...]:
    """The arguments of `function`, which stands in `module`, without the basic ones.

    Raises ValueError, naming function and argument, where one has no default or a default that is no literal.
    """
    names = function.args.args + function.args.kwonlyargs
    defaults = [None] * (len(function.args.args) - len(function.args.defaults)) + list(function.args.defaults)
    defaults += function.args.kw_defaults
    described = _described(function, module)
    found = []
    for arg, default in zip(names, defaults, strict=True):
        if arg.arg in BASIC:
            continue
        try:
            value = ast.literal_eval(default)
        except (ValueError, TypeError):
            raise ValueError(f"{function.name}: its argument {arg.arg} needs a literal as its default") from None
        kind, choices = _kind(arg.annotation, module)
        found.append(Argument(arg.arg, kind, value, described.get(arg.arg, ""), choices))
    return tuple(found)


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


def _described(function: ast.FunctionDef, module: ast.Module) -> dict[str, str]:
    """Argument names with what the docstrings say of them; the function's own comes before the others of its file."""
    texts: dict[str, str] = {}
    for node in [function, *(node for node in module.body if isinstance(node, (ast.ClassDef, ast.FunctionDef)))]:
        _, found, section = (ast.get_docstring(node) or "").partition("Args:\n")
        if not found:
            continue
        section = re.split(r"\n(?=\S)", section)[0]  # up to what is indented no longer
        for entry in re.split(r"\n(?= {4}\w)", "\n" + section):
            names, colon, text = entry.strip().partition(":")
            if colon and re.fullmatch(r"\w+(, \w+)*", names):
                for name in names.split(", "):
                    texts.setdefault(name, " ".join(text.split()))
    return texts
