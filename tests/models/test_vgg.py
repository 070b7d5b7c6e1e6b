"""VGG against the published sizes and against torchvision's."""

from __future__ import annotations

import pytest
import torch
import torchvision
from reference import STEM_CASES, count, make_on_meta, with_lively_statistics
from torch import nn

import models
from utils import BadRequest


@pytest.mark.parametrize(
    ("name", "num_classes", "img_size", "published"),
    [
        ("vgg11", 1000, 224, 132_868_840),
        ("vgg13", 1000, 224, 133_053_736),
        ("vgg16", 1000, 224, 138_365_992),
        ("vgg19", 1000, 224, 143_678_248),
        ("vgg16", 10, 32, 14_728_266),
    ],
)
def test_parameter_counts_are_the_published_ones(name, num_classes, img_size, published):
    assert count(make_on_meta(name, num_classes, img_size)) == published


def test_the_imagenet_form_is_torchvisions_weight_for_weight():
    torch.manual_seed(0)
    reference = with_lively_statistics(torchvision.models.vgg11_bn(num_classes=10, init_weights=False), 1, 2)
    model = make_on_meta("vgg11", 10, 224)
    model.load_state_dict(reference.state_dict(), assign=True)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = reference(images)
        assert expected.std() > 0.01
        torch.testing.assert_close(model.eval()(images), expected, rtol=1e-5, atol=1e-5)


def test_the_cifar_form_is_torchvisions_convolutions_and_one_linear_layer():
    torch.manual_seed(1)
    features = with_lively_statistics(torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"], True), 1, 2)
    head = nn.Linear(512, 10)
    model = make_on_meta("vgg16", 10, 32)
    model.features.load_state_dict(features.state_dict(), assign=True)
    model.classifier.load_state_dict(head.state_dict(), assign=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = head(features(images).flatten(1))
        torch.testing.assert_close(model.eval()(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("img_size", "stem", "form"), STEM_CASES)
def test_the_head_follows_the_image_size_unless_the_stem_is_named(img_size, stem, form):
    model = make_on_meta("vgg16", 10, img_size, stem=stem)
    assert count(model) == {"cifar": 14_728_266, "imagenet": 134_309_962}[form]
    assert model(torch.empty(2, 3, img_size, img_size, device="meta")).shape == (2, 10)


def test_at_224_px_the_pooling_which_has_no_deterministic_gradient_on_gpus_is_left_out():
    pool = make_on_meta("vgg11", 10, 224).avgpool
    maps = torch.randn(2, 512, 7, 7)
    assert torch.equal(maps, nn.AdaptiveAvgPool2d(7)(maps))
    assert pool(maps) is maps
    larger = torch.randn(2, 512, 8, 9)
    assert torch.equal(pool(larger), nn.AdaptiveAvgPool2d(7)(larger))


@pytest.mark.parametrize("img_size", [8, 31])
def test_an_image_too_small_is_refused_with_the_size_that_works(img_size):
    with pytest.raises(BadRequest, match=rf"vgg13 .*{img_size} px is too small, use --img-size 32"):
        models.create_model("vgg13", 10, img_size)
    assert make_on_meta("vgg13", 10, 32)(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 10)
