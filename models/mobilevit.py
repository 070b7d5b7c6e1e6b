"""MobileViT (Mehta & Rastegari, "Light-weight, General-purpose, and Mobile-friendly Vision Transformer",
arXiv:2110.02178).

Inverted residuals of MobileNetV2 halve the sides; at the three smallest sizes a MobileViT block adds global attention:
convolutions, a transformer encoder over the 2x2 patches of the feature map, and a fusion with the block's input. There
is no position embedding: the convolutions around the encoder convey positions.

`tokens` chooses what a token is. "pixel" is section 3.1 of the paper: pixels attend to those in the same place of all
other patches, in four separate sequences of width `dim`. "patch", the default, makes each patch one token of width
4 * dim, so that the pixels of a patch mix as well; its encoder ends without a normalisation. The variants have the
paper's channels, but one block fewer at the second size, expansion 4 throughout, and encoder widths of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from models.attention import attention
from models.layers import Counts, Fraction, Stem, choose_stem
from models.registry import register_variants, variant
from utils import BadRequest

Tokens = Literal["patch", "pixel"]


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch normalisation, SiLU. (N, in_chans, H, W) -> (N, out_chans, H/s, W/s)."""

    def __init__(self, in_chans: int, out_chans: int, kernel_size: int, stride: int = 1, groups: int = 1):
        super().__init__(
            nn.Conv2d(in_chans, out_chans, kernel_size, stride, kernel_size // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out_chans),
            nn.SiLU(inplace=True),
        )


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 to four times the channels, depthwise 3x3, linear 1x1, and a shortcut between equal
    shapes. (N, in_chans, H, W) -> (N, out_chans, H/stride, W/stride)."""

    def __init__(self, in_chans: int, out_chans: int, stride: int):
        super().__init__()
        hidden = 4 * in_chans
        self.use_shortcut = stride == 1 and in_chans == out_chans
        self.expand = ConvNormAct(in_chans, hidden, 1)
        self.depthwise = ConvNormAct(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Sequential(nn.Conv2d(hidden, out_chans, 1, bias=False), nn.BatchNorm2d(out_chans))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.use_shortcut else out


class Attention(nn.Module):
    """Multi-head self-attention. (B, T, width) -> (B, T, width)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # (B, T, 3 * width) -> q, k and v, each (B, heads, T, width / heads)
        q, k, v = (each.transpose(1, 2) for each in self.qkv(x).unflatten(2, (3, self.heads, -1)).unbind(2))
        x = attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer, an MLP of twice the width. (B, T, width) -> (B, T, width)."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.dropout(self.attn(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


def unfold(x: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """(N, C, H, W), H and W even, into sequences over the H/2 * W/2 patches, row by row.

    "patch": (N, H/2 * W/2, 4C), a token is a patch, its pixels row by row. "pixel": (4N, H/2 * W/2, C), four sequences
    per image, one for each place within a patch.
    """
    n, chans, height, width = x.shape
    x = x.reshape(n, chans, height // 2, 2, width // 2, 2)
    if tokens == "patch":
        return x.permute(0, 2, 4, 3, 5, 1).reshape(n, height * width // 4, 4 * chans)
    return x.permute(0, 3, 5, 2, 4, 1).reshape(4 * n, height * width // 4, chans)


def fold(x: torch.Tensor, tokens: Tokens, height: int, width: int) -> torch.Tensor:
    """The inverse of `unfold`: (N, C, height, width)."""
    if tokens == "patch":
        chans = x.shape[2] // 4
        x = x.reshape(-1, height // 2, width // 2, 2, 2, chans).permute(0, 5, 1, 3, 2, 4)
    else:
        chans = x.shape[2]
        x = x.reshape(-1, 2, 2, height // 2, width // 2, chans).permute(0, 5, 3, 1, 4, 2)
    return x.reshape(-1, chans, height, width)


class MobileViTBlock(nn.Module):
    """Figure 1b: local convolutions, an encoder over the whole feature map, fusion. (N, chans, H, W) -> the same shape.

    An odd side is padded with a row or column of zeros, which the encoder attends to, and cropped afterwards (timm
    resizes the map instead).

    Args:
        dim: channels that the encoder sees of each pixel.
        depth: layers of the encoder.
        tokens: what attends to what: "patch", the 2x2 patches of a feature map, or "pixel", as in the paper only
            pixels in the same place of their patch.
    """

    def __init__(
        self, chans: int, dim: int, depth: int, tokens: Tokens = "patch", dropout: Fraction = 0.0, heads: int = 4
    ):
        super().__init__()
        self.tokens = tokens
        self.conv_kxk = ConvNormAct(chans, chans, 3)
        if tokens == "patch":
            width = 4 * dim
            self.conv_1x1 = ConvNormAct(chans, dim, 1)
            self.norm = nn.Identity()
        else:
            width = dim
            self.conv_1x1 = nn.Conv2d(chans, dim, 1, bias=False)
            self.norm = nn.LayerNorm(dim)
        if width % heads:
            raise BadRequest(f"{heads} heads cannot share a width of {width} evenly: use multiples of {heads} in dims")
        self.encoder = nn.Sequential(*(EncoderLayer(width, heads, dropout) for _ in range(depth)))
        self.conv_proj = ConvNormAct(dim, chans, 1)
        self.conv_fusion = ConvNormAct(2 * chans, chans, 3)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The encoder on a feature map. (N, dim, H, W) -> (N, dim, H, W)."""
        height, width = x.shape[2:]
        x = F.pad(x, (0, width % 2, 0, height % 2))
        padded = x.shape[2:]
        x = self.norm(self.encoder(unfold(x, self.tokens)))
        return fold(x, self.tokens, *padded)[:, :, :height, :width]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv_proj(self.encode(self.conv_1x1(self.conv_kxk(x))))
        return self.conv_fusion(torch.cat([x, out], dim=1))


class MobileViT(nn.Module):
    """(N, in_chans, H, W) -> (N, num_classes).

    Args:
        dims: channels of a pixel in the encoders of the three MobileViT blocks; a patch token has four times as many.
        channels: of the stem, of the five sizes after it, and of the last convolution.
        depths: encoder layers of the three MobileViT blocks.
        stem: "imagenet" (sides halved five times), "cifar" (three times: the first convolution and the first strided
            block keep stride 1), or "auto": cifar up to 64 px.
        dropout: fraction of the features dropped after attention and MLP, and before the classifier.
    """

    def __init__(
        self,
        num_classes: int,
        img_size: int | Sequence[int],
        in_chans: int,
        stem: Stem = "auto",
        tokens: Tokens = "patch",
        dropout: Fraction = 0.0,
        dims: Counts = (32, 64, 80),
        channels: Counts = (16, 16, 24, 48, 64, 80, 320),
        depths: Counts = (2, 4, 3),
    ):
        super().__init__()
        if tokens not in ("patch", "pixel"):
            raise BadRequest(f"tokens {tokens!r} is none of patch, pixel")
        for name, values, count in (("dims", dims, 3), ("channels", channels, 7), ("depths", depths, 3)):
            if len(values) != count:
                raise BadRequest(f"{name} has {len(values)} numbers, a MobileViT takes {count}")
        stride = 1 if choose_stem(stem, img_size) == "cifar" else 2
        c0, c1, c2, c3, c4, c5, c6 = channels
        self.stem = ConvNormAct(in_chans, c0, 3, stride)
        self.stages = nn.Sequential(
            InvertedResidual(c0, c1, 1),
            nn.Sequential(InvertedResidual(c1, c2, stride), InvertedResidual(c2, c2, 1)),
            nn.Sequential(InvertedResidual(c2, c3, 2), MobileViTBlock(c3, dims[0], depths[0], tokens, dropout)),
            nn.Sequential(InvertedResidual(c3, c4, 2), MobileViTBlock(c4, dims[1], depths[1], tokens, dropout)),
            nn.Sequential(InvertedResidual(c4, c5, 2), MobileViTBlock(c5, dims[2], depths[2], tokens, dropout)),
        )
        self.last_conv = ConvNormAct(c5, c6, 1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(c6, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.last_conv(self.stages(self.stem(x)))
        return self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))

    def checkpointed_blocks(self) -> list[nn.Module]:
        """What `models.checkpointing` computes again in the backward pass."""
        return [module for module in self.modules() if isinstance(module, (InvertedResidual, MobileViTBlock))]


register_variants(
    MobileViT,
    variant("mobilevit_xxs", dims=(32, 64, 80), channels=(16, 16, 24, 48, 64, 80, 320)),
    variant("mobilevit_xs", dims=(64, 80, 96), channels=(16, 32, 48, 64, 80, 96, 384)),
    variant("mobilevit_s", dims=(96, 120, 144), channels=(16, 32, 64, 96, 128, 160, 640)),
    year=2021,
    paper="arXiv:2110.02178",
)
