"""Classes of unequal size: their weights in the loss, and whether scores of each class are worth a look."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from utils import BadRequest, shorten, suggestion

MUCH = 2  # the largest class has so many times the images of the smallest


def differ_much(targets: np.ndarray) -> bool:
    """Whether the classes that have images, given as class indices (N,), differ much in their number."""
    counts = np.unique(targets, return_counts=True)[1]
    return bool(counts.max() >= MUCH * counts.min())


def class_weights(given: str | None, targets: np.ndarray, class_names: Sequence[str]) -> np.ndarray | None:
    """Returns the weight of each class, float32 (K,), with a mean of 1 over the images; None if none are given.

    Args:
        given: "balanced", inverse to the number of images as in scikit-learn's `compute_class_weight`; or a CSV file
            with the columns class, weight.
        targets: class indices of the training images, (N,).

    Raises BadRequest, naming the file, if it does not give each class one weight.
    """
    if given is None:
        return None
    counts = np.bincount(targets, minlength=len(class_names))
    weights = 1 / np.maximum(counts, 1) if given == "balanced" else _read(Path(given), class_names)
    return (weights * len(targets) / (weights * counts).sum()).astype(np.float32)


def on_device(weights: Sequence[float] | None, device: torch.device) -> torch.Tensor | None:
    """Returns weights of classes as float32 (K,)."""
    return None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)


def _read(file: Path, class_names: Sequence[str]) -> np.ndarray:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadRequest(f"--class-weights {file}: cannot be read ({error})") from None
    if not rows or rows[0] != ["class", "weight"]:
        raise BadRequest(f"--class-weights {file}: its first line is not class,weight")
    found: dict[str, float] = {}
    for number, row in enumerate(rows[1:], 2):
        name, weight = row[0], _number(row[1]) if len(row) == 2 else None
        if weight is None:
            raise BadRequest(f"--class-weights {file}: row {number} is no class with a weight above 0: {','.join(row)}")
        if name not in class_names:
            raise BadRequest(f"--class-weights {file}: there is no class {name!r}.{suggestion(name, class_names)}")
        if name in found:
            raise BadRequest(f"--class-weights {file}: {name} has two weights")
        found[name] = weight
    if missing := [name for name in class_names if name not in found]:
        raise BadRequest(f"--class-weights {file}: no weight for {shorten(missing, 3)}")
    return np.array([found[name] for name in class_names])


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
