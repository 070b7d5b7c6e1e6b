"""Loading a state dict into a model: what is adapted, and what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from models.parameter_names import COUNTER, fit_names, nearest, pair_in_order
from models.weight_files import read_state_dict
from utils import BadRequest, shorten, sides


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


def load(
    model: nn.Module,
    state: dict[str, torch.Tensor],
    source: str,
    img_size: int | Sequence[int] | None = None,
    new_head: bool = True,
    by_order: bool = False,
    teacher: bool = False,
) -> list[str]:
    """Copies `state` into `model`. Returns a sentence for each change that this took.

    Args:
        source: names the weights in messages.
        img_size: of the images that `state` was trained on; None: they were square.
        new_head: a head with another number of classes, or none, keeps its fresh initialisation, instead of being
            refused.
        by_order: take the tensors in their order, whatever their names. The model's attribute `load_pairs` then lists
            the names, the file's and the model's.
        teacher: messages name the flags of a teacher.

    Other names of parameters are translated, see `parameter_names.fit_names`. A first convolution for another number of
    channels gets the filters summed or repeated. Position embeddings are interpolated to another number of patches.

    Raises BadRequest, with the keys, if anything else does not fit.
    """
    own = model.state_dict()
    fitted = fit_names(model, state, source, new_head, by_order)
    state = dict(fitted.state)
    for key in own:
        if key.endswith(COUNTER):
            state.setdefault(key, own[key])
    notes = [*fitted.notes, *_fit_heads(model, own, state, source, new_head), *_fit_input(own, state)]
    notes += _fit_positions(model, own, state, img_size)
    missing = sorted(set(own) - set(state))
    unknown = sorted(set(state) - set(own))
    shapes = sorted(
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in set(own) & set(state)
        if own[key].shape != state[key].shape
    )
    problems = []
    near = [nearest(key, missing or list(own)) for key in unknown[:3]] + unknown[3:]
    for title, keys in (("missing", missing), ("unknown", near), ("of another shape", shapes)):
        if keys:
            problems.append(f"{len(keys)} {title}: {shorten(keys, 3)}")
    if problems:
        advice = _advice(model, own, state, missing, unknown, teacher)
        raise BadRequest(f"{source}: weights of another model; keys {'; '.join(problems)}{advice}")
    own.update(state)  # `own` has the version numbers that some of torchvision's models need
    model.load_state_dict(own)
    model.load_pairs = fitted.pairs
    return notes


def classes_of(model: nn.Module, state: dict[str, torch.Tensor], source: str, by_order: bool = False) -> int | None:
    """The number of classes of the head in `state`; None if it has no head. Arguments and errors as in `load`."""
    found = fit_names(model, state, source, new_head=False, by_order=by_order).state
    counts = [found[f"{name}.weight"].shape[0] for name in model.head_names if f"{name}.weight" in found]
    return max(counts, default=None)


def _advice(model: nn.Module, own: dict, state: dict, missing: list[str], unknown: list[str], teacher: bool) -> str:
    """The flag with which weights would fit that do not fit, for the message."""
    flags = [] if teacher else getattr(model, "takes", ())
    if "shortcut" in flags and (unknown or missing):
        for word, keys, others in (("A", missing, unknown), ("B", unknown, missing)):
            if keys and not others and all(".downsample." in key for key in keys):
                what = "no parameters" if word == "A" else "convolutions"
                return f"; their shortcuts have {what}: --shortcut {word} fits"
    sizes = [(tuple(state[key].shape[2:]), tuple(own[key].shape[2:])) for key in own if key in state]
    stems = {((7, 7), (3, 3)): "imagenet", ((3, 3), (7, 7)): "cifar"}
    stem = next((stems[pair] for pair in sizes if pair in stems), None)
    if stem is None and "classifier.6.weight" in (*missing, *unknown):  # VGG's three linear layers
        stem = "imagenet" if "classifier.6.weight" in unknown else "cifar"
    if "stem" in flags and stem is not None:
        return f"; they have the stem of --stem {stem}"
    with contextlib.suppress(BadRequest):
        if missing and unknown:
            pair_in_order(model, own, state, "")
            return f"; in their order they fit: --{'teacher-' if teacher else ''}weights-by-order takes them so"
    return ""


def _fit_heads(model: nn.Module, own: dict, state: dict, source: str, new_head: bool) -> list[str]:
    """Gives the model's own head to weights with another one or with none. Raises BadRequest without `new_head`."""
    notes = []
    keys = [(name, f"{name}.weight") for name in model.head_names if f"{name}.weight" in own]
    for name, key in keys:
        if key in state and state[key].shape[0] != own[key].shape[0]:
            old, new = state[key].shape[0], own[key].shape[0]
            if not new_head:
                raise BadRequest(f"{source}: its head {name!r} has {old} classes, not {new}")
            notes.append(f"head {name!r} replaced: {source} has {old} classes, this model {new}")
            state.update({k: own[k] for k in (key, f"{name}.bias") if k in own})
    of_heads = {f"{name}.{part}" for name in model.head_names for part in ("weight", "bias")}
    missing = set(own) - set(state)
    if missing and missing <= of_heads and not set(state) - set(own):
        names = " and ".join(repr(name) for name, key in keys if key in missing)
        if not new_head:
            raise BadRequest(f"{source}: has no head ({names}), so there is nothing to score")
        notes.append(f"{source} has no head: {names} starts anew")
        state.update({key: own[key] for key in missing})
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
        fault = f"the pretrained weights {enum_name} cannot be fetched ({reason})"
        raise BadRequest(f"{fault}. Download the file {name} from {weights.url} where there is a network, and put it"
                         f" into the folder {folder}") from None  # fmt: skip
