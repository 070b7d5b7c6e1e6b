"""Names and variants: the source text tells what the modules register; unknown names are refused with a hint."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

import models
from models import registry
from utils import BadRequest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def register():
    """`models.register_model`, undone after the test."""
    names = []

    def decorate(function):
        names.append(function.__name__)
        return models.register_model(year=2024, paper="none")(function)

    yield decorate
    for name in names:
        registry._CONSTRUCTORS.pop(name, None)


def test_what_is_read_from_source_is_what_the_modules_register():
    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"models.{module.name}")
    registered = {name: entry for name, (entry, _) in registry._CONSTRUCTORS.items()}
    assert registry._entries_in_source() == registered
    assert {"resnet18", "resnet20", "vgg16"} <= set(registered)


def test_every_timm_and_torchvision_name_is_known():
    assert models.list_models("timm/*") == sorted(f"timm/{name}" for name in timm.list_models())
    theirs = torchvision.models.list_models(module=torchvision.models)
    assert models.list_models("torchvision/*") == sorted(f"torchvision/{name}" for name in theirs)


def test_models_are_listed_by_wildcard_or_by_a_part_of_the_name():
    assert models.list_models("vgg1[13]") == ["vgg11", "vgg13"]
    assert models.list_models("gg1") == ["vgg11", "vgg13", "vgg16", "vgg19"]
    assert models.list_models("timm/resnet10t") == ["timm/resnet10t"]
    assert models.list_models("nothing_like_it") == []
    assert models.list_models() == sorted(models.list_models("*"))


@pytest.mark.parametrize("name", models.list_models())
def test_every_registered_model_gives_one_logit_a_class(name):
    with torch.device("meta"):
        model = models.create_model(name, num_classes=7, img_size=224, in_chans=1)
        assert model.eval()(torch.empty(2, 1, 224, 224)).shape == (2, 7)
    assert model.head_names
    assert model.load_notes == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt18", "unknown model 'resnt18'. Did you mean resnet18"),
        ("vgg-16", "Did you mean vgg16"),
        ("maxvit_t", "Did you mean torchvision/maxvit_t?"),
        ("vit_tiny_patch16_224", "Did you mean timm/vit_tiny_patch16_224?"),
        ("zzzz", "unknown model 'zzzz'. --list-models shows all: "),
        ("", "unknown model ''"),
        ("keras/resnet50", "unknown model 'keras/resnet50': a prefix is timm/ or torchvision/"),
        ("timm/resnet18d5", "timm has no model 'resnet18d5'. Did you mean resnet18d"),
        ("torchvision/resnet17", "torchvision has no model 'resnet17'. Did you mean resnet1"),
        ("torchvision/resnet18.tv_in1k", "torchvision has no model 'resnet18.tv_in1k'"),
        ("timm/", "unknown model 'timm/'"),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion(name, message):
    with pytest.raises(BadRequest) as caught:
        models.check_name(name)
    assert message in str(caught.value)
    with pytest.raises(BadRequest):
        models.create_model(name)


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet10t", "timm/resnet10t.c3_in1k", "torchvision/alexnet"])
def test_a_known_name_passes(name):
    models.check_name(name)


def test_own_names_and_misspelt_ones_are_checked_without_importing_torch():
    code = (
        "import sys, models\n"
        "models.check_name('resnet18')\n"
        "for name in ('resnt18', 'keras/resnet50'):\n"
        "    try: models.check_name(name)\n"
        "    except models.registry.BadRequest as error: print(error)\n"
        "print(len(models.list_models()), sorted({'torch', 'timm', 'torchvision', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert [line.split(".")[0] for line in lines[:2]] == [
        "unknown model 'resnt18'", "unknown model 'keras/resnet50': a prefix is timm/ or torchvision/"
    ]  # fmt: skip
    assert lines[2].split(maxsplit=1)[1] == "[]"


def test_without_the_libraries_an_unknown_name_gets_no_hint_and_theirs_name_what_is_missing(monkeypatch):
    for library in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BadRequest, match=r"^unknown model 'maxvit_t'\. --list-models shows all: "):
        models.check_name("maxvit_t")
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(BadRequest, match=r"^timm>=[\d.]+ is not installed"):
        models.check_name("timm/resnet18")
    with pytest.raises(BadRequest, match=r"^torchvision>=[\d.]+ is not installed"):
        models.list_models("torchvision/*")


def test_a_model_registered_on_the_fly_can_be_listed_and_created(register):
    @register
    def fixture_linear(num_classes: int, img_size: int, in_chans: int, bias: bool = True) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * img_size**2, num_classes, bias=bias))

    assert "fixture_linear" in models.list_models()
    models.check_name("fixture_linear")
    model = models.create_model("fixture_linear", 5, 4, 3, bias=False)
    assert model(torch.zeros(2, 3, 4, 4)).shape == (2, 5)
    assert model.head_names == ("1",)
    assert len(list(model.parameters())) == 1


def test_two_modules_cannot_register_one_name(register):
    def resnet18(num_classes: int, img_size: int, in_chans: int) -> nn.Module:
        raise AssertionError("must not take the place of models/resnet.py's")

    importlib.import_module("models.resnet")
    with pytest.raises(ValueError, match=r"'resnet18' is registered by models\.resnet already"):
        models.register_model(year=2024, paper="none")(resnet18)
    assert models.find_model("resnet18").module == "models.resnet"


class Pooled(nn.Module):
    def __init__(self, pool: str, num_classes: int, img_size: int, in_chans: int, hidden: int = 4, bias: bool = True):
        super().__init__()
        self.pool, self.hidden = pool, nn.Linear(in_chans * img_size**2, hidden, bias=bias)
        self.fc = nn.Linear(hidden, num_classes)


def test_variants_have_their_own_defaults_and_fix_what_they_do_not_take(monkeypatch):
    monkeypatch.setattr(registry, "_CONSTRUCTORS", dict(registry._CONSTRUCTORS))
    models.register_variants(
        Pooled,
        models.variant("pooled_mean", pool="mean"),
        models.variant("pooled_max", pool="max", hidden=6, bias=False, takes=("hidden",), year=2025, img_size=8),
        year=2024,
        paper="none",
    )
    mean, largest = models.find_model("pooled_mean"), models.find_model("pooled_max")
    assert [(argument.name, argument.default) for argument in mean.arguments] == [("hidden", 4), ("bias", True)]
    assert [(argument.name, argument.default) for argument in largest.arguments] == [("hidden", 6)]
    assert (mean.year, mean.img_size, largest.year, largest.img_size) == (2024, None, 2025, 8)
    model = models.create_model("pooled_max", 5, 8, 1, hidden=3)
    assert model.pool == "max" and model.hidden.weight.shape == (3, 64) and model.hidden.bias is None
    for name in ("pool", "bias"):
        with pytest.raises(BadRequest, match=f"pooled_max has no argument {name}; it takes num_classes, .*, hidden$"):
            models.create_model("pooled_max", 5, 8, 1, **{name: False})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("register_variants(Net, variant('a', depth=1, width=2), {})", "a: its constructor has no argument width"),
        ("register_variants(Net, variant('a', depth=1, takes=('x',)), {})", "a: its constructor has no argument x"),
        ("register_variants(Net, variant('a'), {})", "a: its argument depth needs a value"),
        ("register_variants(Net, variant('a', depth=1, size=2 * 3), {})", "a: its argument size needs a literal"),
        ("register_variants(Other, variant('a'), {})", "Other is not defined in this file"),
        ("register_variants(Bare, variant('a'), {})", "Bare has no __init__ of its own"),
        ("@register_model({})\ndef a(num_classes, x): ...", "a: its argument x needs a value"),
    ],
)
def test_a_registration_that_cannot_be_read_from_source_is_named(line, message, tmp_path, monkeypatch):
    net = "class Net:\n    def __init__(self, depth, num_classes, size=3): ...\nclass Bare: ...\n"
    (tmp_path / "net.py").write_text(net + line.format("year=2024, paper='none'"))
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "registry.py"))
    with pytest.raises(ValueError, match=message):
        registry._entries_in_source.__wrapped__()


def test_an_argument_that_the_model_does_not_take_is_refused():
    with pytest.raises(BadRequest, match="resnet20 has no argument stem; it takes num_classes, img_size, in_chans"):
        models.create_model("resnet20", stem="cifar")
    with pytest.raises(BadRequest, match="resnet18 has no argument depth, dropout"):
        models.create_model("resnet18", dropout=0.5, depth=3)
    with pytest.raises(BadRequest, match="stem 'tiny' is none of auto, cifar, imagenet"):
        models.create_model("resnet18", stem="tiny")


def test_pretrained_weights_that_nobody_published_are_refused():
    with pytest.raises(BadRequest, match="no published weights for resnet20"):
        models.create_model("resnet20", pretrained=True)
