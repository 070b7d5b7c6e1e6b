"""ResNet-9: the residual network that reaches a good accuracy fastest on images of about 32 px.

It follows Page, "How to Train Your ResNet" (myrtle.ai, 2018), and Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single
GPU", arXiv:2404.00498: an untrained first layer that whitens its input, then a few stages, each of which halves the
sides after its first convolution. Here average pooling, not max pooling, follows the stages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from models.layers import Count, Counts
from models.registry import register_variants, variant
from utils import BadRequest

# Of CIFAR-10's training images, normalised to variance 1 per channel: the variances of grey, of red against blue and of
# green against both, and the correlation of neighbouring pixels.
OPPONENTS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
OPPONENT_VARIANCES = (2.79, 0.19, 0.044)
CORRELATION = 0.92
STEM_FILTERS = 12  # all those of 2x2 pixels; of larger ones those of the largest variance


def whitening_filters(size: int, in_chans: int) -> torch.Tensor:
    """(in_chans * size^2, in_chans, size, size): filters that whiten photographs.

    Their responses are nearly uncorrelated, with variances of about 1; before this scaling the first filter has the
    largest variance. They are the cosine basis on opponent colours, which is close to the principal components of
    natural images, so no image is needed: the correlation of pixels is modelled as CORRELATION ** distance, which gives
    the variance of each response.
    """
    line = torch.arange(size, device="cpu", dtype=torch.float64)  # a real tensor also within the meta device
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
    """A 3x3 convolution with a shortcut. (N, width, H, W) -> (N, width, H, W)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.relu(self.bn(self.conv(x)), inplace=True)


class Stage(nn.Module):
    """A 3x3 convolution, max pooling, then residual blocks: `depth` convolutions in all.

    (N, in_chans, H, W) -> (N, width, H/2, W/2), rounded up.
    """

    def __init__(self, in_chans: int, width: int, depth: int):
        super().__init__()
        self.conv = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(depth - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(F.relu(self.bn(self.pool(self.conv(x))), inplace=True))


class ResNet9(nn.Module):
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
