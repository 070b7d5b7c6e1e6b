"""Pieces that several architectures share."""

from __future__ import annotations

STEMS = ("auto", "cifar", "imagenet")


def choose_stem(stem: str, img_size: int) -> str:
    """ "auto" means the CIFAR form for images up to 64 px and the ImageNet form above. Raises ValueError otherwise."""
    if stem not in STEMS:
        raise ValueError(f"stem {stem!r} is none of {', '.join(STEMS)}")
    if stem == "auto":
        return "cifar" if img_size <= 64 else "imagenet"
    return stem
