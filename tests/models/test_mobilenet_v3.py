"""MobileNetV3 against torchvision's own builders."""

from __future__ import annotations

import pytest
import torch
import torchvision
from reference import STEM_CASES, count, make_on_meta, with_lively_statistics
from torch import nn

import models

NAMES = ["mobilenet_v3_small", "mobilenet_v3_large"]
SIZES = {"mobilenet_v3_small": 1_528_106, "mobilenet_v3_large": 4_214_842}  # with 10 classes


@pytest.mark.parametrize(
    ("name", "num_classes", "img_size", "published"),
    [
        ("mobilenet_v3_small", 1000, 224, 2_542_856),
        ("mobilenet_v3_large", 1000, 224, 5_483_032),
        ("mobilenet_v3_small", 10, 32, 1_528_106),
        ("mobilenet_v3_large", 10, 32, 4_214_842),
    ],
)
def test_parameter_counts_are_the_published_ones(name, num_classes, img_size, published):
    assert count(make_on_meta(name, num_classes, img_size)) == published


@pytest.mark.parametrize("width_mult", [0.5, 1.0, 1.4])
@pytest.mark.parametrize("name", NAMES)
def test_every_width_has_the_layers_of_torchvisions(name, width_mult):
    with torch.device("meta"):
        reference = torchvision.models.get_model(name, num_classes=10, width_mult=width_mult)
    model = make_on_meta(name, 10, 224, width_mult=width_mult)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in reference.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_it_starts_with_torchvisions_weights_for_the_same_seed(name):
    torch.manual_seed(0)
    reference = torchvision.models.get_model(name, num_classes=10)
    torch.manual_seed(0)
    model = models.create_model(name, 10, 224)
    for key, value in reference.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def give_small_strides(model: nn.Module) -> None:
    """Sets stride 1 in the first two strided convolutions of a torchvision MobileNetV3."""
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.stride == (2, 2)]
    assert len(convs) == 5
    for conv in convs[:2]:
        conv.stride = (1, 1)
    if convs[1].in_channels == 16:  # in the small network, whose first block then keeps shape and channels
        model.features[1].use_res_connect = True


@pytest.mark.parametrize(("img_size", "form"), [(96, "imagenet"), (32, "cifar")])
@pytest.mark.parametrize("name", NAMES)
def test_a_training_step_gives_torchvisions_logits_and_statistics(name, img_size, form):
    torch.manual_seed(0)
    reference = with_lively_statistics(torchvision.models.get_model(name, num_classes=10), 0.5, 1.5).train()
    if form == "cifar":
        give_small_strides(reference)
    model = models.create_model(name, 10, img_size).train()
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
    model = make_on_meta("mobilenet_v3_small", 10, img_size, stem=stem)
    assert model.features(torch.empty(2, 3, 32, 32, device="meta")).shape[2] == {"cifar": 4, "imagenet": 1}[form]


@pytest.mark.parametrize(
    ("name", "img_size", "in_chans"),
    [
        ("mobilenet_v3_small", 32, 1),
        ("mobilenet_v3_small", 64, 3),
        ("mobilenet_v3_small", 65, 1),
        ("mobilenet_v3_large", 32, 3),
        ("mobilenet_v3_large", 224, 1),
    ],
)
def test_it_takes_these_images(name, img_size, in_chans):
    model = make_on_meta(name, 10, img_size, in_chans)
    assert model(torch.empty(2, in_chans, img_size, img_size, device="meta")).shape == (2, 10)
    assert count(model) == SIZES[name] - (3 - in_chans) * 16 * 9


def test_with_one_input_channel_the_first_convolution_keeps_the_stride_of_the_stem():
    for stem, side in (("cifar", 32), ("imagenet", 16)):
        stem = make_on_meta("mobilenet_v3_small", 10, 32, 1, stem=stem).features[0]
        assert stem(torch.empty(2, 1, 32, 32, device="meta")).shape == (2, 16, side, side)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_is_the_only_draw_of_a_training_step(dropout):
    torch.manual_seed(0)
    model = models.create_model("mobilenet_v3_small", 10, 32, width_mult=0.5, dropout=dropout).train()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), model(images)) == (dropout == 0)


@pytest.mark.parametrize(("name", "bf16"), [("mobilenet_v3_small", True), ("mobilenet_v3_large", False)])
def test_a_training_step_reaches_every_parameter(name, bf16):
    torch.manual_seed(0)
    model = models.create_model(name, 10, 32, in_chans=1).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = nn.functional.cross_entropy(model(torch.randn(2, 1, 32, 32)), torch.tensor([0, 1]))
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(module.weight.grad.any() for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))
