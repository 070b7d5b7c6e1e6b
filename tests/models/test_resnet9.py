"""ResNet-9: its sizes by hand, its whitening first layer, and its arguments."""

from __future__ import annotations

import pytest
import torch
from reference import count, make_on_meta

import models
from analysis.cost import count_flops
from models.resnet9 import CORRELATION, OPPONENT_VARIANCES, OPPONENTS, whitening_filters
from utils import BadRequest

SMALL = {"widths": (16, 24), "depths": (1, 2), "stem_stride": 2}


def by_hand(chans: int, widths, depths, num_classes: int) -> int:
    total = 0
    for width, depth in zip(widths, depths, strict=True):
        total += 9 * chans * width + (depth - 1) * 9 * width**2 + depth * 2 * width
        chans = width
    return total + chans * num_classes


@pytest.mark.parametrize(
    "config", [{"widths": (128, 384, 384), "depths": (2, 2, 2)}, {"widths": (16, 24), "depths": (1, 3)}]
)
def test_parameters_and_flops_are_those_of_its_convolutions(config):
    assert count(make_on_meta("resnet9", 10, 32, **config)) == by_hand(24, *config.values(), 10)
    flops, chans, side = 2 * 24 * 3 * 2 * 2 * 31**2, 24, 31
    for width, depth in zip(*config.values(), strict=True):
        half = (side + 1) // 2
        flops += 2 * 9 * (chans * width * side**2 + (depth - 1) * width**2 * half**2)
        chans, side = width, half
    assert count_flops(make_on_meta("resnet9", 10, 32, **config), 32, 3, "resnet9") == flops + 2 * chans * 10


@pytest.mark.parametrize(("img_size", "in_chans"), [(32, 3), (32, 1), (8, 1), (33, 3)])
def test_logits_are_finite_and_every_parameter_gets_a_gradient(img_size, in_chans):
    torch.manual_seed(0)
    model = models.create_model("resnet9", 7, img_size, in_chans, **SMALL)
    logits = model(torch.randn(4, in_chans, img_size, img_size))
    assert logits.shape == (4, 7) and bool(logits.isfinite().all())
    logits.square().sum().backward()
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in model.parameters())


def photographs(n: int = 400, side: int = 24) -> torch.Tensor:
    """Normalised colour images (n, 3, side, side) with the correlations that the filters assume."""
    generator = torch.Generator().manual_seed(0)
    distance = (torch.arange(side)[:, None] - torch.arange(side)).abs()
    root = torch.linalg.cholesky(CORRELATION**distance)
    colours = torch.tensor(OPPONENTS) * (torch.tensor(OPPONENT_VARIANCES) ** 0.5)[:, None]
    colours /= torch.tensor(OPPONENTS).norm(dim=1, keepdim=True)
    noise = torch.randn(n, 3, side, side, generator=generator)
    return torch.einsum("ncyx,ck,hy,wx->nkhw", noise, colours, root, root)


def test_the_first_layer_whitens_photographs():
    """Responses are uncorrelated, with variance 1 unless their variance in the images is about a hundredth or less."""
    images = photographs()
    assert images.var().item() == pytest.approx(1, abs=0.1)
    filters = whitening_filters(2, 3)
    assert filters.shape == (12, 3, 2, 2)
    responses = torch.nn.functional.conv2d(images, filters).transpose(0, 1).flatten(1)
    variances = responses.var(1)
    assert variances[:4].tolist() == pytest.approx([1] * 4, abs=0.15)
    correlation = torch.corrcoef(responses) - torch.eye(12)
    assert correlation.abs().max() < 0.06
    before = torch.corrcoef(images.transpose(0, 1).flatten(1)) - torch.eye(3)
    assert before.abs().max() > 0.7


def test_the_first_layer_is_not_trained_and_travels_in_the_state_dict():
    model = models.create_model("resnet9", 10, 32, 3)
    assert "whitening" in model.state_dict() and "whitening" not in dict(model.named_parameters())
    assert torch.equal(model.whitening[:12], -model.whitening[12:])
    assert models.create_model("resnet9", 10, 32, 1).whitening.shape == (8, 1, 2, 2)
    assert models.create_model("resnet9", 10, 32, 3, stem_stride=2).whitening.shape == (24, 3, 3, 3)


def test_a_stem_that_strides_makes_smaller_maps():
    sizes = {}
    for stride in (1, 2, 4):
        model = make_on_meta("resnet9", 10, 32, widths=(16,), depths=(1,), stem_stride=stride)
        sizes[stride] = model.stages(model.stem(torch.empty(1, 3, 32, 32, device="meta"))).shape[2]
    assert sizes == {1: 16, 2: 8, 4: 4}


def test_widths_and_depths_that_do_not_match_are_refused():
    with pytest.raises(BadRequest, match="both need a number from 1 for each stage"):
        models.create_model("resnet9", 10, 32, 3, widths=(16, 32), depths=(1, 1, 1))
