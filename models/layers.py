"""What several architectures share: the kinds of arguments that become flags, and the choice of a stem.

A constructor's arguments are its flags: `list_models` and `--help` read their names, their kinds (one of those below,
``bool``, or a ``Literal``) and their defaults from the source text, and their help from the docstrings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from utils import BadRequest, sides

Count = int  # a whole number from 1
Counts = tuple[int, ...]  # whole numbers from 1
Fraction = float  # from 0 to below 1
Positive = float  # above 0
Pool = Literal["token", "mean"]
Stem = Literal["auto", "cifar", "imagenet"]

STEMS = get_args(Stem)


def choose_stem(stem: str, img_size: int | Sequence[int]) -> str:
    """Resolves "auto": "cifar" if the shorter side has at most 64 px, else "imagenet".

    Raises BadRequest for a stem that is none of STEMS.
    """
    if stem not in STEMS:
        raise BadRequest(f"stem {stem!r} is none of {', '.join(STEMS)}")
    if stem == "auto":
        return "cifar" if min(sides(img_size)) <= 64 else "imagenet"
    return stem
