"""VGG with batch normalisation (Simonyan & Zisserman, "Very Deep Convolutional Networks", arXiv:1409.1556, table 1).

The ImageNet form has the paper's three linear layers, parameter names as in torchvision. The CIFAR form, usual in the
literature on 32 px images, ends in one linear layer on the 512 channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from models.layers import Stem, choose_stem
from models.registry import register_variants, variant
from utils import BadRequest, in_px, sides

# Output channels of the 3x3 convolutions of each of the five stages; a 2x2 max pooling follows every stage.
STAGES = {
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    13: ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
    19: ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4),
}


class PoolTo7x7(nn.AdaptiveAvgPool2d):
    """Mean over 7x7 windows. (N, C, H, W) -> (N, C, 7, 7).

    Maps of that size, those of 224 px images, pass: torch's adaptive pooling is not deterministic on GPUs.
    """

    def __init__(self):
        super().__init__(7)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input if input.shape[2:] == (7, 7) else super().forward(input)


class VGG(nn.Module):
    """(N, in_chans, H, W) -> (N, num_classes), H and W at least 32.

    Args:
        depth: 11, 13, 16 or 19 layers with weights, as the ImageNet form counts them.
        stem: "imagenet" (7x7 average pooling, two hidden linear layers of 4096, dropout 0.5), "cifar" (average pooling
            and one linear layer), or "auto": cifar up to 64 px.
    """

    def __init__(self, depth: int, num_classes: int, img_size: int | Sequence[int], in_chans: int, stem: Stem = "auto"):
        super().__init__()
        if min(sides(img_size)) < 32:
            raise BadRequest(
                f"vgg{depth} halves its input five times: {in_px(img_size)} is too small, use --img-size 32"
            )
        stem = choose_stem(stem, img_size)
        layers: list[nn.Module] = []
        chans = in_chans
        for stage in STAGES[depth]:
            for width in stage:
                layers += [nn.Conv2d(chans, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                chans = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        if stem == "imagenet":
            self.avgpool = PoolTo7x7()
            self.classifier = nn.Sequential(
                nn.Linear(512 * 7 * 7, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                nn.Linear(4096, num_classes),
            )
        else:
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Linear(512, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


register_variants(
    VGG,
    variant("vgg11", depth=11, pretrained="VGG11_BN_Weights"),
    variant("vgg13", depth=13, pretrained="VGG13_BN_Weights"),
    variant("vgg16", depth=16, pretrained="VGG16_BN_Weights"),
    variant("vgg19", depth=19, pretrained="VGG19_BN_Weights"),
    year=2014,
    paper="arXiv:1409.1556",
)
