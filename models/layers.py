"""Pieces that several architectures share."""

from __future__ import annotations

STEMS = ("auto", "cifar", "imagenet")


def choose_stem(stem: str, img_size: int) -> str:
    """The form that `stem` stands for: with "auto" the CIFAR form up to 64 px and the ImageNet form above.

    Raises ValueError for a stem that is none of STEMS.
    """
    if stem not in STEMS:
        raise ValueError(f"stem {stem!r} is none of {', '.join(STEMS)}")
    if stem == "auto":
        return "cifar" if img_size <= 64 else "imagenet"
    return stem
