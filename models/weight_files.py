"""Reading weights from files: what other scripts save, unwrapped, without running any of it."""

from __future__ import annotations

import argparse
import builtins
import collections
import pickletools
import re
import sys
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from utils import BadRequest, shorten

# Keys of checkpoints for their weights, and for averages of them over the training; DEEPER: one level further down.
RAW = ("model", "state_dict", "model_state", "model_state_dict", "net", "network")
AVERAGED = ("model_ema", "state_dict_ema", "ema", "ema_state_dict", "model_ema_state_dict", "ema_model_state_dict",
            "ema_model", "model_state_ema", "ema_model_state", "model_averaged", "averaged_model")  # fmt: skip
DEEPER = ("state_dict", "model_state_dict", "model", "module", "shadow")
KINDS = {"raw": "raw", "ema": "averaged"}
# Modules of Python whose names stand for plain values in files. Any other function of Python means that a file does
# something when it is unpickled.
OF_VALUES = ("_codecs", "argparse", "collections", "copyreg", "datetime", "decimal", "enum", "fractions", "functools",
             "pathlib", "types", "typing", "uuid")  # fmt: skip
OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # pickles of protocol 2 name Python 2's modules


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


def read_weights(path: Path, kind: str | None = None, by_order: bool = False) -> Weights:
    """Reads the weights in a checkpoint.

    Args:
        kind: "raw" or "ema" (averaged). None: for a run of this suite the kind that it selected; for other files the
            averaged weights if there are any, as these are what their author reports.
        by_order: the order of the tensors matters.

    Raises BadRequest, naming the file, if it is missing or damaged, or holds no such weights.
    """
    content = read_checkpoint(path)
    found = find_state_dicts(path, content)
    kind = kind or _selected(content) or ("ema" if "ema" in found else "raw")
    if kind not in found:
        raise BadRequest(f"{path}: holds no {KINDS[kind]} weights, only {KINDS[next(iter(found))]} ones")
    if by_order and _is_safetensors(path):
        raise BadRequest(f"{path}: safetensors files do not keep the order of the layers, so they cannot be read by it")
    notes = []
    if "ema" not in found:
        notes += [f"{path}: its {key!r} holds no tensors by parameter name, and is left aside"
                  for key in AVERAGED if _is_something(content.get(key))]  # fmt: skip
    size = content.get("img_size")
    known = isinstance(size, int) or (isinstance(size, (list, tuple)) and [type(side) for side in size] == [int, int])
    return Weights(found[kind], kind, len(found) > 1, notes, size if known else None)


def _is_something(value: Any) -> bool:
    return isinstance(value, Foreign) or (isinstance(value, dict) and bool(value))


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
        return {"ema": bare} if "n_averaged" in content else _by_kind(bare)
    found = {}
    for kind, keys in (("ema", AVERAGED), ("raw", RAW)):
        states = (_state_dict(content[key], DEEPER) for key in keys if isinstance(content.get(key), dict))
        state = next((state for state in states if state is not None), None)
        if state is not None:
            found = {**(_by_kind(state) if kind == "raw" else {kind: state}), **found}
    mixed = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not found and any("." in str(key) for key in mixed):  # plain values lie among the tensors
        found = _by_kind(_state_dict(mixed) or {})
    if not found:
        raise BadRequest(f"{path}: holds no state dict (tensors by parameter name){_instead(content)}")
    return found


def _instead(content: dict) -> str:
    """What a checkpoint without a state dict under the usual keys holds, for the message."""
    models = [key for key, value in content.items() if isinstance(value, Foreign) and value.is_module]
    if models:
        name = content[models[0]].name
        return (
            f"; its {models[0]!r} is a whole model, a pickled object of the class {name}: save its state_dict() instead"
        )
    states = [repr(key) for key, value in content.items() if isinstance(value, dict) and _state_dict(value, DEEPER)]
    return f" under a usual key, only under {shorten(states, 3)}: save one of them alone" if states else ""


def _by_kind(state: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Separates averaged weights that lie among the raw ones, with a prefix to their names."""
    for key in AVERAGED:
        average = {name.removeprefix(f"{key}."): value for name, value in state.items() if name.startswith(f"{key}.")}
        if 0 < len(average) < len(state):
            raw = {name: value for name, value in state.items() if not name.startswith(f"{key}.")}
            return {"raw": raw, "ema": _unwrapped(average)}
    return {"raw": state}


def _state_dict(value: dict, deeper: tuple[str, ...] = ()) -> dict[str, torch.Tensor] | None:
    """The state dict that is `value`, or that it holds under one of the keys; None if there is none."""
    for state in (value, *(value.get(key) for key in deeper)):
        if not (isinstance(state, dict) and state):
            continue
        if all(isinstance(key, str) and isinstance(item, torch.Tensor) for key, item in state.items()):
            return _unwrapped(state)
    return None


def _unwrapped(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Removes what DataParallel, torch.compile and AveragedModel add."""
    names = {key: re.sub(r"(^|\.)_orig_mod\.", r"\1", key) for key in state if key != "n_averaged"}
    return {re.sub(r"^(?:module\.)+", "", name): state[key] for key, name in names.items()}


# ------------------------------------------------------------------------------------------------------------ the file


class Foreign:
    """An object of a class that only the script that saved the file has. It keeps what was stored, and does nothing.

    Attributes:
        name: the full name of the class, an attribute of its subclass.
    """

    name = ""
    state: Any = None

    def __new__(cls, *args: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    @property
    def is_module(self) -> bool:
        """Whether it is a torch.nn.Module."""
        return isinstance(self.state, dict) and "_modules" in self.state


class ForeignDict(Foreign):
    """As Foreign, for subclasses of dict: the unpickler fills nothing but an OrderedDict."""

    def __new__(cls, *args: Any) -> Any:
        return collections.OrderedDict()


def read_checkpoint(path: Path) -> dict:
    """Reads a file of `torch.save` or of safetensors onto the CPU, without running code that it may contain.

    Objects of unknown classes become `Foreign`. Unlike `torch.load` it checks the checksums.

    Raises BadRequest, naming the file, if it is missing, damaged or not a checkpoint.
    """
    if not path.is_file():
        raise BadRequest(f"{path}: no such checkpoint file")
    try:
        if _is_safetensors(path):
            import safetensors.torch

            return dict(safetensors.torch.load_file(path))
        check_sums(path)
        content = _load(path)
    except BadRequest:
        raise
    except Exception as error:  # the zip reader, the unpickler and the file system each raise their own
        reason = str(error).strip().split("\n")[0][:150]
        if reason.startswith("Weights only load failed"):  # torch's advice would run untrusted code
            raise BadRequest(f"{path}: damaged, or not a checkpoint of tensors and plain values alone") from None
        raise BadRequest(f"{path}: damaged, or not a checkpoint ({type(error).__name__}: {reason})") from None
    if isinstance(content, Foreign) and content.is_module:
        raise BadRequest(f"{path}: holds a whole model, a pickled object of the class {content.name}: save"
                         " model.state_dict() instead of the model")  # fmt: skip
    if not isinstance(content, dict):
        kind = content.name if isinstance(content, Foreign) else type(content).__name__
        raise BadRequest(f"{path}: not a checkpoint (holds a {kind}, not a dict)")
    return content


def _is_safetensors(path: Path) -> bool:
    """Whether the file begins with the length of a JSON object, and the object."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _load(path: Path) -> Any:
    """`torch.load` of plain values, with a `Foreign` class for every name that it does not know."""
    names = _names_in(path)
    refused = [name for name in names if not _is_of_values(name)]
    if refused:
        raise BadRequest(f"{path}: not a checkpoint of tensors and plain values alone: it calls {shorten(refused, 2)}")
    kinds = dict.fromkeys(names, Foreign)
    while True:
        classes = {name: type(name, (kind,), {"name": name, "__module__": ""}) for name, kind in kinds.items()}
        allowed: list[Any] = [argparse.Namespace, *((foreign, name) for name, foreign in classes.items())]
        try:
            # Training scripts store their flags as a Namespace, which runs no code.
            with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
                warnings.simplefilter("ignore")  # about old formats; what matters is raised
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            told = re.search(r"Can only SETITEMS? .*but got <class '\.(.+)'>", str(error))
            if told is None or kinds.get(told[1]) is not Foreign:
                raise
            kinds[told[1]] = ForeignDict


def _is_of_values(name: str) -> bool:
    module, _, rest = name.partition(".")
    if module == "builtins":
        return isinstance(getattr(builtins, rest, None), type)
    return module in OF_VALUES or module not in sys.stdlib_module_names


def _names_in(path: Path) -> list[str]:
    """The names of classes and functions in a file of `torch.save`. torch loads those that it knows itself."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inside = [name for name in archive.namelist() if name.count("/") == 1]
            if any(name.endswith("/constants.pkl") for name in inside):
                raise BadRequest(f"{path}: is a TorchScript archive: save model.state_dict() instead of the model")
            for name in inside:
                if name.endswith("/data.pkl"):
                    with archive.open(name) as file:
                        return _names_in_pickles(file, 1)
        return []
    with path.open("rb") as file:  # before torch 1.6: four pickles; the last has the content
        return _names_in_pickles(file, 4)


def _names_in_pickles(file: IO[bytes], count: int) -> list[str]:
    names = {}
    for _ in range(count):
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")
                names[f"{OLD_MODULES.get(module, module)}.{name}"] = None
    return [name for name in names if name != "argparse.Namespace"]


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
