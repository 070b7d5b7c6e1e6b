"""torchvision's ResNeXt (Xie et al., arXiv:1611.05431) and ConvNeXt (Liu et al., arXiv:2201.03545) under plain names.

Other models of torchvision and timm are reached by prefix, see models/external.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from models.external import create_torchvision
from models.layers import Fraction
from models.registry import register_variants, variant
from utils import BadRequest, in_px, sides


def resnext(name: str, num_classes: int, img_size: int | Sequence[int], in_chans: int) -> nn.Module:
    """torchvision's ResNeXt `name`. (N, in_chans, H, W) -> (N, num_classes)."""
    return create_torchvision(name, num_classes, img_size, in_chans, pretrained=False)


def convnext(
    name: str, num_classes: int, img_size: int | Sequence[int], in_chans: int, drop_path: Fraction = 0.1
) -> nn.Module:
    """torchvision's ConvNeXt `name`. (N, in_chans, H, W) -> (N, num_classes), H and W at least 32.

    Args:
        drop_path: stochastic depth: how often an image skips the branch of the last block; linear from 0 in the first.

    Raises BadRequest for smaller images.
    """
    if min(sides(img_size)) < 32:
        raise BadRequest(
            f"{name} divides the sides of its input by 32: {in_px(img_size)} is too small, use --img-size 32"
        )
    return create_torchvision(name, num_classes, img_size, in_chans, pretrained=False, stochastic_depth_prob=drop_path)


register_variants(
    resnext,
    variant("resnext50_32x4d", name="resnext50_32x4d", pretrained="ResNeXt50_32X4D_Weights"),
    variant("resnext101_32x8d", name="resnext101_32x8d", pretrained="ResNeXt101_32X8D_Weights"),
    year=2016,
    paper="arXiv:1611.05431",
)
register_variants(
    convnext,
    variant("convnext_tiny", name="convnext_tiny", drop_path=0.1, pretrained="ConvNeXt_Tiny_Weights"),
    variant("convnext_small", name="convnext_small", drop_path=0.4, pretrained="ConvNeXt_Small_Weights"),
    variant("convnext_base", name="convnext_base", drop_path=0.5, pretrained="ConvNeXt_Base_Weights"),
    variant("convnext_large", name="convnext_large", drop_path=0.5, pretrained="ConvNeXt_Large_Weights"),
    year=2022,
    paper="arXiv:2201.03545",
)
