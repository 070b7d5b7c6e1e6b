"""Airbench's network: its sizes by hand, how it begins, and its rates."""

from __future__ import annotations

import pytest
import torch
from reference import count, make_on_meta

import models
from analysis.cost import count_flops
from models.airbench import BIAS_RATE, HEAD_RATE
from training.optim import freeze_backbone, parameter_groups
from utils import BadRequest

SMALL = {"widths": (32, 40), "depths": (1, 2), "stem_stride": 2}


@pytest.mark.parametrize(
    "config", [{"widths": (64, 256, 256), "depths": (2, 2, 2)}, {"widths": (16, 24), "depths": (1, 3)}]
)
def test_parameters_and_flops_are_those_of_its_convolutions(config):
    model = make_on_meta("airbench94", 10, 32, **config)
    flops, params, chans, side = 2 * 24 * 3 * 2 * 2 * 31**2, 24, 24, 31
    for width, depth in zip(config["widths"], config["depths"], strict=True):
        filters = [9 * chans * width, *[9 * width**2] * (depth - 1)]
        params += sum(filters) + depth * width
        flops += 2 * filters[0] * side**2 + 2 * sum(filters[1:]) * (side // 2) ** 2
        chans, side = width, side // 2
    assert count(model) == params + 10 * chans
    assert count_flops(model, 32, 3, "airbench94") == flops + 2 * 10 * chans


@pytest.mark.parametrize(("img_size", "in_chans"), [(32, 3), (32, 1), (8, 1), (2, 3), (33, 3)])
def test_logits_are_finite_and_every_parameter_gets_a_gradient(img_size, in_chans):
    torch.manual_seed(0)
    model = models.create_model("airbench94", 7, img_size, in_chans, widths=(16, 24), depths=(1, 2))
    logits = model(torch.randn(4, in_chans, img_size, img_size))
    assert logits.shape == (4, 7) and bool(logits.isfinite().all())
    logits.square().sum().backward()
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in model.parameters())
    assert not any(name.endswith("bn.weight") for name, _ in model.named_parameters())


def test_its_convolutions_begin_with_the_identity():
    conv = models.create_model("airbench94", 10, 32, **SMALL).layers[1].conv
    x = torch.randn(2, 32, 5, 5)
    torch.testing.assert_close(conv(x)[:, :32], x)


def test_biases_learn_faster_and_the_head_slower_where_the_optimiser_follows_gradients():
    model = models.create_model("airbench94", 10, 32, **SMALL)
    for own_scales, expected in ((True, {BIAS_RATE, HEAD_RATE, 1.0}), (False, {1.0})):
        groups = parameter_groups(model, 0.1, own_scales=own_scales)
        assert {group["lr_scale"] for group in groups} == expected
    scale_of = {
        id(p): group["lr_scale"] for group in parameter_groups(model, 0.1, own_scales=True) for p in group["params"]
    }
    assert scale_of[id(model.layers[0].bn.bias)] == BIAS_RATE
    assert scale_of[id(model.layers[0].conv.weight)] == 1.0
    assert scale_of[id(model.fc.weight)] == HEAD_RATE


def rate_of_head(model: torch.nn.Module, **flags) -> float:
    groups = parameter_groups(model, 0.1, own_scales=True, **flags)
    return next(group["lr_scale"] for group in groups if any(p is model.fc.weight for p in group["params"]))


def test_a_rate_that_is_meant_for_the_head_is_the_heads():
    model = models.create_model("airbench94", 10, 32, **SMALL)
    assert rate_of_head(model, head_scale=2.0) == 2.0 and rate_of_head(model) == HEAD_RATE
    freeze_backbone(model)
    assert rate_of_head(model) == 1.0


def test_weight_decay_does_not_follow_the_factors_of_the_rate():
    model = models.create_model("airbench94", 10, 32, **SMALL)
    for group in parameter_groups(model, 0.3, decay_all=True, own_scales=True):
        assert group["weight_decay"] * group["lr_scale"] == pytest.approx(0.3)


def test_widths_and_depths_that_do_not_match_are_refused():
    with pytest.raises(BadRequest, match="both need a number from 1 for each stage"):
        models.create_model("airbench94", 10, 32, 3, widths=(16, 32), depths=(1, 1, 1))
