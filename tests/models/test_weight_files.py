"""Files of weights as the usual scripts write them: what is read, and that nothing in them runs."""

from __future__ import annotations

import argparse
import collections
import pathlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from test_weights import WritesAFile
from torch import nn

import models
from models import weight_files, weights
from utils import BadRequest


def network(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return models.create_model("resnet20", 10, 32)


class Lightning(nn.Module):
    """A module that holds the network as Lightning's do, beside a layer of its own."""

    def __init__(self, **parts: nn.Module):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class Config(dict):
    """A dict whose class only the script has, such as EasyDict and CfgNode."""


class Schedule:
    """An object with a state."""

    def __init__(self):
        self.step, self.names = 3, ["a"]


def assert_loads(path: Path, source: nn.Module, kind: str = "raw") -> list[str]:
    """Asserts that another network gets all weights of `source` from the file. Returns the notes."""
    target, read = network(seed=2), weight_files.read_weights(path)
    notes = weights.load(target, read.state, path.name)
    assert read.kind == kind
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name
    return notes


def average(model: nn.Module) -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(model)


WRITERS = {
    "DataParallel": lambda model: {"epoch": 3, "net": nn.DataParallel(model).state_dict()},
    "compiled": lambda model: torch.compile(model).state_dict(),
    "compiled within DataParallel": lambda model: {"model": nn.DataParallel(torch.compile(model)).state_dict()},
    "DataParallel within a wrapper": lambda model: Lightning(model=nn.DataParallel(model)).state_dict(),
    "Lightning": lambda model: {
        "state_dict": Lightning(model=model).state_dict(),
        "hyper_parameters": Config(lr=0.1),
        "pytorch-lightning_version": "2.4.0",
    },
    "Lightning, nested": lambda model: {"state_dict": Lightning(model=Lightning(backbone=model)).state_dict()},
    "Lightning, compiled": lambda model: {"state_dict": Lightning(net=torch.compile(model)).state_dict()},
    "backbone": lambda model: {"model_state": Lightning(backbone=model).state_dict(), "epoch": 1},
    "timm": lambda model: {
        "epoch": 3,
        "arch": "resnet20",
        "state_dict": model.state_dict(),
        "optimizer": torch.optim.SGD(model.parameters(), 0.1).state_dict(),
        "args": argparse.Namespace(lr=0.1),
        "metric": np.float64(91.7),
    },
    "plain values": lambda model: {**model.state_dict(), "epoch": 3, "best": np.float32(0.9)},
    "objects beside": lambda model: {
        "state_dict": model.state_dict(),
        "best_prec1": np.float64(91.7),
        "history": np.arange(3.0),
        "path": pathlib.PurePosixPath("/data"),
        "device": torch.device("cpu"),
        "counts": collections.defaultdict(list, a=[1]),
        "config": Config(lr=0.1, inner=Config(a=1)),
        "schedule": Schedule(),
        "classes": {"cat", "dog"},
    },
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("writer", WRITERS)
def test_what_the_usual_scripts_save_is_understood(writer, old, tmp_path):
    source = network()
    torch.save(WRITERS[writer](source), tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
    assert assert_loads(tmp_path / "a.pth", source) == []


def test_safetensors_are_read_whatever_their_name(tmp_path):
    source = network()
    safetensors.torch.save_file(source.state_dict(), tmp_path / "a.bin", {"format": "pt"})
    assert assert_loads(tmp_path / "a.bin", source) == []
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.bin").read_bytes()[:-100])
    with pytest.raises(BadRequest, match=r"b\.safetensors: damaged, or not a checkpoint"):
        weight_files.read_checkpoint(tmp_path / "b.safetensors")


def test_averaged_weights_are_found_wherever_they_lie(tmp_path):
    raw, averaged = network(), network(seed=3)
    forms = [
        {"state_dict": raw.state_dict(), "ema": average(averaged).state_dict()},
        {"state_dict": Lightning(model=raw, ema_model=average(averaged)).state_dict()},
        timm_form(raw, averaged),
    ]
    for form in forms:
        torch.save(form, tmp_path / "a.pth")
        assert assert_loads(tmp_path / "a.pth", averaged, "ema") == []
        assert torch.equal(
            weights_by_name(weight_files.read_weights(tmp_path / "a.pth", "raw").state)["fc.weight"], raw.fc.weight
        )


def timm_form(raw: nn.Module, averaged: nn.Module) -> dict:
    """A checkpoint of timm's own class."""
    ema = timm.utils.ModelEmaV3(raw)
    ema.module.load_state_dict(averaged.state_dict())
    return {"state_dict": raw.state_dict(), "state_dict_ema": timm.utils.get_state_dict(ema), "version": 2}


def weights_by_name(state: dict) -> dict:
    return {name.removeprefix("model."): value for name, value in state.items()}


def test_objects_of_unknown_classes_do_nothing_and_keep_their_state(tmp_path):
    content = {"state_dict": {"a.b": torch.zeros(1)}, "schedule": Schedule(), "config": Config(lr=0.1)}
    torch.save(content, tmp_path / "a.pth")
    read = weight_files.read_checkpoint(tmp_path / "a.pth")
    assert type(read["schedule"]) is not Schedule and read["schedule"].state == {"step": 3, "names": ["a"]}
    assert type(read["config"]) is not Config and read["config"] == {"lr": 0.1}


class CallsAFunction:
    """Its pickle calls a function that no part of Python has: one of the script that is in the way."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def mark(path: str) -> dict:
    Path(path).touch()
    return {}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before torch 1.6"])
def test_functions_of_scripts_are_not_called(old, tmp_path):
    marker = tmp_path / "ran"
    content = {"model": network().state_dict(), "extra": CallsAFunction(mark, str(marker))}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert marker.exists()  # it would be called
    marker.unlink()
    read = weight_files.read_checkpoint(tmp_path / "a.pth")
    assert not marker.exists() and type(read["extra"]).__mro__[1] is weight_files.Foreign


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before torch 1.6"])
def test_functions_of_python_are_refused_by_name_and_not_called(old, tmp_path):
    marker = tmp_path / "ran"
    for extra in (WritesAFile(marker), CallsAFunction(eval, f"open({str(marker)!r}, 'w')")):
        content = {"model": network().state_dict(), "schedule": Schedule(), "extra": extra}
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
        with pytest.raises(BadRequest, match=r"a\.pth: .* it calls (io\.open|builtins\.eval)"):
            weight_files.read_checkpoint(tmp_path / "a.pth")
        assert not marker.exists()


@pytest.mark.parametrize("key", [None, "net", "network object"])
def test_a_whole_model_is_refused_with_what_to_save_instead(key, tmp_path):
    torch.save(network() if key is None else {key: network(), "acc": 0.9}, tmp_path / "a.pth")
    with pytest.raises(BadRequest, match=r"whole model, a pickled object of the class models\.resnet\.ResNet: save"):
        weight_files.read_weights(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_a_torchscript_archive_is_refused_as_what_it_is(tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "a.pt")
    with pytest.raises(BadRequest, match=r"a\.pt: is a TorchScript archive: save model\.state_dict\(\)"):
        weight_files.read_checkpoint(tmp_path / "a.pt")


def test_weights_under_unusual_keys_are_named(tmp_path):
    torch.save({"student": network().state_dict(), "teacher": network().state_dict()}, tmp_path / "a.pth")
    with pytest.raises(BadRequest, match="only under 'student', 'teacher': save one of them alone"):
        weight_files.read_weights(tmp_path / "a.pth")
