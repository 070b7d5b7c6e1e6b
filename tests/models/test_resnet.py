"""ResNet against the published sizes and against torchvision's."""

from __future__ import annotations

import pytest
import torch
import torchvision
from reference import STEM_CASES, count, make_on_meta, with_lively_statistics
from torch import nn

import models
from models.resnet import PadShortcut


@pytest.mark.parametrize(
    ("name", "num_classes", "img_size", "published"),
    [
        ("resnet18", 1000, 224, 11_689_512),
        ("resnet34", 1000, 224, 21_797_672),
        ("resnet50", 1000, 224, 25_557_032),
        ("resnet101", 1000, 224, 44_549_160),
        ("resnet152", 1000, 224, 60_192_808),
        ("resnet18", 10, 224, 11_181_642),
        ("resnet50", 10, 224, 23_528_522),
        ("resnet18", 10, 32, 11_173_962),
        ("resnet20", 10, 32, 269_722),
        ("resnet32", 10, 32, 464_154),
        ("resnet44", 10, 32, 658_586),
        ("resnet56", 10, 32, 853_018),
        ("resnet110", 10, 32, 1_727_962),
    ],
)
def test_parameter_counts_are_the_published_ones(name, num_classes, img_size, published):
    assert count(make_on_meta(name, num_classes, img_size)) == published


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_imagenet_form_is_torchvisions_weight_for_weight(name):
    torch.manual_seed(0)
    reference = with_lively_statistics(torchvision.models.get_model(name, num_classes=10), 0.3, 0.8)
    model = make_on_meta(name, 10, 224)
    model.load_state_dict(reference.state_dict(), assign=True)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = reference(images)
        assert expected.std() > 0.01
        torch.testing.assert_close(model.eval()(images), expected, rtol=1e-5, atol=1e-5)


def test_the_cifar_form_is_torchvisions_with_a_small_stem():
    torch.manual_seed(1)
    reference = torchvision.models.resnet18(num_classes=10)
    reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    with_lively_statistics(reference, 0.3, 0.8)
    model = make_on_meta("resnet18", 10, 32)
    model.load_state_dict(reference.state_dict(), assign=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), reference(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("img_size", "stem", "form"), STEM_CASES)
def test_the_stem_follows_the_image_size_unless_it_is_named(img_size, stem, form):
    model = make_on_meta("resnet18", 10, img_size, stem=stem)
    assert count(model) == {"cifar": 11_173_962, "imagenet": 11_181_642}[form]
    pooled = model.maxpool(model.conv1(torch.empty(1, 3, 64, 64, device="meta")))
    assert pooled.shape[2] == {"cifar": 64, "imagenet": 16}[form]


def test_one_input_channel_changes_the_first_convolution_only():
    assert count(make_on_meta("resnet20", 10, 32, 3)) - count(make_on_meta("resnet20", 10, 32, 1)) == 2 * 16 * 9


def test_the_small_resnets_halve_twice_and_end_in_64_channels():
    model = make_on_meta("resnet20", 10, 32)
    x = model.conv1(torch.empty(1, 3, 32, 32, device="meta"))
    sizes = []
    for stage in (model.layer1, model.layer2, model.layer3):
        x = stage(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_the_shortcut_without_parameters_takes_every_second_pixel_and_adds_empty_channels():
    images = torch.randn(2, 4, 6, 6)
    expected = torch.cat([torch.zeros(2, 2, 3, 3), images[..., ::2, ::2], torch.zeros(2, 2, 3, 3)], dim=1)
    assert torch.equal(PadShortcut(4)(images), expected)


def test_shortcuts_of_form_b_are_torchvisions_and_cost_their_convolutions():
    assert count(make_on_meta("resnet20", 10, 32, shortcut="B")) == 269_722 + (16 * 32 + 64) + (32 * 64 + 128)
    torch.manual_seed(0)
    blocks = torchvision.models.resnet.BasicBlock
    downsample = nn.Sequential(nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32))
    reference = with_lively_statistics(blocks(16, 32, 2, downsample), 0.3, 0.8)
    model = make_on_meta("resnet20", 10, 32, shortcut="B").layer2[0]
    model.load_state_dict(reference.state_dict(), assign=True)
    images = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), reference(images), rtol=1e-5, atol=1e-5)


def test_convolutions_start_with_he_initialisation_of_the_fan_out():
    torch.manual_seed(0)
    weight = models.create_model("resnet18", 10, 32).layer2[1].conv1.weight
    assert weight.mean().abs() < 1e-3
    assert weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
