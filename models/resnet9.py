"""ResNet-9: the residual network for the quickest way to a good accuracy on images of some 32 px.

The shape is that of Page, "How to Train Your ResNet" (myrtle.ai, 2018), and of Jordan, "94% on CIFAR-10 in 3.29 Seconds
on a Single GPU", arXiv:2404.00498: a first layer that whitens its input and is not trained, few stages, each of which
halves the sides after its first convolution. Here they are followed by average pooling in place of max pooling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from models.convolution import Conv3x3
from models.layers import Count, Counts
from models.registry import register_variants, variant
from utils import BadRequest

# Of the normalised training images of CIFAR-10, where a channel's variance is 1: the variances of grey, of red against
# blue and of green against both, and the correlation of neighbouring pixels.
OPPONENTS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
OPPONENT_VARIANCES = (2.79, 0.19, 0.044)
CORRELATION = 0.92
STEM_FILTERS = 12  # all of 2x2 pixels; of more pixels, those that tell most


def whitening_filters(size: int, in_chans: int) -> torch.Tensor:
    """(in_chans * size^2, in_chans, size, size): filters whose answers to photographs are hardly correlated and have
    variances of about 1, those that tell most of an image first.

    They are the cosine basis on opponent colours, which is close to the principal components of natural images, so no
    image has to be seen: where the correlation of pixels falls as a power of their distance, the variance of each
    filter's answer is known, and is divided out.
    """
    line = torch.arange(size, device="cpu", dtype=torch.float64)  # of use on the meta device, too
    basis = torch.cos(math.pi / size * torch.outer(line, line + 0.5))
    basis /= basis.norm(dim=1, keepdim=True)
    along = (basis @ CORRELATION ** (line[:, None] - line).abs() @ basis.T).diagonal()
    colours, across = torch.ones_like(line[:1, None]), torch.ones_like(line[:1])
    if in_chans == 3:
        colours = torch.tensor(OPPONENTS, device="cpu", dtype=torch.float64)
        colours /= colours.norm(dim=1, keepdim=True)
        across = torch.tensor(OPPONENT_VARIANCES, device="cpu", dtype=torch.float64)
    variance = (across[:, None, None] * along[:, None] * along).flatten()
    filters = torch.einsum("kc,vh,ux->kvuchx", colours, basis, basis).flatten(0, 2)
    order = variance.argsort(descending=True, stable=True)
    return (filters / (variance + 0.01).sqrt()[:, None, None, None])[order].float()


class Residual(nn.Module):
    """A 3x3 convolution around which the image passes, too. (N, width, H, W) -> (N, width, H, W)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = Conv3x3(width, width)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.relu(self.bn(self.conv(x)), inplace=True)


class Stage(nn.Module):
    """A 3x3 convolution, pooled, then residual ones. (N, in_chans, H, W) -> (N, width, H // 2, W // 2)."""

    def __init__(self, in_chans: int, width: int, depth: int):
        super().__init__()
        self.conv = Conv3x3(in_chans, width)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(depth - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(F.relu(self.bn(self.pool(self.conv(x))), inplace=True))


class ResNet9(nn.Module):
    """(N, in_chans, H, W) -> (N, num_classes).

    Args:
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
        widths: Counts = (128, 384, 384),
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
        stages = []
        for depth, width in zip(depths, widths, strict=True):
            stages.append(Stage(chans, width, depth))
            chans = width
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(chans, num_classes, bias=False)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """Whitened patches, (N, in_chans, H, W) -> (N, 24 or fewer, H/stride, W/stride)."""
        return F.relu(F.conv2d(x, self.whitening, stride=self.stem_stride, padding=self.stem_stride // 2), inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.stages(self.stem(x)).mean((2, 3)))


register_variants(ResNet9, variant("resnet9"), year=2018, paper="arXiv:2404.00498")
