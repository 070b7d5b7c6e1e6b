"""Shared fixtures: the command line in this process, and small data sets in the published formats."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Hide the GPU, also from child processes: bit-for-bit equality holds on CPUs.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import main
from image_datasets import decode
from records import plots
from settings import terminal
from training.devices import keep_freed_memory

# Flags of commands that log nothing to wandb, or that configure wandb themselves.
NO_WANDB = ("--wandb", "--list-models", "--predict", "--summary", "--inspect-data", "--measure", "--help")

torch.backends.mps.is_available = lambda: False


# Fixtures with which a test trains, or runs the suite in other processes; `reported` writes a whole report.
SLOW_FIXTURES = {
    "learns", "trained", "together", "studies", "terminal", "session", "main", "cluster", "sbatch", "reported"
}  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before -m "not slow" selects
def pytest_collection_modifyitems(items):
    """Marks the tests that train as slow; other slow tests carry the mark themselves. Skips those marked `long`."""
    for item in items:
        if SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker("slow")
        for mark in item.iter_markers("long"):
            if not os.environ.get("LONG_TESTS"):
                item.add_marker(pytest.mark.skip(reason=f"{mark.args[0]}; .ci/long runs it"))


@pytest.fixture(autouse=True)
def freed_memory_goes_back():
    """Several test processes share the memory of a small machine; a run of the suite keeps what it has freed."""
    yield
    keep_freed_memory(False)


@pytest.fixture(autouse=True, scope="module")
def old_objects_are_not_searched():
    """Keeps imported objects out of later garbage collections, which would take half a second each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def blank_pictures(request, monkeypatch):
    """Leaves both pictures of a run blank: drawing them takes longer than training a small network.

    Tests marked `draws` have the real ones. tests/records/test_plots.py draws them in all forms.
    """
    if not request.node.get_closest_marker("draws"):
        for name in ("plot_curves", "plot_confusion"):
            monkeypatch.setattr(plots, name, lambda *args: Image.new("L", (1, 1)).save(args[-1]))


@dataclass
class Result:
    status: int
    out: str
    err: str


@pytest.fixture
def workdir(tmp_path, monkeypatch) -> Path:
    """An empty working directory, so that tests see which files a command writes."""
    path = tmp_path / "work"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def cli(workdir, monkeypatch, capsys):
    """Runs a script (main.py by default) with a command line in this process, in `workdir`. Disables wandb unless the
    command line names it."""

    def run(command: str, *more: str, script=main) -> Result:
        words = [*command.split(), *more]
        plain = script.__name__ in ("viz_random_10_vit_vs_deit", "study", "reproduce")
        plain = plain or any(word.startswith(NO_WANDB) for word in words if "run" not in word)
        name = f"{script.__name__}.py"
        monkeypatch.setattr("sys.argv", [name, *words, *([] if plain else ["--wandb", "disabled"])])
        capsys.readouterr()
        try:
            status = terminal.run_script(script.main)
        except SystemExit as end:  # from --help
            status = end.code
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return run


@pytest.fixture
def learns(cli):
    """Like `cli`, for commands that must succeed."""

    def run(command: str, *more: str, script=main) -> Result:
        result = cli(command, *more, script=script)
        assert result.status == 0, result.err
        return result

    return run


def class_images(rng: np.random.Generator, labels: np.ndarray, side: int) -> np.ndarray:
    """uint8 (N, side, side, 3). The position of a bright patch is the class: learnable, but not by mean colour."""
    images = rng.integers(0, 120, (len(labels), side, side, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 4)
        cell = side // 4
        image[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] += 120
    return images


@pytest.fixture
def cifar100_folder(tmp_path, monkeypatch) -> Path:
    """CIFAR-100's Python format with four classes and 6 + 4 images per class. Patches torchvision to accept their
    checksums as the published ones."""
    from torchvision import datasets

    root = tmp_path / "cifar"
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, per_class in (("train", 6), ("test", 4)):
        labels = np.repeat(np.arange(4), per_class)
        rows = class_images(rng, labels, 32).transpose(0, 3, 1, 2).reshape(len(labels), -1)
        content = {"data": rows, "fine_labels": labels.tolist(), "filenames": [f"{i}.png" for i in range(len(labels))]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = ["apple", "baby", "bear", "bed"]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol=2))

    def checksum(name: str) -> str:
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", checksum("train")]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", checksum("test")]])
    monkeypatch.setattr(
        datasets.CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": checksum("meta")}
    )
    return root


@pytest.fixture
def image_folder(tmp_path):
    """Writes train/<class>/... as PNG files: image_folder(side=.., parts={"train": images per class, ...})."""

    def make(side: int = 16, parts: dict[str, int] | None = None, classes: int = 3, name: str = "images") -> Path:
        root = tmp_path / name
        rng = np.random.default_rng(1)
        for part, per_class in (parts or {"train": 8, "test": 4}).items():
            for label in range(classes):
                folder = root / part / f"class{label}"
                folder.mkdir(parents=True)
                for i, image in enumerate(class_images(rng, np.full(per_class, label), side)):
                    Image.fromarray(image).save(folder / f"{i}.png")
        return root

    return make


def fit_head(head: nn.Linear, features: torch.Tensor, targets: torch.Tensor) -> None:
    """Fits a layer by least squares, so that it predicts the right class for these features (N, in_features)."""
    inputs = torch.cat([features, torch.ones(len(features), 1)], 1).double()
    wanted = torch.nn.functional.one_hot(targets, head.out_features).double()
    solution = torch.linalg.lstsq(inputs, wanted, driver="gelsd").solution.float()
    with torch.no_grad():
        head.weight.copy_(10 * solution[:-1].T)
        head.bias.copy_(10 * solution[-1])


WNIDS = ["n01440764", "n01443537", "n01484850", "n15075141"]


@pytest.fixture
def shards(tmp_path):
    """Writes ImageNet-100's layout: train.X1, train.X2 and val.X with images of four ImageNet classes, and Labels.json.
    Of the training shards only the second holds the last class."""

    def make(side: int = 32, per_class: int = 6) -> Path:
        root = tmp_path / "shards"
        rng = np.random.default_rng(2)
        for part in ("train.X1", "train.X2", "val.X"):
            for label, wnid in enumerate(WNIDS):
                if (part, label) == ("train.X1", 3):
                    continue
                folder = root / part / wnid
                folder.mkdir(parents=True)
                for i, image in enumerate(class_images(rng, np.full(per_class, label), side)):
                    Image.fromarray(image).save(folder / f"{wnid}_{part.partition('.')[2]}{i}.JPEG", quality=95)
        names = ["tench, Tinca tinca", "goldfish", "great white shark, white shark", "toilet tissue, toilet paper"]
        (root / "Labels.json").write_text(json.dumps(dict(zip(WNIDS, names, strict=True))))
        return root

    return make


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Writes a randomly initialised model, optionally changed by a function, into torch's cache as torchvision's
    published weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    assert tmp_path in folder.parents
    folder.mkdir(parents=True)

    def put(name: str, change: Callable[[nn.Module], None] = lambda model: None) -> None:
        torch.manual_seed(0)
        more = {"init_weights": False} if name == "googlenet" else {}
        model = torchvision.models.get_model(name, **more)
        normalisations = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for module in normalisations:
            module.momentum = 1.0
        if normalisations:  # with these statistics the logits depend on the image, as with trained weights
            with torch.no_grad():
                model.train()(torch.randn(8, 3, 64, 64))
        change(model)
        torch.save(model.state_dict(), folder / "new.pth")
        digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
        (folder / "new.pth").rename(folder / f"{name}-{digest[:8]}.pth")
        weights = torchvision.models.get_model_weights(name).DEFAULT
        monkeypatch.setattr(weights.value, "url", f"https://example.invalid/{name}-{digest[:8]}.pth")

    return put


@pytest.fixture
def store(tmp_path):
    """Writes a file; returns its path."""

    def write(content: bytes, name: str = "a.jpg") -> str:
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return write


@pytest.fixture(params=["simplejpeg", "pillow"])
def decoder(request, monkeypatch):
    """Each of the two decoders in turn; simplejpeg is optional."""
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setitem(sys.modules, "simplejpeg", None)
    decode._decoder.cache_clear()
    yield request.param
    decode._decoder.cache_clear()
