"""MobileNetV3 (Howard et al., "Searching for MobileNetV3", arXiv:1905.02244), tables 1 and 2, from torchvision's parts.

A block ("bneck") widens with a 1x1 convolution (left out if the channels stay the same), filters with a depthwise one
of 3x3 or 5x5, and narrows with a linear 1x1 one; a shortcut joins ends of the same shape. Squeeze-excitation scales the
filtered channels by hardsigmoid(W2 relu(W1 m)), where m is their mean over all places and W1 narrows it to a quarter.
The deeper blocks replace ReLU by h-swish, x * relu6(x + 3) / 6. After them: a 1x1 convolution, pooling and two linear
layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torchvision
from torchvision.models.mobilenetv3 import InvertedResidualConfig

from models.external import replace_first_conv
from models.layers import Fraction, Positive, Stem, choose_stem
from models.registry import register_variants, variant

# Kernel size, channels inside, channels out, squeeze-excitation, activation ("RE": ReLU, "HS": h-swish), stride.
LARGE = (
    (3, 16, 16, False, "RE", 1),
    (3, 64, 24, False, "RE", 2),
    (3, 72, 24, False, "RE", 1),
    (5, 72, 40, True, "RE", 2),
    (5, 120, 40, True, "RE", 1),
    (5, 120, 40, True, "RE", 1),
    (3, 240, 80, False, "HS", 2),
    (3, 200, 80, False, "HS", 1),
    (3, 184, 80, False, "HS", 1),
    (3, 184, 80, False, "HS", 1),
    (3, 480, 112, True, "HS", 1),
    (3, 672, 112, True, "HS", 1),
    (5, 672, 160, True, "HS", 2),
    (5, 960, 160, True, "HS", 1),
    (5, 960, 160, True, "HS", 1),
)
SMALL = (
    (3, 16, 16, True, "RE", 2),
    (3, 72, 24, False, "RE", 2),
    (3, 88, 24, False, "RE", 1),
    (5, 96, 40, True, "HS", 2),
    (5, 240, 40, True, "HS", 1),
    (5, 240, 40, True, "HS", 1),
    (5, 120, 48, True, "HS", 1),
    (5, 144, 48, True, "HS", 1),
    (5, 288, 96, True, "HS", 2),
    (5, 576, 96, True, "HS", 1),
    (5, 576, 96, True, "HS", 1),
)


class MobileNetV3(torchvision.models.MobileNetV3):
    """(N, in_chans, H, W) -> (N, num_classes).

    Args:
        table: the blocks, LARGE or SMALL.
        last_chans: outputs of the first of the two linear layers.
        stem: "imagenet" (sides halved five times), "cifar" (three times: the first convolution and the first strided
            block keep stride 1), or "auto": cifar up to 64 px.
        width_mult: factor on the channels, which are rounded to multiples of 8.
        dropout: fraction of the features dropped before the classifier.
    """

    def __init__(
        self,
        table: tuple[tuple[int, int, int, bool, str, int], ...],
        last_chans: int,
        num_classes: int,
        img_size: int | Sequence[int],
        in_chans: int,
        stem: Stem = "auto",
        width_mult: Positive = 1.0,
        dropout: Fraction = 0.2,
    ):
        strides = [row[-1] for row in table]
        unstrided = choose_stem(stem, img_size) == "cifar"
        if unstrided:
            strides[strides.index(2)] = 1
        chans = 16
        blocks = []
        for (kernel_size, hidden, out_chans, se, activation, _), stride in zip(table, strides, strict=True):
            blocks.append(
                InvertedResidualConfig(chans, kernel_size, hidden, out_chans, se, activation, stride, 1, width_mult)
            )
            chans = out_chans
        last_chans = InvertedResidualConfig.adjust_channels(last_chans, width_mult)
        super().__init__(blocks, last_chans, num_classes, dropout=dropout)
        if unstrided:
            self.features[0][0].stride = (1, 1)
        if in_chans != 3:
            replace_first_conv(self, in_chans)


register_variants(
    MobileNetV3,
    variant("mobilenet_v3_small", table=SMALL, last_chans=1024, pretrained="MobileNet_V3_Small_Weights"),
    variant("mobilenet_v3_large", table=LARGE, last_chans=1280, pretrained="MobileNet_V3_Large_Weights"),
    year=2019,
    paper="arXiv:1905.02244",
)
