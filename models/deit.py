"""DeiT (Touvron et al., "Training data-efficient image transformers & distillation through attention",
arXiv:2012.12877).

deit_tiny and deit_small are the Vision Transformers of table 1, built by models/vit.py. The distilled ones (section 4)
have a distillation token beside the class token, with a head of its own that learns from a teacher's predictions. They
inherit patch embedding, blocks and class token from `VisionTransformer`; tokens, heads and the forward pass are written
out here. Parameter names are those of timm's VisionTransformerDistilled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from models.layers import Count, Fraction, Pool, Positive
from models.registry import register_variants, variant
from models.vit import VisionTransformer


class DistilledVisionTransformer(VisionTransformer):
    """(N, in_chans, H, W) -> (N, num_classes): the mean of both heads' logits (section 4, "Classification with our
    approach"). In train mode it returns the two apart: (class logits, distillation logits).

    Args:
        config: keyword arguments of `VisionTransformer`, except `pool`: each head reads its own token.
    """

    head_names = ("head", "head_dist")

    def __init__(self, num_classes: int, img_size: int | Sequence[int], in_chans: int, **config: Any):
        super().__init__(num_classes, img_size, in_chans, **config, pool="token")
        embed_dim = self.pos_embed.shape[2]
        self.num_prefix_tokens = 2
        self.dist_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.pos_embed.shape[1] + 1, embed_dim))
        self.head_dist = nn.Linear(embed_dim, num_classes)

        for weight in (self.dist_token, self.pos_embed, self.head_dist.weight):
            nn.init.trunc_normal_(weight, std=0.02)
        nn.init.zeros_(self.head_dist.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        positions = self.positions(x)
        x = self.patch_embed(x)  # (N, patches, embed_dim)
        tokens = [token.expand(x.shape[0], -1, -1) for token in (self.cls_token, self.dist_token)]
        x = torch.cat([*tokens, x], dim=1)
        x = self.pos_drop(x + positions)
        x = self.norm(self.blocks(x))
        logits, dist_logits = self.head(x[:, 0]), self.head_dist(x[:, 1])
        return (logits, dist_logits) if self.training else (logits + dist_logits) / 2


def deit(
    distilled: bool,
    num_classes: int,
    img_size: int | Sequence[int],
    in_chans: int,
    patch_size: Count | None = None,
    embed_dim: Count = 192,
    depth: Count = 12,
    num_heads: Count = 3,
    mlp_ratio: Positive = 4.0,
    dropout: Fraction = 0.0,
    drop_path: Fraction = 0.0,
    pool: Pool = "token",
    layer_scale: Fraction = 0.0,
) -> VisionTransformer:
    """A Vision Transformer that reads its class token or, distilled, its distillation token as well.

    Args:
        patch_size: side of a patch in pixels; 16 from 128 px images up, below a divisor of their side that gives about
            8x8 patches.
        embed_dim: width of the tokens.
        depth: number of Transformer blocks.
        num_heads: attention heads in a block.
        mlp_ratio: hidden units of a block's MLP as a multiple of the width of the tokens.
        dropout: dropout after the position embeddings and after every linear layer of a block but that of queries, keys
            and values (pos_drop and proj_drop in timm).
        drop_path: stochastic depth: how often an image skips a branch of the last block; linear from 0 in the first.
        pool: what the head reads: "token", a class token, or "mean", the mean of the patches (without a class token).
        layer_scale: initial value of a learnt factor on each channel of what a branch adds (LayerScale); 0: no factors.
    """
    config = {"patch_size": patch_size, "embed_dim": embed_dim, "depth": depth, "num_heads": num_heads,
              "mlp_ratio": mlp_ratio, "dropout": dropout, "drop_path": drop_path,
              "layer_scale": layer_scale}  # fmt: skip
    if distilled:
        return DistilledVisionTransformer(num_classes, img_size, in_chans, **config)
    return VisionTransformer(num_classes, img_size, in_chans, **config, pool=pool)


register_variants(
    deit,
    variant("deit_tiny", distilled=False, embed_dim=192, num_heads=3),
    variant("deit_small", distilled=False, embed_dim=384, num_heads=6),
    year=2020,
    paper="arXiv:2012.12877",
)
register_variants(
    deit,
    variant("deit_tiny_distill", embed_dim=192, num_heads=3),
    variant("deit_small_distill", embed_dim=384, num_heads=6),
    distilled=True,
    takes=("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "dropout", "drop_path", "layer_scale"),
    year=2020,
    paper="arXiv:2012.12877",
)
