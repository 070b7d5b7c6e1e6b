"""Models that torchvision builds, under plain names: ResNeXt (Xie et al., arXiv:1611.05431) and ConvNeXt (Liu et al.,
arXiv:2201.03545). Every other model of torchvision or timm is had with its prefix, see models/external.py.
"""

from __future__ import annotations

from torch import nn

from models.external import create_torchvision
from models.layers import Fraction
from models.registry import register_model
from utils import BadRequest, in_px, sides


@register_model(year=2016, paper="arXiv:1611.05431", pretrained="ResNeXt50_32X4D_Weights")
def resnext50_32x4d(num_classes: int = 1000, img_size: int = 224, in_chans: int = 3) -> nn.Module:
    return create_torchvision("resnext50_32x4d", num_classes, img_size, in_chans, pretrained=False)


@register_model(year=2016, paper="arXiv:1611.05431", pretrained="ResNeXt101_32X8D_Weights")
def resnext101_32x8d(num_classes: int = 1000, img_size: int = 224, in_chans: int = 3) -> nn.Module:
    return create_torchvision("resnext101_32x8d", num_classes, img_size, in_chans, pretrained=False)


def convnext(name: str, num_classes: int, img_size: int, in_chans: int, drop_path: float) -> nn.Module:
    """
    Args:
        drop_path: stochastic depth: how often an image skips the branch of the last block; linear from 0 in the first.
    """
    if min(sides(img_size)) < 32:
        raise BadRequest(
            f"{name} divides the sides of its input by 32: {in_px(img_size)} is too small, use --img-size 32"
        )
    return create_torchvision(name, num_classes, img_size, in_chans, pretrained=False, stochastic_depth_prob=drop_path)


@register_model(year=2022, paper="arXiv:2201.03545", pretrained="ConvNeXt_Tiny_Weights")
def convnext_tiny(
    num_classes: int = 1000, img_size: int = 224, in_chans: int = 3, drop_path: Fraction = 0.1
) -> nn.Module:
    return convnext("convnext_tiny", num_classes, img_size, in_chans, drop_path)


@register_model(year=2022, paper="arXiv:2201.03545", pretrained="ConvNeXt_Small_Weights")
def convnext_small(
    num_classes: int = 1000, img_size: int = 224, in_chans: int = 3, drop_path: Fraction = 0.4
) -> nn.Module:
    return convnext("convnext_small", num_classes, img_size, in_chans, drop_path)


@register_model(year=2022, paper="arXiv:2201.03545", pretrained="ConvNeXt_Base_Weights")
def convnext_base(
    num_classes: int = 1000, img_size: int = 224, in_chans: int = 3, drop_path: Fraction = 0.5
) -> nn.Module:
    return convnext("convnext_base", num_classes, img_size, in_chans, drop_path)


@register_model(year=2022, paper="arXiv:2201.03545", pretrained="ConvNeXt_Large_Weights")
def convnext_large(
    num_classes: int = 1000, img_size: int = 224, in_chans: int = 3, drop_path: Fraction = 0.5
) -> nn.Module:
    return convnext("convnext_large", num_classes, img_size, in_chans, drop_path)
