"""Airbench's network: a plain convolutional one that learns CIFAR-10 to 94 % in the least arithmetic.

After Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, section 3. A first layer of fixed
filters whitens its input. Each stage convolves, halves the sides by max pooling, and convolves again at half the size;
every convolution is followed by a batch normalisation that learns no scale, and by GELU. The filters begin as an
identity as far as there are channels (section 3.3), the head small. Biases learn at a far higher rate than filters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from models.layers import Count, Counts
from models.registry import register_variants, variant
from models.resnet9 import whitening_filters
from utils import BadRequest

STEM_FILTERS = 12  # of those of 2x2 pixels all; of larger ones those of the largest variance
BIAS_RATE, HEAD_RATE = 160.0, 0.03  # of the learning rate; section 3.4 has 64 for biases, its SGD another rate
STATISTICS = 0.4  # weight of a batch in the running statistics: trainings are short


class ConvNorm(nn.Module):
    """A 3x3 convolution, max pooling if `pool`, batch normalisation and GELU.

    (N, in_chans, H, W) -> (N, width, H, W), or half the sides, rounded down but at least 1.
    """

    def __init__(self, in_chans: int, width: int, pool: bool):
        super().__init__()
        self.pool = pool
        self.conv = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width, momentum=STATISTICS)
        self.bn.register_parameter("weight", None)  # a scale of 1, which it keeps
        nn.init.dirac_(self.conv.weight[:in_chans].data)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if self.pool and min(x.shape[-2:]) > 1:
            x = F.max_pool2d(x, 2)
        return F.gelu(self.bn(x))


class Airbench(nn.Module):
    """(N, in_chans, H, W) -> (N, num_classes).

    Args:
        img_size: not used; the network takes images of any size.
        depths: 3x3 convolutions in each stage, at least one; the first of a stage halves the sides.
        widths: channels in each stage.
        stem_stride: step of the whitening filters, in pixels; they are one pixel larger.
    """

    def __init__(
        self,
        num_classes: int,
        img_size: int | Sequence[int],
        in_chans: int,
        depths: Counts = (2, 2, 2),
        widths: Counts = (64, 256, 256),
        stem_stride: Count = 1,
    ):
        super().__init__()
        if len(depths) != len(widths) or min(*depths, *widths) < 1:
            given = f"depths {tuple(depths)} and widths {tuple(widths)}"
            raise BadRequest(f"{given}: both need a number from 1 for each stage")
        self.stem_stride = stem_stride
        filters = whitening_filters(stem_stride + 1, in_chans)[:STEM_FILTERS]
        # Each filter with both signs, so that the nonlinearity after it loses nothing (arXiv:1603.05201).
        self.register_buffer("whitening", torch.cat([filters, -filters]))
        chans = len(self.whitening)
        self.whitening_bias = nn.Parameter(torch.zeros(chans))
        layers = []
        for depth, width in zip(depths, widths, strict=True):
            for i in range(depth):
                layers.append(ConvNorm(chans, width, pool=i == 0))
                chans = width
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(chans, num_classes, bias=False)
        nn.init.normal_(self.fc.weight, std=1 / chans)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """Whitened patches, (N, in_chans, H, W) -> (N, 24 or fewer, about H/stride, W/stride)."""
        padding = self.stem_stride // 2
        return F.gelu(F.conv2d(x, self.whitening, self.whitening_bias, self.stem_stride, padding))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layers(self.stem(x)).amax((2, 3)))

    def lr_scales(self) -> dict[str, float]:
        """Factors of the learning rate by parameter name, for SGD and what is built on it."""
        scales = {name: BIAS_RATE for name, _ in self.named_parameters() if name.endswith("bias")}
        return {**scales, "fc.weight": HEAD_RATE}


register_variants(Airbench, variant("airbench94"), year=2024, paper="arXiv:2404.00498")
