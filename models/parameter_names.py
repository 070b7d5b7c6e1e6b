"""Parameter names of other scripts: from those in a file to those of a model."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from typing import NamedTuple

import torch
from torch import nn

from utils import BadRequest, shorten

State = dict[str, torch.Tensor]
COUNTER = "num_batches_tracked"  # files from before torch 0.4.1 lack these counters
RENAMED = (
    # Files that torchvision published keep the parameter names of their time.
    (r"\.mlp\.linear_1\.", ".mlp.0."),  # Vision Transformers
    (r"\.mlp\.linear_2\.", ".mlp.3."),
    (r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),
    (r"\.shortcut\.([01])\.", r".downsample.\1."),  # the usual ResNets for CIFAR
)
RIVAL = 0.9  # a second prefix that fits as large a share of the names makes the first doubtful


class Fitted(NamedTuple):
    """A state dict with a model's names.

    Attributes:
        notes: a sentence for each change that a user should know of.
        pairs: (name in the file, name of the model) of all tensors, where they were taken by their order.
    """

    state: State
    notes: list[str]
    pairs: list[tuple[str, str]]


def fit_names(model: nn.Module, state: State, source: str, new_head: bool, by_order: bool = False) -> Fitted:
    """Renames the parameters in a file to those of the model, where it is plain which are meant.

    Args:
        source: names the file in messages.
        new_head: the head may have another number of classes.
        by_order: take the tensors in their order, whatever their names.

    Raises BadRequest if two networks, or two layers as the head, fit equally well, or if the order does not fit.
    """
    own = model.state_dict()
    if by_order:
        pairs = pair_in_order(model, own, state, source)
        named = {name: state[key] for key, name in pairs}
        shown = shorten((f"{key} as {name}" for key, name in pairs), 3)
        return Fitted(named, [f"{len(pairs)} tensors taken by their order: {shown}"], pairs)
    state, outside, prefix = _without_prefix(own, state, source)
    if hasattr(model, "convert_state_dict"):
        state = model.convert_state_dict(state)
    state = {_current_name(key, own): value for key, value in state.items()}
    for key in list(outside):
        if key in own and key not in state:
            state[key] = outside.pop(key)
    notes = []
    if found := _foreign_head(model, own, {**outside, **state}, source, new_head):
        head, name = found
        for part in ("weight", "bias"):
            if f"{head}.{part}" in own:
                key = f"{name}.{part}"
                state[f"{head}.{part}"] = state.pop(key) if key in state else outside.pop(key)
        notes.append(f"{name!r} of {source} is the head, {head!r} here")
    if outside:
        notes.append(f"{len(outside)} tensors of {source} outside {prefix!r} are left aside: {shorten(outside, 3)}")
    return Fitted(state, notes, [])


def nearest(key: str, names: list[str]) -> str:
    """The key, with the name that is most like it, if one is."""
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    return f"{key} (nearest: {close[0]})" if close else key


def _without_prefix(own: State, state: State, source: str) -> tuple[State, State, str]:
    """Removes the prefix that a wrapper gave the network's names. Returns (network, what else there is, prefix)."""
    counts: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for i in range(len(parts)):
            name = ".".join(parts[i:])
            if name in own and not name.endswith(COUNTER):
                counts["".join(f"{part}." for part in parts[:i])] += 1
    most = max(counts.values(), default=0)
    if counts[""] == most > 0:
        return state, {}, ""
    wanted = sum(not name.endswith(COUNTER) for name in own)
    if 2 * most < wanted:  # names of another library, perhaps
        return _without_common_parts(own, state), {}, ""
    rivals = [prefix for prefix, count in counts.items() if count >= RIVAL * most]
    if len(rivals) > 1:
        raise BadRequest(f"{source}: holds more than one such network: {shorten(sorted(rivals), 4)}; save one of them"
                         " alone")  # fmt: skip
    prefix = rivals[0]
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return inside, {key: value for key, value in state.items() if not key.startswith(prefix)}, prefix


def _without_common_parts(own: State, state: State) -> State:
    """Removes first parts that all names in the file share, and no name of the model has."""
    taken = {key.partition(".")[0] for key in own}
    first = {key.partition(".")[0] for key in state}
    while len(first) == 1 and not first & taken and all("." in key for key in state):
        state = {key.partition(".")[2]: value for key, value in state.items()}
        first = {key.partition(".")[0] for key in state}
    return state


def _current_name(key: str, own: State) -> str:
    if key in own:
        return key
    renamed = key
    for pattern, name in RENAMED:
        renamed = re.sub(pattern, name, renamed)
    return renamed if renamed in own else key


def _foreign_head(model: nn.Module, own: State, state: State, source: str, new_head: bool) -> tuple[str, str] | None:
    """The model's head and the layer in the file that it is, if the file has it under another name.

    Raises BadRequest, with the layers, if more than one could be it.
    """
    missing = [name for name in model.head_names if f"{name}.weight" in own and f"{name}.weight" not in state]
    if len(missing) != 1:
        return None
    head = missing[0]
    shape = own[f"{head}.weight"].shape
    layers = [
        key.removesuffix(".weight")
        for key, value in state.items()
        if key.endswith(".weight") and key not in own and value.shape[1:] == shape[1:] and value.ndim > 1
    ]
    with_bias = f"{head}.bias" in own
    layers = [name for name in layers if (f"{name}.bias" in state) == with_bias]
    exact = [name for name in layers if state[f"{name}.weight"].shape == shape]
    if not new_head and exact:
        layers = exact
    if len(layers) > 1:
        shapes = [tuple(state[f"{name}.weight"].shape) for name in layers]
        found = shorten((f"{name} {size}" for name, size in zip(layers, shapes, strict=True)), 4)
        raise BadRequest(f"{source}: has no {head!r}, and more than one layer that may be the head: {found}")
    return (head, layers[0]) if layers else None


def pair_in_order(model: nn.Module, own: State, state: State, source: str) -> list[tuple[str, str]]:
    """(name in the file, name of the model) of all tensors, in their order.

    Raises BadRequest, naming the first pair that does not fit: each needs the same shape and the same last part of its
    name. The head may have another number of classes.
    """
    theirs, ours = ([key for key in names if not key.endswith(COUNTER)] for names in (state, own))
    if len(theirs) != len(ours):
        raise BadRequest(f"{source}: has {len(theirs)} tensors, the model {len(ours)}: they are not the same in order")
    heads = {f"{name}.{part}" for name in model.head_names for part in ("weight", "bias")}
    for i, (key, name) in enumerate(zip(theirs, ours, strict=True)):
        skipped = 1 if name in heads else 0
        alike = state[key].shape[skipped:] == own[name].shape[skipped:] and state[key].ndim == own[name].ndim
        if not alike or key.rpartition(".")[2] != name.rpartition(".")[2]:
            raise BadRequest(f"{source}: tensor {i + 1} in order is {key} {tuple(state[key].shape)}, the model's"
                             f" {name} {tuple(own[name].shape)}")  # fmt: skip
    pairs = list(zip(theirs, ours, strict=True))
    for key, name in list(pairs):
        counters = tuple(f"{word.rpartition('.')[0]}.{COUNTER}" for word in (key, name))
        if name.endswith("running_mean") and counters[0] in state and counters[1] in own:
            pairs.append((counters[0], counters[1]))
    return pairs
