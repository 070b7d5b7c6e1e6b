"""The state of a run is one object; a checkpoint is that object, the settings and the class names."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.weights import read_checkpoint
from training import earlier
from training.metrics import Totals
from training.optim import ModelEMA
from utils import BadRequest, replacing

FORMAT = 2  # 2: the settings hold all of the model's arguments


@dataclass
class RunState:
    """Everything that changes while a run trains.

    Attributes:
        epoch, batch: position: finished epochs, and batches of the current one.
        step: optimiser steps taken.
        totals: sums over the current epoch so far.
        history: one row of numbers for each finished epoch.
        best: of the best epoch so far "epoch", "weights" ("raw" or "ema"), and where there is a validation split "top1"
            on it and "score", the rank among the epochs; empty before the first.
        train_seconds: time spent in training steps and validation.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    totals: Totals
    ema: ModelEMA | None = None
    scaler: torch.amp.GradScaler | None = None
    epoch: int = 0
    batch: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    train_seconds: float = 0.0

    PLAIN = ("epoch", "batch", "step", "history", "best", "train_seconds")

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.model.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "totals": self.totals.sums.cpu(),
            **{name: getattr(self, name) for name in self.PLAIN},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.model.load_state_dict(state["ema"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.totals.sums.copy_(state["totals"])
        for name in self.PLAIN:
            setattr(self, name, state[name])


def save_checkpoint(path: Path, state: RunState, settings: dict[str, Any], data: dict[str, Any]) -> None:
    """Writes the whole checkpoint, or leaves what was there.

    Args:
        data: class_names, mean, std and so on: what using the model on other images takes.
    """
    content = {"format": FORMAT, **state.state_dict(), "settings": settings, **data}
    with replacing(path) as temporary:
        torch.save(content, temporary)


def copy_checkpoint(source: Path, target: Path) -> None:
    """`target` becomes a second name of the same file, where the file system has that, else a copy. Checkpoints are
    replaced, never changed, so the two cannot get mixed up."""
    with replacing(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of this suite, or one of the earlier form in its shape; class names that it does not hold are None.
    Raises BadRequest, naming the file, for anything else."""
    content = read_checkpoint(path)
    if earlier.is_earlier(content):
        return earlier.convert(path, content)
    needed = (
        "format",
        "model",
        "settings",
        "class_names",
        "mean",
        "std",
        "img_size",
        "in_chans",
        "eval_crop",
        "selected_on",
        "best",
    )
    missing = [key for key in needed if key not in content]
    if missing:
        raise BadRequest(f"{path}: not a checkpoint of this suite (it has no {missing[0]!r}); --weights takes others")
    if content["format"] != FORMAT:
        raise BadRequest(f"{path}: is of checkpoint format {content['format']}, this version reads {FORMAT}")
    return content


def is_checkpoint(path: Path) -> bool:
    """Whether the file says how its model was trained: it is more than weights. Raises BadRequest for a damaged one."""
    content = read_checkpoint(path)
    return "settings" in content or earlier.is_earlier(content)


def settle_classes(path: str, content: dict[str, Any], class_names: list[str], name: str) -> None:
    """Checks that a checkpoint has these classes, of the data set `name`; one without names gets them.

    Raises BadRequest that tells what differs.
    """
    theirs, count = content["class_names"], num_classes(content)
    if count != len(class_names):
        raise BadRequest(f"{path}: has {count} classes, {name} has {len(class_names)}")
    if theirs is None:
        content["class_names"] = theirs = list(class_names)
    if list(theirs) != list(class_names):
        i = next(i for i, pair in enumerate(zip(theirs, class_names, strict=True)) if pair[0] != pair[1])
        raise BadRequest(f"{path}: has other classes than {name} (class {i}: {theirs[i]!r}, {class_names[i]!r})")


def num_classes(content: dict[str, Any]) -> int:
    return content["num_classes"] if content["class_names"] is None else len(content["class_names"])


def selected_weights(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict, raw or averaged, that a checkpoint was selected for."""
    return content["ema"] if content["best"].get("weights") == "ema" else content["model"]


def resume(state: RunState, path: Path) -> None:
    """Puts `state` where the checkpoint at `path` left it. Raises BadRequest if it is of another run."""
    content = load_checkpoint(path)
    try:
        state.load_state_dict(content)
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadRequest(f"{path}: does not fit the settings of this run ({reason})") from None
