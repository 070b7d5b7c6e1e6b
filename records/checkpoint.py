"""The state of a run is one object; a checkpoint is that object, the settings and the class names."""

from __future__ import annotations

import copy
import os
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.weights import check_sums, read_checkpoint
from training import distributed, earlier, membership
from training.metrics import Totals
from training.optim import ModelEMA
from training.run_directory import RunDirectory
from training.stored import check_content, complete_older
from training.tracking import say
from utils import BadRequest, RunFailed, human, replacing

FORMAT = 2  # 2: the settings hold all of the model's arguments


class Diverged(RunFailed):
    """The training's numbers are no longer finite.

    Args:
        batch: of the epoch, from 0, at which that was seen.
    """

    def __init__(self, message: str, batch: int):
        super().__init__(message)
        self.batch = batch


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
        rollbacks: how often the run was taken back to a checkpoint, and which batches it left out then.
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
    rollbacks: list[dict[str, Any]] = field(default_factory=list)

    PLAIN = ("epoch", "batch", "step", "history", "best", "train_seconds", "rollbacks")

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.model.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "totals": distributed.stacked(self.totals.sums.cpu()),  # a row for each process
            **{name: copy.deepcopy(getattr(self, name)) for name in self.PLAIN},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.model.load_state_dict(state["ema"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        rows = state["totals"].view(-1, len(self.totals.sums))
        if state["batch"] and len(rows) != distributed.ranks():
            raise BadRequest(
                f"the last checkpoint is of {len(rows)} process{'es' if len(rows) > 1 else ''}, within epoch"
                f" {state['epoch'] + 1}: only as many can go on from there (others can from the end of an epoch)"
            )
        self.totals.reset()
        if len(rows) == distributed.ranks():
            self.totals.sums.copy_(rows[distributed.rank()])
        for name in self.PLAIN:
            if name in state:  # checkpoints of earlier versions lack the last ones
                setattr(self, name, state[name])


def check_weights(state: RunState) -> None:
    """Raises Diverged where they are not finite: the loss of the step that spoilt them still was."""
    values = [value for value in state.model.state_dict().values() if value.is_floating_point()]
    if not bool(torch.stack([value.isfinite().all() for value in values]).all()):
        raise Diverged(f"weights are not finite in epoch {state.epoch + 1}, step {state.batch}", state.batch - 1)


def save_newest(directory: RunDirectory, state: RunState, settings: dict[str, Any], data: dict[str, Any]) -> None:
    """Makes last.pth the checkpoint of `state`, and what last.pth was previous.pth, once the new one is on disk and can
    be read. At every instant the two names stand for whole checkpoints.

    Args:
        data: class_names, mean, std and so on: what using the model on other images takes.

    Of several processes all call it, and the first one writes.

    Raises RunFailed, naming the file and the space that it needs, where it cannot be written; what was there is kept.
    """
    content = {"format": FORMAT, **state.state_dict(), "settings": settings, **data}
    if not distributed.is_first():
        return
    try:
        with replacing(directory.last) as temporary:
            with temporary.open("wb") as file:
                torch.save(content, file)
            check_sums(temporary)
            if directory.last.is_file():
                copy_checkpoint(directory.last, directory.previous)
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        reason = _reason(error)
        free = shutil.disk_usage(directory.path).free
        kept = "The checkpoint before it is kept: --resume continues from it"
        raise RunFailed(
            f"{directory.last}: cannot be saved ({reason}); it takes {human(_size(content))}B, {human(free)}B are free"
            f" there. {kept if directory.last.is_file() else 'No checkpoint was saved before it'}"
        ) from None


def _reason(error: BaseException) -> str:
    """What the system said, where torch has covered it with an error of its own."""
    told: BaseException | None = error
    while told is not None and not (isinstance(told, OSError) and told.strerror):
        told = told.__context__
    return " ".join(str(error if told is None else told.strerror).split())[:200]


def _size(value: Any) -> int:
    """Bytes of the tensors in it."""
    if isinstance(value, torch.Tensor):
        return value.untyped_storage().nbytes()
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, (list, tuple)) else 0


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
    check_content(content, path)
    return {**content, "settings": complete_older(content["settings"])}


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


def selected_weights(content: dict[str, Any], kind: str | None = None) -> dict[str, torch.Tensor]:
    """The state dict, raw or averaged, that a checkpoint was selected for; or that of a kind, "raw" or "ema", None
    where there is none."""
    return content["ema"] if (kind or content["best"].get("weights")) == "ema" else content["model"]


def load_newest(directory: RunDirectory) -> dict[str, Any]:
    """The checkpoint in last.pth; where that is damaged the one before it, which takes its place, and a line says so.

    Raises BadRequest where neither can be read.
    """
    try:
        return load_checkpoint(directory.last)
    except BadRequest as error:
        if not directory.previous.is_file():
            raise
        damage = error
    content = load_checkpoint(directory.previous)
    copy_checkpoint(directory.previous, directory.last)
    say(f"warning: {damage}; {directory.previous.name}, the checkpoint before it, takes its place")
    return content


def restore(state: RunState, content: dict[str, Any], path: Path) -> None:
    """Puts `state` where the checkpoint `content`, read from `path`, left it. Raises BadRequest if it is of another
    run."""
    try:
        state.load_state_dict(content)
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadRequest(f"{path}: does not fit the settings of this run ({reason})") from None


def resume(state: RunState, directory: RunDirectory, class_names: list[str], image_digests: dict[str, str]) -> None:
    """Puts `state` where the newest readable checkpoint left it, and sees to it that best.pth belongs to it.

    Args:
        class_names, image_digests: of the data set as it is now (see `manifest.digests`).

    Raises BadRequest where a checkpoint is of another run or of other images, or the best epoch's weights are lost.
    """
    content = load_newest(directory)
    membership.check_resumed(content, directory.last, class_names, image_digests)
    restore(state, content, directory.last)
    if not state.best or not distributed.is_first():
        return
    if _holds_best(state.epoch, state.batch, state.best):
        copy_checkpoint(directory.last, directory.best)
        return
    try:
        load_checkpoint(directory.best)
    except BadRequest as error:
        previous = load_checkpoint(directory.previous) if directory.previous.is_file() else None
        if previous is None or not _holds_best(previous["epoch"], previous["batch"], state.best):
            raise BadRequest(f"{error}; the weights of epoch {state.best['epoch']}, the best so far, are nowhere else:"
                             " --overwrite starts the run again") from None  # fmt: skip
        copy_checkpoint(directory.previous, directory.best)


def _holds_best(epoch: int, batch: int, best: dict[str, Any]) -> bool:
    """Whether the weights at a position are those of the best epoch."""
    return batch == 0 and epoch == best["epoch"]
