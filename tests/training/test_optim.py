"""Parameter groups against timm's, and optimisers against torch's."""

from collections import OrderedDict

import pytest
import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

import models
from training.optim import freeze_backbone, make_optimizer, parameter_groups, train_mode
from utils import BadRequest


def network() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2), nn.LayerNorm(2))
    model.head_names = ("3",)
    return model


def decay_of(optimizer: torch.optim.Optimizer) -> dict[tuple, float]:
    return {tuple(p.shape): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_biases_and_normalisation_are_not_decayed_as_in_timm(name):
    model = network()
    expected = decay_of(create_optimizer_v2(model, opt="adamw", lr=0.1, weight_decay=0.3))
    assert decay_of(make_optimizer(parameter_groups(model, 0.3), name, 0.1, 0.9, nesterov=False)) == expected
    groups = parameter_groups(model, 0.3, decay_all=True)
    assert set(decay_of(make_optimizer(groups, name, 0.1, 0.9, nesterov=False)).values()) == {0.3}


def by_name(model: nn.Module, groups: list[dict], key: str) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: group[key] for group in groups for parameter in group["params"]}


@pytest.mark.parametrize("name", ["vit_tiny", "timm/vit_tiny_patch16_224", "timm/resnet10t", "deit_tiny_distill"])
def test_layer_decay_and_what_is_not_decayed_are_timms(name):
    model = models.create_model(name, 5, 32)
    theirs = param_groups_layer_decay(
        model, weight_decay=0.1, layer_decay=0.7, no_weight_decay_list=getattr(model, "no_weight_decay", set)()
    )
    groups = parameter_groups(model, 0.1, layer_decay=0.7)
    for key in ("weight_decay", "lr_scale"):
        assert by_name(model, groups, key) == pytest.approx(by_name(model, theirs, key)), key
    if "vit" in name:  # the head, twelve blocks, and the patch embedding
        assert min(by_name(model, groups, "lr_scale").values()) == pytest.approx(0.7**13)


@pytest.mark.parametrize(
    ("name", "layers"),
    [  # from the head down: the head, one layer for each block, the stem
        ("resnet20", [("fc.weight", 0), ("layer3.2.conv2.weight", 1), ("layer3.0.bn1.bias", 3), ("conv1.weight", 10)]),
        ("torchvision/vit_b_16", [("heads.head.bias", 0), ("encoder.layers.encoder_layer_11.mlp.0.weight", 1),
                                  ("encoder.layers.encoder_layer_0.ln_1.weight", 12), ("conv_proj.weight", 13)]),
        ("mobilenet_v2", [("classifier.1.weight", 0), ("features.18.0.weight", 1), ("features.0.0.weight", 19)]),
    ],
)  # fmt: skip
def test_layer_decay_counts_the_blocks_of_models_without_a_group_matcher(name, layers):
    with torch.device("meta"):
        model = models.create_model(name, 5, 32)
    scales = by_name(model, parameter_groups(model, 0.1, layer_decay=0.5), "lr_scale")
    for parameter, distance in layers:
        assert scales[parameter] == pytest.approx(0.5**distance), parameter


def test_the_head_has_a_learning_rate_of_its_own():
    model = models.create_model("deit_tiny_distill", 5, 32, depth=1)
    scales = by_name(model, parameter_groups(model, 0.1, layer_decay=0.5, head_scale=4.0), "lr_scale")
    heads = {name for name, scale in scales.items() if scale == 4.0}
    assert heads == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}
    assert scales["blocks.0.mlp.fc1.weight"] == 0.5


def test_a_frozen_backbone_leaves_the_head_and_keeps_its_statistics():
    model = models.create_model("resnet20", 5, 32)
    freeze_backbone(model)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
    assert set(by_name(model, parameter_groups(model, 0.1), "weight_decay")) == {"fc.weight", "fc.bias"}
    train_mode(model)
    before = model.bn1.running_mean.clone()
    model(torch.randn(4, 3, 32, 32))
    assert torch.equal(model.bn1.running_mean, before)
    assert model.training and model.fc.training

    whole = models.create_model("resnet20", 5, 32).eval()
    train_mode(whole)
    assert all(module.training for module in whole.modules())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["vit_scratch", "timm/vit_tiny_patch16_224", "mobilenet_v3_small", "deit_tiny_distill"]
)
def test_a_frozen_backbone_has_no_dropout(name):
    more = {"drop_rate": 0.5} if name.startswith("timm/") else {"dropout": 0.5}
    model = models.create_model(name, 5, 32, **more)
    freeze_backbone(model)
    train_mode(model)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        first, second = model(images), model(images)
    assert isinstance(first, tuple) == (name == "deit_tiny_distill")
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_model_that_does_not_number_its_blocks_has_no_layer_decay():
    model = nn.Sequential(OrderedDict(body=nn.Linear(2, 2), head=nn.Linear(2, 2)))
    model.head_names = ("head",)
    with pytest.raises(BadRequest, match="--layer-decay: this model does not tell"):
        parameter_groups(model, 0.1, layer_decay=0.5)


@pytest.mark.parametrize(
    ("name", "nesterov", "reference"),
    [
        ("sgd", False, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, weight_decay=0.01, foreach=False)),
        ("sgd", True, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, weight_decay=0.01, nesterov=True)),
        ("adam", False, lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01)),
        ("adamw", False, lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01)),
    ],
)
def test_each_name_is_the_optimiser_it_says(name, nesterov, reference):
    torch.manual_seed(0)
    model, other = nn.Linear(4, 3), nn.Linear(4, 3)
    other.load_state_dict(model.state_dict())
    pair = [
        (model, make_optimizer([{"params": list(model.parameters()), "weight_decay": 0.01}], name, 0.1, 0.8, nesterov)),
        (other, reference(other.parameters())),
    ]
    x = torch.randn(8, 4)
    for _ in range(5):
        for network, optimizer in pair:
            network(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert torch.allclose(model.weight, other.weight, atol=1e-6)
