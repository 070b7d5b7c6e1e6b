"""Reading weights from files and loading them into a model: what is adapted, and what is refused."""

from __future__ import annotations

import argparse
import hashlib
import math
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from utils import BadRequest, shorten, sides

# Keys of checkpoints for their weights, and for averages of them over the training; DEEPER: one level further down.
RAW = ("model", "state_dict", "model_state", "model_state_dict")
AVERAGED = ("model_ema", "state_dict_ema", "ema", "ema_state_dict", "model_ema_state_dict", "ema_model_state_dict",
            "ema_model", "model_state_ema", "ema_model_state", "model_averaged", "averaged_model")  # fmt: skip
DEEPER = ("state_dict", "model_state_dict", "model", "module", "shadow")
KINDS = {"raw": "raw", "ema": "averaged"}
# Files that torchvision published keep the parameter names of their time.
OLD_TORCHVISION_NAMES = (
    (r"\.mlp\.linear_1\.", ".mlp.0."),  # Vision Transformers
    (r"\.mlp\.linear_2\.", ".mlp.3."),
    (r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),
)


def find_head(model: nn.Module, num_classes: int) -> tuple[str, ...]:
    """The names of the modules that compute the logits; empty if none is found.

    They are the model's attribute `head_names`, or what timm says, or the last linear layer or convolution with
    `num_classes` outputs.
    """
    if getattr(model, "head_names", None):
        return tuple(model.head_names)
    named = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    names = named.get("classifier") if isinstance(named, dict) else None
    if names:
        return (names,) if isinstance(names, str) else tuple(names)
    last = ""
    for name, module in model.named_modules():
        if getattr(module, "out_features", getattr(module, "out_channels", None)) == num_classes:
            last = name
    return (last,) if last else ()


def other_kind(kind: str) -> str:
    """The kind that is not `kind`: "raw" or "ema"."""
    return "raw" if kind == "ema" else "ema"


class Weights(NamedTuple):
    """Weights read from a file.

    Attributes:
        state: tensors by parameter name.
        kind: "raw" or "ema" (averaged).
        others: whether the file holds the other kind, too.
        notes: a sentence for each part of the file that was left out and that a user should know of.
        img_size: of the training images in pixels; None if the file does not say.
    """

    state: dict[str, torch.Tensor]
    kind: str
    others: bool
    notes: list[str]
    img_size: int | Sequence[int] | None


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The state dict that `read_weights` chooses."""
    return read_weights(path).state


def read_weights(path: Path, kind: str | None = None) -> Weights:
    """Reads the weights in a checkpoint.

    Args:
        kind: "raw" or "ema" (averaged). None: for a run of this suite the kind that it selected; for other files the
            averaged weights if there are any, as these are what their author reports.

    Raises BadRequest, naming the file, if it is missing or damaged, or holds no such weights.
    """
    content = read_checkpoint(path)
    found = find_state_dicts(path, content)
    kind = kind or _selected(content) or ("ema" if "ema" in found else "raw")
    if kind not in found:
        raise BadRequest(f"{path}: holds no {KINDS[kind]} weights, only {KINDS[next(iter(found))]} ones")
    notes = []
    if "ema" not in found:
        notes += [f"{path}: its {key!r} holds no tensors by parameter name, and is left aside"
                  for key in AVERAGED if isinstance(content.get(key), dict) and content[key]]  # fmt: skip
    size = content.get("img_size")
    known = isinstance(size, int) or (isinstance(size, (list, tuple)) and [type(side) for side in size] == [int, int])
    return Weights(found[kind], kind, len(found) > 1, notes, size if known else None)


def _selected(content: dict) -> str | None:
    """The kind of weights that a run of this suite selected; None for other checkpoints."""
    best = content.get("best")
    return best.get("weights", "raw") if "format" in content and isinstance(best, dict) else None


def find_state_dicts(path: Path, content: dict) -> dict[str, dict[str, torch.Tensor]]:
    """The state dicts in a checkpoint, by kind: "raw" and "ema" (averaged).

    They are bare, or under a checkpoint's usual keys. Wrappers' prefixes are removed; an empty dict does not count.

    Args:
        path: of the file, for messages.

    Raises BadRequest, naming the file, if there is none.
    """
    bare = _state_dict(content)
    if bare is not None:
        return {"ema" if "n_averaged" in content else "raw": bare}
    found = {}
    for kind, keys in (("raw", RAW), ("ema", AVERAGED)):
        states = (_state_dict(content[key], DEEPER) for key in keys if isinstance(content.get(key), dict))
        state = next((state for state in states if state is not None), None)
        if state is not None:
            found[kind] = state
    if not found:
        raise BadRequest(f"{path}: holds no state dict (tensors by parameter name)")
    return found


def _state_dict(value: dict, deeper: tuple[str, ...] = ()) -> dict[str, torch.Tensor] | None:
    """The state dict that is `value`, or that it holds under one of the keys; None if there is none.

    Removes what DataParallel, torch.compile and AveragedModel add.
    """
    for state in (value, *(value.get(key) for key in deeper)):
        if not (isinstance(state, dict) and state):
            continue
        if all(isinstance(key, str) and isinstance(item, torch.Tensor) for key, item in state.items()):
            names = {key: re.sub(r"(^|\.)_orig_mod\.", r"\1", key) for key in state if key != "n_averaged"}
            return {re.sub(r"^(?:module\.)+", "", name): state[key] for key, name in names.items()}
    return None


def read_checkpoint(path: Path) -> dict:
    """Reads a file of `torch.save` onto the CPU, without running code that it may contain.

    Raises BadRequest, naming the file, if it is missing, damaged or not a checkpoint. Unlike `torch.load` it checks the
    checksums.
    """
    if not path.is_file():
        raise BadRequest(f"{path}: no such checkpoint file")
    try:
        check_sums(path)
        # Training scripts store their flags as a Namespace, which runs no code.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # about old formats; what matters is raised below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the zip reader, the unpickler and the file system each raise their own
        reason = str(error).strip().split("\n")[0][:150]
        if reason.startswith("Weights only load failed"):  # torch's advice would run untrusted code
            raise BadRequest(f"{path}: damaged, or not a checkpoint of tensors and plain values alone") from None
        raise BadRequest(f"{path}: damaged, or not a checkpoint ({type(error).__name__}: {reason})") from None
    if not isinstance(content, dict):
        raise BadRequest(f"{path}: not a checkpoint (holds a {type(content).__name__}, not a dict)")
    return content


def check_sums(path: Path) -> None:
    """Compares every part of a file of `torch.save` with its CRC-32. Files from before torch 1.6 have none.

    Raises zipfile.BadZipFile, or OSError, if it is damaged.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            # torch returns uninitialised memory for an entry that is marked as a folder.
            folders = [entry.filename for entry in archive.infolist() if entry.external_attr & 0x10]
        if folders:
            raise zipfile.BadZipFile(f"{folders[0]!r} is marked as a folder")
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged!r}")


def load(
    model: nn.Module, state: dict[str, torch.Tensor], source: str, img_size: int | Sequence[int] | None = None
) -> list[str]:
    """Copies `state` into `model`. Returns a sentence for each change that this took.

    Args:
        source: names the weights in messages.
        img_size: of the images that `state` was trained on; None: they were square.

    A head with another number of classes keeps its fresh initialisation. A first convolution for another number of
    channels gets the filters summed or repeated. Position embeddings are interpolated to another number of patches. The
    model's method `convert_state_dict`, if it has one, translates foreign parameter names.

    Raises BadRequest, with the keys, if anything else does not fit.
    """
    own = model.state_dict()
    if hasattr(model, "convert_state_dict"):
        state = model.convert_state_dict(state)
    state = {key if key in own else _current_name(key): value for key, value in state.items()}
    for key in own:
        if key.endswith("num_batches_tracked"):  # files from before torch 0.4.1 lack these counters
            state.setdefault(key, own[key])
    notes = [*_fit_heads(model, own, state, source), *_fit_input(own, state)]
    notes += _fit_positions(model, own, state, img_size)
    missing = sorted(set(own) - set(state))
    unexpected = sorted(set(state) - set(own))
    shapes = sorted(
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in set(own) & set(state)
        if own[key].shape != state[key].shape
    )
    problems = []
    for title, keys in (("missing", missing), ("unknown", unexpected), ("of another shape", shapes)):
        if keys:
            problems.append(f"{len(keys)} {title}: {shorten(keys, 3)}")
    if problems:
        raise BadRequest(f"{source}: weights of another model; keys {'; '.join(problems)}")
    own.update(state)  # `own` has the version numbers that some of torchvision's models need
    model.load_state_dict(own)
    return notes


def _current_name(key: str) -> str:
    for pattern, name in OLD_TORCHVISION_NAMES:
        key = re.sub(pattern, name, key)
    return key


def _fit_heads(model: nn.Module, own: dict, state: dict, source: str) -> list[str]:
    notes = []
    for name in model.head_names:
        key = f"{name}.weight"
        if key in state and key in own and state[key].shape[0] != own[key].shape[0]:
            old, new = state[key].shape[0], own[key].shape[0]
            notes.append(f"head {name!r} replaced: {source} has {old} classes, this model {new}")
            state.update({k: own[k] for k in (key, f"{name}.bias") if k in own})
    return notes


def _fit_input(own: dict, state: dict) -> list[str]:
    for key, value in state.items():
        if (
            key in own
            and value.ndim == own[key].ndim == 4
            and value.shape[1] != own[key].shape[1]
            and value.shape[1] == 3
        ):
            from timm.models import adapt_input_conv

            state[key] = adapt_input_conv(own[key].shape[1], value)
            return [f"{key!r} adapted from 3 to {own[key].shape[1]} input channels"]
    return []


def _fit_positions(model: nn.Module, own: dict, state: dict, img_size: int | Sequence[int] | None) -> list[str]:
    """Interpolates position embeddings (1, prefix tokens + patches, width), ours, timm's or torchvision's."""
    notes = []
    own_grid = getattr(model, "grid_size", None) or getattr(getattr(model, "patch_embed", None), "grid_size", None)
    for key, prefix_tokens in (
        ("pos_embed", getattr(model, "num_prefix_tokens", 0)),
        ("pos_embed", 0),  # some of timm's models add their prefix tokens later
        ("encoder.pos_embedding", 1),
    ):
        shape, new_shape = (tuple(weights[key].shape) if key in weights else () for weights in (state, own))
        if len(shape) != 3 or len(new_shape) != 3 or shape[::2] != new_shape[::2]:
            continue
        old = _grid(shape[1] - prefix_tokens, sides(img_size or 1))
        new = _grid(new_shape[1] - prefix_tokens, own_grid or (1, 1))
        if old and new and old != new and new == (own_grid or new):
            from timm.layers import resample_abs_pos_embed

            state[key] = resample_abs_pos_embed(state[key], list(new), list(old), prefix_tokens)
            notes.append(f"{key!r} interpolated from {old[0]}x{old[1]} to {new[0]}x{new[1]} patches")
            break
    return notes


def _grid(patches: int, shape: tuple[int, int]) -> tuple[int, int] | None:
    """(rows, columns) of a grid of `patches` in the proportions of `shape`, (H, W); None if there is no such grid."""
    rows = round(math.sqrt(max(0, patches) * shape[0] / shape[1]))
    return (rows, patches // rows) if rows and patches == rows * round(rows * shape[1] / shape[0]) else None


def torchvision_weights(enum_name: str) -> dict[str, torch.Tensor]:
    """The newest published weights of a torchvision weights enum, from torch's cache or downloaded, checksum verified.

    Raises BadRequest, saying which file to put where, if they are neither cached nor downloadable.
    """
    import torchvision

    weights = torchvision.models.get_weight(f"{enum_name}.DEFAULT")
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    name = weights.url.rsplit("/", 1)[-1]
    try:
        if not (folder / name).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            digits = re.search(r"-([0-9a-f]{8,})\.", name)
            torch.hub.download_url_to_file(weights.url, str(folder / name), digits and digits[1], progress=False)
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()  # torch does not check files in its cache
        if f"-{digest[:8]}" not in name:
            raise BadRequest(f"{folder / name}: not the published weights (checksum); delete it to fetch it anew")
        return read_state_dict(folder / name)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise BadRequest(f"no pretrained weights: put {name} ({weights.url}) into {folder} ({reason})") from None
