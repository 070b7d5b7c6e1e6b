"""ResNet (He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385).

The ImageNet form is table 1 of the paper with the stride of a bottleneck on its 3x3 convolution ("v1.5"), parameter
names as in torchvision. The CIFAR form has a 3x3 stem without pooling; resnet20 to resnet110 are those of section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from models.layers import Counts, Stem, choose_stem
from models.registry import register_variants, variant
from utils import BadRequest


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. (N, in_chans, H, W) -> (N, width, H/stride, W/stride)."""

    expansion = 1

    def __init__(self, in_chans: int, width: int, stride: int, downsample: nn.Module | None):
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut. (N, in_chans, H, W) -> (N, 4 * width, H/stride, W/stride)."""

    expansion = 4

    def __init__(self, in_chans: int, width: int, stride: int, downsample: nn.Module | None):
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class PadShortcut(nn.Module):
    """The parameter-free shortcut of section 4.2 (option A): every second pixel, and zeros in the new channels.

    (N, C, H, W) -> (N, C + new_chans, H/2, W/2).
    """

    def __init__(self, new_chans: int):
        super().__init__()
        self.new_chans = new_chans

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.new_chans // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, self.new_chans - before))


class ResNet(nn.Module):
    """(N, in_chans, H, W) -> (N, num_classes).

    Args:
        block: BasicBlock or Bottleneck.
        depths: blocks in each stage, at least one; the first block of every stage but the first halves the sides.
        widths: channels of the 3x3 convolutions in each stage.
        stem: "imagenet" (7x7 stride 2 and max pooling), "cifar" (3x3, stride 1), or "auto": cifar up to 64 px.
        shortcut: where the shape changes: A, without parameters (only with BasicBlock), or B, 1x1 convolutions with
            batch normalisation; with --weights, that of the file.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        num_classes: int,
        img_size: int | Sequence[int],
        in_chans: int,
        stem: Stem = "auto",
        depths: Counts = (2, 2, 2, 2),
        widths: Counts = (64, 128, 256, 512),
        shortcut: Literal["A", "B"] = "B",
    ):
        super().__init__()
        if len(depths) != len(widths) or min(*depths, *widths) < 1:
            given = f"depths {tuple(depths)} and widths {tuple(widths)}"
            raise BadRequest(f"{given}: both need a number from 1 for each stage")
        stem = choose_stem(stem, img_size)
        width = widths[0]
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_chans, width, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

        self.stages = [f"layer{i + 1}" for i in range(len(depths))]
        chans = width
        for name, depth, width in zip(self.stages, depths, widths, strict=True):
            blocks = []
            for i in range(depth):
                stride = 2 if i == 0 and name != "layer1" else 1
                out_chans = width * block.expansion
                downsample = None
                if stride != 1 or chans != out_chans:
                    if shortcut == "A":
                        downsample = PadShortcut(out_chans - chans)
                    else:
                        conv = nn.Conv2d(chans, out_chans, 1, stride, bias=False)
                        downsample = nn.Sequential(conv, nn.BatchNorm2d(out_chans))
                blocks.append(block(chans, width, stride, downsample))
                chans = out_chans
            setattr(self, name, nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(chans, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al., arXiv:1502.01852
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))

    def checkpointed_blocks(self) -> list[nn.Module]:
        """What `models.checkpointing` computes again in the backward pass."""
        return [block for name in self.stages for block in getattr(self, name)]


register_variants(
    ResNet,
    variant("resnet18", block=BasicBlock, depths=(2, 2, 2, 2), pretrained="ResNet18_Weights"),
    variant("resnet34", block=BasicBlock, depths=(3, 4, 6, 3), pretrained="ResNet34_Weights"),
    variant("resnet50", block=Bottleneck, depths=(3, 4, 6, 3), pretrained="ResNet50_Weights"),
    variant("resnet101", block=Bottleneck, depths=(3, 4, 23, 3), pretrained="ResNet101_Weights"),
    variant("resnet152", block=Bottleneck, depths=(3, 8, 36, 3), pretrained="ResNet152_Weights"),
    takes=("stem", "depths", "widths"),
    year=2015,
    paper="arXiv:1512.03385",
)
register_variants(  # the (6n + 2)-layer networks of section 4.2
    ResNet,
    variant("resnet20", depths=(3, 3, 3)),
    variant("resnet32", depths=(5, 5, 5)),
    variant("resnet44", depths=(7, 7, 7)),
    variant("resnet56", depths=(9, 9, 9)),
    variant("resnet110", depths=(18, 18, 18)),
    block=BasicBlock,
    stem="cifar",
    widths=(16, 32, 64),
    shortcut="A",
    takes=("shortcut",),
    year=2015,
    paper="arXiv:1512.03385",
)
