"""Arrays in a file beside the data, or in the user's cache folder if that is read-only."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from utils import replacing


def places(root: Path, file: str) -> list[Path]:
    """Where arrays about the data below `root` may be kept, best place first.

    Args:
        file: name of the file beside the data, ``.KIND.npz``.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111
    name = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=8).hexdigest()
    return [root / file, home / Path(file).stem.lstrip(".") / f"{name}.npz"]


def save(root: Path, file: str, **arrays: np.ndarray | int) -> None:
    """Writes arrays to the first of `places` that takes them. If none does, the next run computes them again."""
    for place in places(root, file):
        try:
            if place.parent != root:
                place.parent.mkdir(parents=True, exist_ok=True)
            with replacing(place) as temporary, temporary.open("wb") as opened:
                np.savez(opened, **arrays)  # type: ignore[arg-type]
            return
        except OSError:  # read-only or full
            continue


def pack(texts: Iterable[str]) -> np.ndarray:
    """Texts without NUL as one array of bytes."""
    return np.frombuffer("\0".join(texts).encode("utf-8", "surrogateescape"), np.uint8)


def unpack(array: np.ndarray) -> list[str]:
    """Inverse of `pack`, for at least one text."""
    return array.tobytes().decode("utf-8", "surrogateescape").split("\0")
