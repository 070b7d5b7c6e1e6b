"""Legacy checkpoints: `model_state`, `val_acc1`, `epoch` and the `args` of another training script.

They hold neither class names nor how the images were prepared. The names come from the data set they are used on, whose
classes follow the sorted WNIDs; images are normalised with ImageNet's statistics.
"""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import Any

import models
from image_datasets.batches import EvalBatches
from image_datasets.dataset import statistics_for
from models.weight_files import find_state_dicts
from records.stored_settings import OLDER
from utils import BadRequest

TINY, SMALL = 192, 384  # token widths


def is_legacy(content: dict[str, Any]) -> bool:
    """Whether what a file holds is a legacy checkpoint. Without a model's name it is a Vision Transformer."""
    state = content.get("model_state")
    told = "model" in _args(content) or (isinstance(state, dict) and "patch_embed.proj.weight" in state)
    return "model_state" in content and "settings" not in content and told


def convert(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Converts a legacy checkpoint to this suite's form, as far as using the model needs it.

    Raises BadRequest, naming the file, if its architecture cannot be determined.
    """
    args = _args(content)
    states = find_state_dicts(path, content)
    averaged = states.get("ema")
    state = states["raw"] if "raw" in states else states["ema"]
    name = _model_name(path, args, state)
    layers = [value for key, value in state.items() if key.endswith(".weight") and value.ndim == 2]
    if not layers:
        raise BadRequest(f"{path}: its model_state has no linear layer, so its number of classes cannot be told")
    model_args, img_size, in_chans = {}, int(args.get("img_size") or 224), 3
    if "patch_embed.proj.weight" in state:
        model_args, img_size = _shape(path, name, state)
        in_chans = state["patch_embed.proj.weight"].shape[1]
    mean, std = statistics_for(in_chans)
    entry = models.find_model(name)
    resolved = models.default_arguments(name)
    resolved.update({key: value for key, value in model_args.items() if entry is not None and entry.argument(key)})
    names = content.get("class_names")
    return {
        "model": state,
        "ema": averaged,
        "best": {
            "epoch": _number(content.get("epoch")),
            "weights": "raw" if averaged is None else "ema",
            "top1": _number(content.get("val_acc1")),
        },
        "settings": {
            "model": name,
            "model_args": resolved,
            "dataset": "imagenet100",
            **OLDER,
            "data_path": args.get("data_path"),
            "run_name": path.stem,
            "epochs": args.get("epochs"),
            "select_by": "top1",
            "earlier": {key: value for key, value in args.items() if isinstance(value, str | int | float | None)},
        },
        "class_names": list(names) if names else None,
        "num_classes": layers[-1].shape[0],
        "wnids": None,
        "mean": mean,
        "std": std,
        "img_size": img_size,
        "in_chans": in_chans,
        "eval_crop": EvalBatches.eval_crop if img_size > 64 else 1.0,
        "selected_on": "not stored (a file of the earlier form)",
        "train_seconds": None,
    }


def _args(content: dict[str, Any]) -> dict[str, Any]:
    args = content.get("args")
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    return dict(args) if isinstance(args, dict) else {}


def _number(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else None


def _model_name(path: Path, args: dict[str, Any], state: dict) -> str:
    """The name in args, of this suite or timm; without one, a guess from the width and number of the tokens."""
    name = args.get("model")
    if name is None and "patch_embed.proj.weight" in state:
        size = {TINY: "tiny", SMALL: "small"}.get(state["patch_embed.proj.weight"].shape[0], "tiny")
        name = f"deit_{size}_distill" if "dist_token" in state else f"vit_{size}"
    if not isinstance(name, str):
        raise BadRequest(f"{path}: its args name no model")
    for candidate in (name, f"timm/{name}"):
        try:
            models.check_name(candidate)
            return candidate
        except BadRequest:
            continue
    raise BadRequest(f"{path}: was trained with a model {name!r}, which neither this suite nor timm has")


def _shape(path: Path, name: str, state: dict) -> tuple[dict[str, Any], int]:
    """Returns (arguments, image size) of a Vision Transformer, from the shapes of its weights."""
    weight = state["patch_embed.proj.weight"]
    width, patch_size = weight.shape[0], weight.shape[-1]
    blocks = {int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.", key))}
    prefix = sum(key in state for key in ("cls_token", "dist_token"))
    try:
        side = math.isqrt(state["pos_embed"].shape[1] - prefix)
        model_args = {
            "patch_size": patch_size,
            "embed_dim": width,
            "depth": len(blocks),
            "mlp_ratio": state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        }
    except (KeyError, IndexError, ValueError):
        raise BadRequest(f"{path}: its model_state is no whole {name}") from None
    return model_args, side * patch_size
