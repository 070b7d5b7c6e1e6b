"""Parameter names of other scripts: what is matched, and what is refused because it is not plain."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import models
from models import weights
from utils import BadRequest


def network(num_classes: int = 10, seed: int = 1, name: str = "resnet20", **more) -> nn.Module:
    torch.manual_seed(seed)
    return models.create_model(name, num_classes, more.pop("img_size", 32), **more)


def renamed(state: dict, **words: str) -> dict:
    """The state dict with other first words of its names."""
    parts = ((key.partition("."), value) for key, value in state.items())
    return {f"{words.get(first, first)}.{rest}": value for (first, _, rest), value in parts}


def prefixed(state: dict, prefix: str) -> dict:
    return {prefix + key: value for key, value in state.items()}


def assert_same(target: nn.Module, source: nn.Module, without: str = "-") -> None:
    found = target.state_dict()
    assert all(torch.equal(found[key], value) for key, value in source.state_dict().items() if without not in key)


# ------------------------------------------------------------------------------------------------------------ prefixes


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "model.backbone.", "net.module.encoder."])
def test_a_prefix_is_removed_and_what_lies_outside_is_told(prefix):
    source, target = network(), network(seed=2)
    state = {**prefixed(source.state_dict(), prefix), "criterion.weight": torch.ones(10)}
    notes = weights.load(target, state, "a.pth")
    assert notes == [f"1 tensors of a.pth outside {prefix!r} are left aside: criterion.weight"]
    assert_same(target, source)


def test_two_networks_in_one_file_are_refused_with_both_names():
    state = {**prefixed(network().state_dict(), "student."), **prefixed(network(seed=3).state_dict(), "teacher.")}
    with pytest.raises(BadRequest, match=r"a\.pth: holds more than one such network: student\., teacher\.; save one"):
        weights.load(network(), state, "a.pth")


def test_a_head_beside_the_backbone_is_found():
    source, target = network(), network(seed=2)
    for name in ("fc", "head"):
        state = prefixed({k: v for k, v in source.state_dict().items() if "fc" not in k}, "backbone.")
        state |= {f"{name}.{part}": value for part, value in source.fc.state_dict().items()}
        notes = weights.load(target, state, "a.pth", new_head=False)
        assert notes == ([] if name == "fc" else ["'head' of a.pth is the head, 'fc' here"])
        assert_same(target, source)


def test_a_prefix_before_the_names_of_another_library_is_removed():
    source = models.create_model("vit_tiny", 10, 32, depth=2)
    target = models.create_model("vit_tiny", 10, 32, depth=2)
    theirs = {"class_token": "cls_token", "encoder.pos_embedding": "pos_embed"}
    state = source.state_dict()
    state = {new: state[old] for new, old in theirs.items()}
    with pytest.raises(BadRequest) as caught:
        weights.load(target, prefixed(state, "model."), "a.pth")
    assert "unknown" not in str(caught.value) and "missing: blocks" in str(caught.value)


# --------------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("name", ["linear", "classifier", "head", "last_layer"])
def test_a_head_under_another_name_is_recognised_by_its_shape(name):
    source, target = network(), network(seed=2)
    notes = weights.load(target, renamed(source.state_dict(), fc=name), "a.pth", new_head=False)
    assert notes == [f"{name!r} of a.pth is the head, 'fc' here"]
    assert_same(target, source)


def test_such_a_head_of_other_classes_is_replaced_or_refused():
    source, target = network(100), network(10, seed=2)
    state = renamed(source.state_dict(), fc="linear")
    fresh = target.fc.weight.clone()
    assert weights.load(target, dict(state), "a.pth")[1] == "head 'fc' replaced: a.pth has 100 classes, this model 10"
    assert_same(target, source, without="fc")
    assert torch.equal(target.fc.weight, fresh)
    with pytest.raises(BadRequest, match=r"a\.pth: its head 'fc' has 100 classes, not 10"):
        weights.load(target, dict(state), "a.pth", new_head=False)
    assert weights.classes_of(target, state, "a.pth") == 100


def test_two_layers_that_may_be_the_head_are_refused_with_both():
    state = renamed(network().state_dict(), fc="linear")
    state |= {"other.weight": torch.zeros(7, 64), "other.bias": torch.zeros(7)}
    with pytest.raises(BadRequest, match=r"more than one layer .*: linear \(10, 64\), other \(7, 64\)"):
        weights.load(network(), state, "a.pth")
    state |= {"other.weight": torch.zeros(10, 64), "other.bias": torch.zeros(10)}
    with pytest.raises(BadRequest, match=r"more than one layer .*: linear \(10, 64\), other \(10, 64\)"):
        weights.load(network(), state, "a.pth", new_head=False)


def test_a_layer_of_another_width_or_without_bias_is_no_head():
    state = renamed(network().state_dict(), fc="linear")
    for wrong in ({"linear.weight": torch.zeros(10, 32)}, {"linear.bias": None}):
        changed = {key: value for key, value in {**state, **wrong}.items() if value is not None}
        with pytest.raises(BadRequest, match=r"2 missing: fc\.bias, fc\.weight; . unknown: linear\."):
            weights.load(network(), changed, "a.pth")


def test_a_backbone_without_a_head_gets_a_new_one_and_cannot_be_scored():
    source, target = network(), network(seed=2)
    state = {key: value for key, value in source.state_dict().items() if not key.startswith("fc")}
    fresh = target.fc.weight.clone()
    assert weights.load(target, state, "a.pth") == ["a.pth has no head: 'fc' starts anew"]
    assert_same(target, source, without="fc")
    assert torch.equal(target.fc.weight, fresh)
    with pytest.raises(BadRequest, match=r"a\.pth: has no head \('fc'\), so there is nothing to score"):
        weights.load(target, state, "a.pth", new_head=False)


def test_unknown_names_come_with_the_nearest_of_the_model():
    state = network().state_dict()
    state["layer1.0.conv1_weight"] = state.pop("layer1.0.conv1.weight")
    state["qqq"] = torch.zeros(1)
    with pytest.raises(
        BadRequest, match=r"2 unknown: layer1\.0\.conv1_weight \(nearest: layer1\.0\.conv1\.weight\), qq"
    ):
        weights.load(network(), state, "a.pth")


# -------------------------------------------------------------------------------------------------- shortcuts and stems


def test_shortcuts_under_the_name_of_the_usual_scripts_are_understood():
    source, target = network(shortcut="B"), network(seed=2, shortcut="B")
    state = {key.replace("downsample", "shortcut"): value for key, value in source.state_dict().items()}
    assert state.keys() != source.state_dict().keys()
    assert weights.load(target, renamed(state, fc="linear"), "a.pth", new_head=False) == [
        "'linear' of a.pth is the head, 'fc' here"
    ]
    assert_same(target, source)
    assert models.settle_arguments("resnet20", {}, state) == {"shortcut": "B"}
    assert models.settle_arguments("resnet20", {}, network().state_dict()) == {"shortcut": "A"}
    assert models.settle_arguments("resnet20", {"shortcut": "A"}, state) == {"shortcut": "A"}
    assert models.settle_arguments("resnet18", {}, state) == {}


@pytest.mark.parametrize(("file", "asked"), [("A", "B"), ("B", "A")])
def test_the_other_form_of_shortcuts_is_named(file, asked):
    state = network(shortcut=file).state_dict()
    with pytest.raises(BadRequest, match=f"; their shortcuts have .*: --shortcut {file} fits"):
        weights.load(network(shortcut=asked), state, "a.pth")


@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
@pytest.mark.parametrize(("file", "asked"), [("imagenet", "cifar"), ("cifar", "imagenet")])
def test_weights_with_the_other_stem_name_its_flag(name, file, asked):
    with torch.device("meta"):
        state = network(name=name, stem=file).state_dict()
        with pytest.raises(BadRequest, match=f"; they have the stem of --stem {file}"):
            weights.load(network(name=name, stem=asked), state, "a.pth")


def test_no_stem_is_named_where_there_is_no_such_flag():
    with torch.device("meta"):
        state = network(name="resnet18", stem="cifar").state_dict()
        for model, teacher in ((network(name="torchvision/resnet18"), False), (network(name="resnet18"), True)):
            state["conv1.weight"] = torch.empty(64, 3, 5, 5)
            with pytest.raises(BadRequest) as caught:
                weights.load(model, state, "a.pth", teacher=teacher)
            assert "--stem" not in str(caught.value)


# --------------------------------------------------------------------------------------------------------------- order


def by_layer(state: dict) -> dict:
    """Names of another script that keep the parts of a layer together."""
    layers = {layer: i for i, layer in enumerate(dict.fromkeys(key.rpartition(".")[0] for key in state))}
    return {f"_part{layers[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in state.items()}


def test_the_order_is_proposed_where_it_fits_and_taken_where_it_is_asked_for():
    source, target = network(), network(seed=2)
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked.fill_(7)
    state = by_layer(source.state_dict())
    with pytest.raises(BadRequest, match=r"in their order they fit: --weights-by-order takes them so"):
        weights.load(target, state, "a.pth")
    with pytest.raises(BadRequest, match=r"--teacher-weights-by-order takes them so"):
        weights.load(target, state, "a.pth", teacher=True)
    (note,) = weights.load(target, state, "a.pth", by_order=True, new_head=False)
    assert note.startswith(
        f"{len(state)} tensors taken by their order: _part0.weight as conv1.weight, _part1.weight as"
    )
    assert_same(target, source)
    assert len(target.load_pairs) == len(state) and set(dict(target.load_pairs)) == set(state)


def test_counters_that_are_missing_are_no_obstacle_to_the_order():
    source, target = network(), network(seed=2)
    state = {key: value for key, value in by_layer(source.state_dict()).items() if "tracked" not in key}
    assert len(weights.load(target, state, "a.pth", by_order=True)) == 1
    assert_same(target, source)


def test_a_head_of_other_classes_is_replaced_in_order_too():
    source, target = network(100), network(10, seed=2)
    state = by_layer(source.state_dict())
    assert weights.classes_of(target, state, "a.pth", by_order=True) == 100
    assert weights.load(target, state, "a.pth", by_order=True)[1] == (
        "head 'fc' replaced: a.pth has 100 classes, this model 10"
    )
    assert_same(target, source, without="fc")


@pytest.mark.parametrize("change", ["one more", "swapped", "another shape"])
def test_an_order_that_does_not_fit_is_refused_and_not_proposed(change):
    state = by_layer(network().state_dict())
    if change == "one more":
        state["more.weight"], needle = torch.zeros(3), r"a\.pth: has 98 tensors, the model 97"
    elif change == "swapped":
        items = list(state.items())
        items[1], items[2] = items[2], items[1]
        state, needle = dict(items), r"tensor 2 in order is _part1\.bias \(16,\), the model's bn1\.weight \(16,\)"
    else:
        state["_part0.weight"] = torch.zeros(16, 3, 5, 5)
        needle = r"tensor 1 in order is _part0\.weight \(16, 3, 5, 5\), the model's conv1\.weight \(16, 3, 3, 3\)"
    with pytest.raises(BadRequest, match=needle):
        weights.load(network(), state, "a.pth", by_order=True)
    with pytest.raises(BadRequest, match="weights of another model") as caught:
        weights.load(network(), state, "a.pth")
    assert "by-order" not in str(caught.value)
