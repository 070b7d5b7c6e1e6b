"""torchvision's models under plain names are torchvision's."""

from __future__ import annotations

import pytest
import torch
import torchvision
from reference import count, make_on_meta
from torchvision.ops import StochasticDepth

import models
from models import weights
from models.fast_layers import use_plain_layers
from utils import BadRequest

PUBLISHED = {
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
}


def drop_rates(model) -> list[float]:
    return [module.p for module in model.modules() if isinstance(module, StochasticDepth)]


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_it_is_torchvisions_model_of_the_same_name(name, published):
    model = make_on_meta(name, 1000, 224)
    assert count(model) == published
    with torch.device("meta"):
        reference = torchvision.models.get_model(name)
    assert repr(use_plain_layers(model)) == repr(reference)
    assert models.find_model(name).pretrained == torchvision.models.get_model_weights(name).__name__


def test_small_grey_images_and_other_classes_give_logits_of_the_right_head():
    for name, head in (("resnext50_32x4d", "fc"), ("convnext_tiny", "classifier.2")):
        model = make_on_meta(name, 7, 32, 1)
        assert model.head_names == (head,)
        assert model(torch.empty(2, 1, 32, 32, device="meta")).shape == (2, 7)


def test_published_weights_get_a_new_head_and_fewer_input_channels(monkeypatch):
    with torch.device("meta"):
        state = torchvision.models.convnext_tiny().state_dict()
        monkeypatch.setattr(
            weights, "torchvision_weights", lambda enum_name: {"ConvNeXt_Tiny_Weights": state}[enum_name]
        )
        model = models.create_model("convnext_tiny", 7, 32, 1, pretrained=True)
    assert model.load_notes == [
        "head 'classifier.2' replaced: ConvNeXt_Tiny_Weights has 1000 classes, this model 7",
        "'features.0.0.weight' adapted from 3 to 1 input channels",
    ]


def test_drop_path_grows_linearly_from_the_first_block_to_the_last():
    rates = drop_rates(make_on_meta("convnext_tiny", 10, 32, drop_path=0.34))
    assert rates == pytest.approx([0.02 * i for i in range(18)])


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("convnext")])
def test_images_that_are_too_small_are_refused_with_what_works(name):
    with pytest.raises(BadRequest, match=f"{name} divides .* 31 px is too small, use --img-size 32"):
        models.create_model(name, 10, 31)
