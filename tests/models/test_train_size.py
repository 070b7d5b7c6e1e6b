"""Which models take images of another size than they are built for, and what the others are refused with."""

from __future__ import annotations

import pytest
import torch

import models
from models.train_size import check_train_size
from utils import BadRequest


@pytest.mark.parametrize(
    ("name", "img_size", "others"),
    [
        ("vit_tiny", 32, [24, 40, (16, 48)]),
        ("deit_tiny_distill", 32, [24, 40]),
        ("resnet20", 32, [24, 31, (40, 17)]),
        ("resnet18", 65, [48, 97]),
        ("vgg11", 32, [48, 64]),
        ("mobilevit_xxs", 32, [24, 31, (40, 17)]),
        ("mobilenet_v2", 32, [24, 31]),
        ("mobilenet_v3_small", 32, [24, 31]),
        ("resnet9", 32, [24, 31]),
        ("airbench94", 32, [24, 31]),
        ("convnext_tiny", 32, [48, 97]),
    ],
)
def test_other_sizes_than_built_for_are_taken(name, img_size, others):
    model = models.create_model(name, 10, img_size, 1)
    for size in others:
        check_train_size(model, name, size, 1)
    assert all(module.training for module in model.modules())


def test_the_imagenet_form_of_vgg_takes_smaller_and_larger_maps():
    with torch.device("meta"):
        model = models.create_model("vgg11", 10, 224).eval()
        assert [model(torch.empty(1, 3, side, side)).shape for side in (160, 288)] == [(1, 10)] * 2


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        (
            "vit_tiny",
            30,
            r"--train-size 30: vit_tiny, built for the images of --img-size, cannot take those of 30 px: patches of 4 "
            r"px do not divide 30 x 30 px images; use 28 or 32$",
        ),
        ("deit_tiny_distill", (30, 32), r"--train-size 30,32: .* do not divide 30 x 32 px images; use 28,32$"),
        ("vgg11", 16, r"--train-size 16: vgg11, .* cannot take those of 16 px: .* Output size is too small$"),
        ("timm/test_vit", 128, r"cannot take those of 128 px: .*; timm's --model-arg dynamic_img_size=true takes mult"),
    ],
)
def test_a_size_that_cannot_be_taken_is_refused_with_what_can(name, size, message):
    args = {"dynamic_img_size": False} if "/" in name else {}
    model = models.create_model(name, 10, 32, 3, **args)
    list(model.modules())[-1].eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(BadRequest, match=message) as caught:
        check_train_size(model, name, size, 3)
    assert "\n" not in str(caught.value)
    assert [module.training for module in model.modules()] == before


def test_timms_argument_for_other_sizes_works():
    model = models.create_model("timm/test_vit", 10, 32, 3, dynamic_img_size=True)
    check_train_size(model, "timm/test_vit", 48, 3)
    with pytest.raises(BadRequest, match="use 32 or 48"):
        check_train_size(model, "timm/test_vit", 40, 3)


def test_a_lack_of_memory_is_not_blamed_on_the_size():
    class Large(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="can't allocate"):
        check_train_size(Large(), "large", 32, 3)
