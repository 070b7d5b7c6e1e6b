"""MobileNetV2 against torchvision's, and each of its ablations against its flag's help text."""

from __future__ import annotations

import pytest
import torch
import torchvision
from reference import STEM_CASES, count, make_on_meta, with_lively_statistics
from torch import nn
from torchvision.ops import SqueezeExcitation

import models
from models.mobilenet_v2 import CustomMobileNetV2, InvertedResidualBlock
from utils import BadRequest

NAME = "mobilenet_v2"
ABLATED = {"expand_ratio": 3, "kernel_size": 5, "activation": "gelu", "se": True, "width_mult": 0.5}


def blocks_of(model: CustomMobileNetV2) -> list[InvertedResidualBlock]:
    return [module for module in model.modules() if isinstance(module, InvertedResidualBlock)]


def depthwise_of(model: CustomMobileNetV2) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.groups > 1]


@pytest.mark.parametrize(("num_classes", "img_size", "published"), [(1000, 224, 3_504_872), (10, 32, 2_236_682)])
def test_the_default_has_the_published_size(num_classes, img_size, published):
    assert count(make_on_meta(NAME, num_classes, img_size)) == published


@pytest.mark.parametrize("width_mult", [0.25, 0.5, 0.75, 1.0, 1.4])
def test_every_width_has_the_layers_of_torchvisions(width_mult):
    with torch.device("meta"):
        reference = torchvision.models.mobilenet_v2(num_classes=10, width_mult=width_mult)
    model = make_on_meta(NAME, 10, 224, width_mult=width_mult)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in reference.state_dict().items()}


def test_it_starts_with_torchvisions_weights_for_the_same_seed():
    torch.manual_seed(0)
    reference = torchvision.models.mobilenet_v2(num_classes=10)
    torch.manual_seed(0)
    model = models.create_model(NAME, 10, 224)
    for key, value in reference.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize(("img_size", "form"), [(96, "imagenet"), (32, "cifar")])
def test_a_training_step_gives_torchvisions_logits_and_statistics(img_size, form):
    torch.manual_seed(0)
    reference = with_lively_statistics(torchvision.models.mobilenet_v2(num_classes=10), 0.5, 1.5).train()
    if form == "cifar":
        for conv in (reference.features[0][0], reference.features[2].conv[1][0]):
            assert conv.stride == (2, 2)
            conv.stride = (1, 1)
    model = models.create_model(NAME, 10, img_size).train()
    model.load_state_dict(reference.state_dict())
    images = torch.randn(4, 3, img_size, img_size)
    with torch.no_grad():
        torch.manual_seed(1)  # for dropout
        expected = reference(images)
        torch.manual_seed(1)
        assert torch.equal(model(images), expected)
    assert expected.std(dim=0).min() > 1e-3, "logits that depend on the image"
    for key, value in reference.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize(("img_size", "stem", "form"), STEM_CASES)
def test_the_stem_follows_the_image_size_unless_it_is_named(img_size, stem, form):
    model = make_on_meta(NAME, 10, img_size, stem=stem)
    assert count(model) == 2_236_682
    assert model.features(torch.empty(2, 3, 32, 32, device="meta")).shape[2] == {"cifar": 4, "imagenet": 1}[form]


@pytest.mark.parametrize(("img_size", "in_chans"), [(32, 1), (64, 3), (65, 1), (224, 3)])
def test_it_takes_these_images(img_size, in_chans):
    model = make_on_meta(NAME, 10, img_size, in_chans, **ABLATED)
    assert model(torch.empty(2, in_chans, img_size, img_size, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_the_expansion_ratio_is_the_width_inside_all_blocks_but_the_first(ratio):
    model = make_on_meta(NAME, 10, 32, expand_ratio=ratio)
    ends = [32, 16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160]  # channels into each block, table 2
    assert [conv.groups for conv in depthwise_of(model)] == [32] + [ratio * chans for chans in ends[1:]]
    with_expansion = [len(block.conv) == 4 for block in blocks_of(model)]
    assert with_expansion == [False] + [ratio > 1] * 16


@pytest.mark.parametrize("kernel_size", [1, 5, 7])
def test_the_kernel_size_is_that_of_the_depthwise_convolutions_alone(kernel_size):
    model = make_on_meta(NAME, 10, 32, kernel_size=kernel_size)
    depthwise = depthwise_of(model)
    assert [conv.kernel_size for conv in depthwise] == [(kernel_size, kernel_size)] * 17
    assert count(model) == 2_236_682 + (kernel_size**2 - 9) * sum(conv.groups for conv in depthwise)
    assert model.features(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 1280, 4, 4)


def test_an_even_kernel_size_is_refused_with_the_odd_ones_beside_it():
    with pytest.raises(BadRequest, match="odd one, such as 3 or 5"):
        models.create_model(NAME, 10, 32, kernel_size=4)


@pytest.mark.parametrize(
    ("activation", "layer"),
    [
        ("relu", nn.ReLU),
        ("relu6", nn.ReLU6),
        ("leaky_relu", nn.LeakyReLU),
        ("silu", nn.SiLU),
        ("hardswish", nn.Hardswish),
        ("hardsigmoid", nn.Hardsigmoid),
        ("gelu", nn.GELU),
    ],
)
def test_the_activation_is_the_only_one_and_stands_after_all_convolutions_but_the_narrowing_ones(activation, layer):
    model = make_on_meta(NAME, 10, 32, activation=activation)
    unlike = (nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.Dropout)
    leaves = [module for module in model.modules() if not list(module.children()) and not isinstance(module, unlike)]
    assert [type(leaf) for leaf in leaves] == [layer] * (1 + 1 + 16 * 2 + 1)  # stem, first block, the others, last
    assert count(model) == 2_236_682


def test_an_unknown_activation_is_refused_with_the_known_ones():
    with pytest.raises(BadRequest, match="'tanh' is none of relu, relu6"):
        models.create_model(NAME, 10, 32, activation="tanh")


def test_squeeze_excitation_scales_what_the_depthwise_convolution_gives():
    torch.manual_seed(0)
    block = with_lively_statistics(InvertedResidualBlock(24, 24, 1, 6, se=True), 0.8, 1.2)
    expand, depthwise, se, narrow, norm = block.conv
    assert se.fc1.weight.shape[:2] == (40, 144)  # a quarter of 144 is 36; 40 is the multiple of 8 nearest to it
    x = torch.randn(2, 24, 6, 6)
    y = depthwise(expand(x))
    squeezed = torch.relu(y.mean((2, 3)) @ se.fc1.weight.flatten(1).T + se.fc1.bias)
    gate = torch.sigmoid(squeezed @ se.fc2.weight.flatten(1).T + se.fc2.bias)
    expected = x + norm(narrow(y * gate[:, :, None, None]))
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


def test_squeeze_excitation_is_in_every_block_or_in_none():
    for se in (True, False):
        blocks = blocks_of(make_on_meta(NAME, 10, 32, se=se))
        assert [any(isinstance(part, SqueezeExcitation) for part in block.conv) for block in blocks] == [se] * 17


def test_a_block_has_a_shortcut_where_its_ends_have_one_shape():
    x = torch.randn(2, 16, 6, 6)
    for out_chans, stride, shortcut in ((16, 1, x), (16, 2, 0), (24, 1, 0)):
        block = InvertedResidualBlock(16, out_chans, stride, 6)
        nn.init.zeros_(block.conv[-1].weight)
        assert (block(x) == shortcut).all()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_is_the_only_draw_of_a_training_step(dropout):
    torch.manual_seed(0)
    model = models.create_model(NAME, 10, 32, width_mult=0.25, dropout=dropout).train()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), model(images)) == (dropout == 0)


@pytest.mark.parametrize("arguments", [{}, ABLATED], ids=["default", "ablated"])
def test_a_training_step_reaches_every_parameter(arguments):
    torch.manual_seed(0)
    model = models.create_model(NAME, 10, 32, **arguments).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=bool(arguments)):
        loss = nn.functional.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.tensor([0, 1]))
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(module.weight.grad.any() for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))
