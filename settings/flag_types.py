"""Argparse types of flag values. They raise argparse.ArgumentTypeError, whose message says what would be right."""

from __future__ import annotations

import argparse
import math
import unicodedata
from collections.abc import Callable
from pathlib import Path


def number(kind: type, low: float, high: float = math.inf, open_low: bool = False, open_high: bool = False) -> Callable:
    """Returns an argparse type: a finite number of type `kind` (int or float) between bounds, inclusive unless open."""

    def check(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        above = value > low if open_low else value >= low
        below = value < high if open_high else value <= high
        if not (above and below and (kind is int or math.isfinite(value))):
            noun = "a whole number" if kind is int else "a number"
            bounds = f"{'above' if open_low else 'from'} {low:g}"
            if high != math.inf:
                bounds += f" {'to below' if open_high else 'to'} {high:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is not {noun} {bounds}")
        return value

    return check


def one_of(*choices: str) -> Callable:
    """Returns an argparse type: one of `choices`, in upper or lower case."""

    def check(text: str) -> str:
        for choice in choices:
            if text.lower() == choice.lower():
                return choice
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}")

    return check


def channels(text: str) -> int:
    """Argparse type: 1 or 3."""
    if text not in ("1", "3"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither 1 nor 3")
    return int(text)


def image_size(text: str) -> int | list[int]:
    """Argparse type: the side of a square in pixels, or height,width. Returns an int if both sides are equal."""
    side = number(int, 1, 4096)
    sides = [side(part) for part in text.split(",")]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a side such as 224 nor height,width such as 128,256")
    return sides[0] if len(set(sides)) == 1 else sides


def milestones(text: str) -> list[int]:
    """Argparse type: increasing epoch numbers from 1, separated by commas."""
    try:
        epochs = [int(part) for part in text.split(",")]
    except ValueError:
        epochs = []
    if not epochs or epochs[0] < 1 or epochs != sorted(set(epochs)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of growing epochs such as 60,120,160")
    return epochs


def fold(text: str) -> str:
    """Argparse type: I/K, the I-th of K folds, from 1 to K; K from 2 to 100."""
    number, slash, count = text.partition("/")
    digits = number.isascii() and number.isdigit() and count.isascii() and count.isdigit()
    if not (slash and digits and 2 <= int(count) <= 100 and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no fold such as 1/5, the first of five")
    return f"{int(number)}/{int(count)}"


def kept(text: str) -> str:
    """Argparse type: best:N or every:N, N from 1."""
    rule, _, count = text.partition(":")
    if rule not in ("best", "every") or not (count.isascii() and count.isdigit() and int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither best:N, such as best:3, nor every:N")
    return f"{rule}:{int(count)}"


def text(value: str) -> str:
    """Argparse type: any text that is not blank, as an unset shell variable would be."""
    if not value.strip():
        raise argparse.ArgumentTypeError("is empty")
    return value


def path(value: str) -> str:
    """Argparse type: a file or folder. A leading `~` is expanded to the home folder."""
    if not text(value).startswith("~"):
        return value
    try:
        return str(Path(value).expanduser())
    except RuntimeError:
        raise argparse.ArgumentTypeError(
            f"{value!r}: there is no such home folder; ./{value} is a name in this one"
        ) from None


def class_names(text: str) -> list[str]:
    """Argparse type: names separated by commas, or a file with a name on each line."""
    try:
        file = Path(path(text))
        names = file.read_text(encoding="utf-8").splitlines() if file.is_file() else text.split(",")
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read ({error})") from None
    names = [unicodedata.normalize("NFC", name.strip()) for name in names if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names no class")
    return names


def key_value(text: str) -> tuple[str, str]:
    """Argparse type: name=value, as a pair."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=value")
    return key, value


def plain_name(text: str) -> str:
    """Argparse type: the name of a folder below --runs-dir, or of nested folders; at most 200 characters."""
    parts = text.split("/")
    if len(text) > 200 or any(part.strip() in ("", ".", "..") for part in parts) or "\0" in text or "\n" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a name for a folder")
    return text


def counts(text: str) -> list[int]:
    """Argparse type: whole numbers from 1, separated by commas."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = [0]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers from 1, such as 64,128,256")
    return values


FRACTION = number(float, 0, 1, open_high=True)
PROBABILITY = number(float, 0, 1)
POSITIVE = number(float, 0, open_low=True)
COUNT = number(int, 1)


def count_or_auto(text: str) -> int | str:
    """Argparse type: a whole number from 1, or auto."""
    return "auto" if text.lower() == "auto" else COUNT(text)


def interval(text: str) -> str:
    """Argparse type: a whole number of steps such as 500, or of seconds such as 600s."""
    number, unit = text.rstrip("s"), text[len(text.rstrip("s")) :]
    if not number.isascii() or not number.isdigit() or int(number) < 1 or unit not in ("", "s"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of steps such as 500 nor of seconds such as 600s"
        )
    return f"{int(number)}{unit}"
