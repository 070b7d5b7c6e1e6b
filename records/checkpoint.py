"""Checkpoint files: the state of a run, its settings and its class names."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from models.weight_files import read_checkpoint
from records import legacy_checkpoint
from records.log import say
from records.run_directory import RunDirectory
from records.stored_settings import check_needed, complete_older
from utils import BadRequest, replacing

FORMAT = 2  # since 2 the settings hold all arguments of the model


def copy_checkpoint(source: Path, target: Path) -> None:
    """Makes `target` a hard link to `source`, or a copy if the file system has no links.

    A link is safe: checkpoints are replaced, never modified in place.
    """
    with replacing(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of this suite; a legacy one is converted, its class names are None if it has none.

    Raises BadRequest, naming the file, for anything else.
    """
    content = read_checkpoint(path)
    if legacy_checkpoint.is_legacy(content):
        return legacy_checkpoint.convert(path, content)
    missing = [key for key in ("format", *CONTENT) if key not in content]
    if missing:
        advice = "--evaluate FILE --model NAME --dataset NAME scores weights of others, --weights FILE trains from them"
        raise BadRequest(f"{path}: not a checkpoint of this suite (it has no {missing[0]!r}); {advice}")
    if content["format"] != FORMAT:
        raise BadRequest(f"{path}: is of checkpoint format {content['format']}, this version reads {FORMAT}")
    _check_content(content, path)
    return {**content, "settings": complete_older(content["settings"])}


def is_checkpoint(path: Path) -> bool:
    """Whether the file also says how its model was trained, rather than holding weights alone.

    Raises BadRequest if it is damaged.
    """
    content = read_checkpoint(path)
    return "settings" in content or legacy_checkpoint.is_legacy(content)


def match_classes(path: str, content: dict[str, Any], class_names: list[str], name: str) -> None:
    """Checks that a checkpoint has the classes of the data set `name`; one without class names gets them.

    Raises BadRequest, saying what differs.
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
    """Number of classes of a checkpoint."""
    return content["num_classes"] if content["class_names"] is None else len(content["class_names"])


def selected_weights(content: dict[str, Any], kind: str | None = None) -> dict[str, torch.Tensor]:
    """The state dict that was selected, raw or averaged.

    Args:
        kind: "raw" or "ema" for that one instead, None if the checkpoint lacks it.
    """
    return content["ema"] if (kind or selected_kind(content)) == "ema" else content["model"]


def check_selected(path: str, content: dict[str, Any]) -> None:
    """Raises BadRequest if no weights are selected yet."""
    if not content["best"]:
        raise BadRequest(f"{path}: was saved within the first epoch, so no weights are selected yet")


def holds_best(content: dict[str, Any]) -> bool:
    """Whether the weights are those of the best epoch, or of no single epoch, as in an average."""
    epoch = content.get("epoch")
    return epoch is None or (epoch == content["best"].get("epoch") and not content.get("batch"))


def selected_kind(content: dict[str, Any]) -> str:
    """The kind of weights that was selected, "raw" or "ema"; in a file of another epoch than the best the better kind
    of its own."""
    if holds_best(content) or not content.get("history"):
        return content["best"].get("weights", "raw")
    ranked = ranks(content["history"][-1], content["settings"]["select_by"])
    return max(ranked, key=ranked.__getitem__) if ranked else content["best"].get("weights", "raw")


def ranking(means: Mapping[str, Any], select_by: str) -> list[float]:
    """What validation scores are ranked by, the highest first: `select_by`, and at a tie the lower loss."""
    return [-means["loss"]] if select_by == "loss" else [means[select_by], -means["loss"]]


def ranks(row: Mapping[str, Any], select_by: str) -> dict[str, list[float]]:
    """The ranking of each kind of weights, "raw" and "ema", in a row of the history; {} without validation."""
    return {
        kind: ranking({name: row[prefix + name] for name in (select_by, "loss")}, select_by)
        for kind, prefix in (("raw", "val_"), ("ema", "val_ema_"))
        if prefix + "loss" in row
    }


def load_newest(directory: RunDirectory) -> dict[str, Any]:
    """Reads last.pth. If it is damaged, previous.pth takes its place, and a line says so.

    Raises BadRequest if neither can be read.
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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _are(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (list, tuple)) and all(isinstance(item, kind) for item in value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 16


CONTENT: dict[str, Callable[[Any], bool]] = {  # what a checkpoint needs besides its format, and checks of the values
    "model": lambda value: isinstance(value, dict),
    "settings": lambda value: isinstance(value, dict),
    "class_names": lambda value: _are(str)(value) and len(value) > 1,
    "mean": _are(float),
    "std": lambda value: _are(float)(value) and 0 not in value,
    "img_size": lambda value: _is_count(value) or (_are(int)(value) and len(value) == 2 and all(map(_is_count, value))),
    "in_chans": lambda value: _is_count(value) and value in (1, 3),
    "eval_crop": lambda value: _is_number(value) and 0 < value <= 1,
    "selected_on": lambda value: isinstance(value, str),
    "best": lambda value: isinstance(value, dict),
}


def _check_content(content: dict[str, Any], source: object) -> None:
    """Raises BadRequest, naming `source`, if a value would break what uses the checkpoint."""
    for key, is_right in CONTENT.items():
        if not is_right(content[key]):
            raise BadRequest(f"{source}: damaged (its {key} is {content[key]!r:.80})")
    if not len(content["mean"]) == len(content["std"]) == content["in_chans"]:
        raise BadRequest(f"{source}: damaged (its mean or std is not of {content['in_chans']} channels)")
    weights = content["best"].get("weights", "raw")
    if weights not in ("raw", "ema") or (weights == "ema" and not isinstance(content.get("ema"), dict)):
        raise BadRequest(f"{source}: damaged (it lacks the weights that were selected)")
    check_needed(content["settings"], source)
