"""MobileNetV2 (Sandler et al., "Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381), made for ablations.

The default is table 2 of the paper, parameter names as in torchvision. Expansion ratio, kernel size, activation,
squeeze-excitation and width are arguments, so that each can be changed with all else equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import SqueezeExcitation

from models.layers import Count, Fraction, Positive, Stem, choose_stem
from models.registry import register_variants, variant
from utils import BadRequest

Activation = Literal["relu", "relu6", "leaky_relu", "silu", "hardswish", "hardsigmoid", "gelu"]

ACTIVATIONS = {
    "relu": partial(nn.ReLU, inplace=True),
    "relu6": partial(nn.ReLU6, inplace=True),
    "leaky_relu": partial(nn.LeakyReLU, inplace=True),
    "silu": partial(nn.SiLU, inplace=True),
    "hardswish": partial(nn.Hardswish, inplace=True),
    "hardsigmoid": partial(nn.Hardsigmoid, inplace=True),
    "gelu": nn.GELU,
}

# Table 2: channels, blocks and stride of the first block of each stage. The very first block does not expand.
STAGES = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels`, but at least `divisor` and nine tenths of `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


class ConvBNActivation(nn.Sequential):
    """Convolution without bias, batch normalisation, activation. (N, in_chans, H, W) -> (N, out_chans, H/s, W/s)."""

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = "relu6",
    ):
        super().__init__(
            nn.Conv2d(in_chans, out_chans, kernel_size, stride, (kernel_size - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out_chans),
            ACTIVATIONS[activation](),
        )


class InvertedResidualBlock(nn.Module):
    """Section 3.3: a 1x1 convolution widens, a depthwise one filters, a 1x1 one without activation narrows again.

    A shortcut joins the narrow ends if they have the same shape. A ratio of 1 leaves out the widening.
    (N, in_chans, H, W) -> (N, out_chans, H/stride, W/stride).
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        stride: int,
        expand_ratio: int,
        kernel_size: int = 3,
        activation: Activation = "relu6",
        se: bool = False,
    ):
        super().__init__()
        hidden = in_chans * expand_ratio
        self.use_shortcut = stride == 1 and in_chans == out_chans
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            layers.append(ConvBNActivation(in_chans, hidden, 1, activation=activation))
        layers.append(ConvBNActivation(hidden, hidden, kernel_size, stride, groups=hidden, activation=activation))
        if se:
            layers.append(SqueezeExcitation(hidden, make_divisible(hidden / 4)))
        layers += [nn.Conv2d(hidden, out_chans, 1, bias=False), nn.BatchNorm2d(out_chans)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.use_shortcut else self.conv(x)


class CustomMobileNetV2(nn.Module):
    """(N, in_chans, H, W) -> (N, num_classes).

    Args:
        stem: "imagenet" (sides halved five times), "cifar" (three times: the first convolution and the first strided
            stage keep stride 1), or "auto": cifar up to 64 px.
        expand_ratio: how many times wider a block is inside than at its ends (the first block: always 1).
        kernel_size: side of the depthwise convolutions, an odd number.
        activation: nonlinearity after every convolution but the last one of a block.
        se: squeeze-excitation (arXiv:1709.01507) after every depthwise convolution, squeezed to a quarter of its
            channels.
        width_mult: factor on the channels, which are rounded to multiples of 8.
        dropout: fraction of the features dropped before the classifier.
    """

    def __init__(
        self,
        num_classes: int,
        img_size: int | Sequence[int],
        in_chans: int,
        stem: Stem = "auto",
        expand_ratio: Count = 6,
        kernel_size: Count = 3,
        activation: Activation = "relu6",
        se: bool = False,
        width_mult: Positive = 1.0,
        dropout: Fraction = 0.2,
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            odd = f"{kernel_size - 1} or {kernel_size + 1}"
            raise BadRequest(f"kernel_size {kernel_size}: a depthwise convolution needs an odd one, such as {odd}")
        if activation not in ACTIVATIONS:
            raise BadRequest(f"activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
        unstrided = choose_stem(stem, img_size) == "cifar"

        chans = make_divisible(32 * width_mult)
        features: list[nn.Module] = [ConvBNActivation(in_chans, chans, 3, 1 if unstrided else 2, activation=activation)]
        for stage, (width, depth, first_stride) in enumerate(STAGES):
            out_chans = make_divisible(width * width_mult)
            ratio = 1 if stage == 0 else expand_ratio
            for i in range(depth):
                stride = first_stride if i == 0 and not (unstrided and stage == 1) else 1
                features.append(InvertedResidualBlock(chans, out_chans, stride, ratio, kernel_size, activation, se))
                chans = out_chans
        last_chans = make_divisible(1280 * max(1.0, width_mult))  # section 4: a narrower network keeps 1280
        features.append(ConvBNActivation(chans, last_chans, 1, activation=activation))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last_chans, num_classes))

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


register_variants(
    CustomMobileNetV2,
    variant("mobilenet_v2", pretrained="MobileNet_V2_Weights"),
    year=2018,
    paper="arXiv:1801.04381",
)
