"""Vision Transformer (Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv:2010.11929, section 3.1).

An image is cut into square patches; each becomes a token by a linear map, a learnt position embedding is added, and
the tokens pass pre-norm Transformer blocks. Parameter names and initialisation are timm's; torchvision's names can be
loaded as well. vit_b_16, vit_b_32 and vit_l_16 are table 1's Base and Large; Tiny and Small are those of
DeiT (arXiv:2012.12877, table 1).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import StochasticDepth

from models.attention import attention
from models.layers import Count, Fraction, Pool, Positive
from models.registry import register_variants, variant
from utils import BadRequest, in_px, sides, widest_float

MAX_CHOSEN_GRID = 32  # patches per side; attention over more than 1,024 patches has to be asked for

# torchvision's parameter names (mlp.linear_1 and mlp.linear_2 in the files it published) -> ours
TORCHVISION_NAMES = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
)


def nearby_multiples(value: int | Sequence[int], step: int) -> str:
    """The multiples of `step` around `value` as text, such as "48 or 64"; for (H, W) those below, such as "48,96"."""
    if not isinstance(value, int):
        return ",".join(str(max(step, side // step * step)) for side in value)
    below = value // step * step
    return f"{below} or {below + step}" if below else str(step)


def choose_patch_size(img_size: int | Sequence[int]) -> int:
    """16 from 128 px up; below, the divisor of the side that gives about 8x8 patches: 4 at 32 px, 8 at 64 px.

    For a rectangle, the shorter side decides, and the patch size divides both sides. Raises BadRequest if that gives
    more than 32x32 patches.
    """
    height, width = sides(img_size)
    short = min(height, width)
    if short >= 128:
        return 16
    common = math.gcd(height, width)
    divisors = [size for size in range(common, 0, -1) if common % size == 0]
    patch_size = min(divisors, key=lambda size: abs(size - short / 8))
    rows, columns = height // patch_size, width // patch_size
    if rows * columns > MAX_CHOSEN_GRID**2:
        if rows != columns:
            raise BadRequest(f"no patch size cuts {in_px(img_size)} images into few patches: use other sides, or"
                             f" --patch-size {patch_size} for {rows}x{columns} of them")  # fmt: skip
        raise BadRequest(
            f"no patch size cuts {in_px(img_size)} images into about 8x8 patches: use --img-size "
            f"{nearby_multiples(img_size, 8)} (or --patch-size {patch_size} for {rows}x{columns} patches)"
        )
    return patch_size


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # a tensor made in inference mode could take no part in training
def resampling(old: tuple[int, int], new: tuple[int, int], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The matrix that maps what belongs to a grid of patches, (old patches, C), to another grid, (new patches, C).

    The interpolation is bicubic and antialiased, as in timm's resample_abs_pos_embed. Its gradient is a product of
    matrices, and so deterministic on GPUs too, where torch's interpolation is not.

    Args:
        old, new: (rows, columns).
    """
    patches = old[0] * old[1]
    basis = torch.eye(patches, dtype=torch.float64, device="cpu").view(1, patches, *old)
    resampled = F.interpolate(basis, new, mode="bicubic", antialias=True)  # (1, old patches, *new)
    return resampled.view(patches, -1).T.to(device, dtype).contiguous()


class PatchEmbed(nn.Module):
    """Equation 1's linear map of flattened patches, as a convolution.

    (N, in_chans, H, W) -> (N, H/patch_size * W/patch_size, embed_dim).
    """

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, stride=patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention (appendix A). (N, tokens, dim) -> (N, tokens, dim)."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, dim = x.shape
        # Unbound along a middle dimension: so the backward pass writes the projection's gradient in its own layout.
        qkv = self.qkv(x).view(n, tokens, 3, self.num_heads, dim // self.num_heads).unbind(2)
        q, k, v = (each.transpose(1, 2) for each in qkv)  # each (N, heads, tokens, dim / heads)
        x = attention(q, k, v)
        x = x.transpose(1, 2).reshape(n, tokens, dim)
        return self.proj_drop(self.proj(x))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them. (N, tokens, dim) -> (N, tokens, dim)."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop2 = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop2(self.fc2(self.drop1(self.act(self.fc1(x)))))


class LayerScale(nn.Module):
    """A learnt factor for each channel (Touvron et al., arXiv:2103.17239, equation 4). (..., dim) -> (..., dim)."""

    def __init__(self, dim: int, initial: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Equations 2 and 3: attention and MLP, each after a LayerNorm and with a shortcut. (N, tokens, dim) -> the same.

    Stochastic depth (Huang et al., arXiv:1603.09382) drops a branch and keeps its shortcut.
    """

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, dropout: float, drop_path: float, layer_scale: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, dropout)
        self.ls1 = LayerScale(dim, layer_scale) if layer_scale else nn.Identity()
        self.drop_path1 = StochasticDepth(drop_path, "row")
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, hidden_dim, dropout)
        self.ls2 = LayerScale(dim, layer_scale) if layer_scale else nn.Identity()
        self.drop_path2 = StochasticDepth(drop_path, "row")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class VisionTransformer(nn.Module):
    """(N, in_chans, H, W) -> (N, num_classes), where img_size is (H, W), or the side of square images.

    Images of other sizes get interpolated position embeddings. Patches must divide their sides.

    Args:
        patch_size: side of a patch in pixels; 16 from 128 px images up, below a divisor of their side that gives about
            8x8 patches.
        embed_dim: width of the tokens.
        depth: number of Transformer blocks.
        num_heads: attention heads in a block.
        mlp_ratio: hidden units of a block's MLP as a multiple of the width of the tokens.
        dropout: dropout after the position embeddings and after every linear layer of a block but that of queries, keys
            and values (the paper's appendix B.1; pos_drop and proj_drop in timm).
        drop_path: stochastic depth: how often an image skips a branch of the last block; linear from 0 in the first.
        pool: what the head reads: "token", a class token, or "mean", the mean of the patches (without a class token).
        layer_scale: initial value of a learnt factor on each channel of what a branch adds (LayerScale); 0: no factors.
    """

    def __init__(
        self,
        num_classes: int,
        img_size: int | Sequence[int],
        in_chans: int,
        patch_size: Count | None = None,
        embed_dim: Count = 768,
        depth: Count = 12,
        num_heads: Count = 12,
        mlp_ratio: Positive = 4.0,
        dropout: Fraction = 0.0,
        drop_path: Fraction = 0.0,
        pool: Pool = "token",
        layer_scale: Fraction = 0.0,
    ):
        super().__init__()
        patch_size = patch_size or choose_patch_size(img_size)
        height, width = sides(img_size)
        if height % patch_size or width % patch_size:
            sizes = nearby_multiples(img_size, patch_size)
            raise BadRequest(
                f"patches of {patch_size} px do not divide {in_px(img_size)} images: use --img-size {sizes}"
            )
        if embed_dim % num_heads:
            widths = nearby_multiples(embed_dim, num_heads)
            raise BadRequest(f"{num_heads} heads cannot share a width of {embed_dim} evenly: use --embed-dim {widths}")
        hidden_dim = int(mlp_ratio * embed_dim)
        if hidden_dim == 0:
            raise BadRequest(f"{mlp_ratio:g} times the width {embed_dim} is no hidden unit: use a larger --mlp-ratio")
        if pool not in get_args(Pool):
            raise BadRequest(f"pool {pool!r} is none of {', '.join(get_args(Pool))}")

        self.grid_size = height // patch_size, width // patch_size
        num_patches = self.grid_size[0] * self.grid_size[1]
        self.num_prefix_tokens = 1 if pool == "token" else 0
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if pool == "token" else None
        self.pos_embed = nn.Parameter(torch.zeros(1, self.num_prefix_tokens + num_patches, embed_dim))
        self.pos_drop = nn.Dropout(dropout)
        rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
        shape = embed_dim, num_heads, hidden_dim, dropout
        self.blocks = nn.Sequential(*(Block(*shape, rate, layer_scale) for rate in rates))
        # With "mean" the normalisation follows the pooling, as in timm.
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6) if pool == "token" else nn.Identity()
        self.fc_norm = nn.LayerNorm(embed_dim, eps=1e-6) if pool == "mean" else nn.Identity()
        self.head = nn.Linear(embed_dim, num_classes)

        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positions = self.positions(x)
        x = self.patch_embed(x)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.pos_drop(x + positions)
        x = self.norm(self.blocks(x))
        x = x.mean(dim=1) if self.cls_token is None else x[:, 0]
        return self.head(self.fc_norm(x))

    def positions(self, images: torch.Tensor) -> torch.Tensor:
        """The position embeddings of all tokens of the images (N, in_chans, H, W): (1, tokens, embed_dim).

        Raises ValueError if the patches do not divide the sides.
        """
        size, step = (images.shape[2], images.shape[3]), self.patch_embed.proj.kernel_size[0]
        grid = size[0] // step, size[1] // step
        if size != (grid[0] * step, grid[1] * step):
            raise ValueError(f"patches of {step} px do not divide {in_px(size)} images")
        if grid == self.grid_size:
            return self.pos_embed
        prefix, patches = self.pos_embed.tensor_split([self.num_prefix_tokens], dim=1)
        wide = widest_float(patches.device)  # neither autocast nor TF32 round a product of float64
        patches = resampling(self.grid_size, grid, patches.device, wide) @ patches.to(wide)
        return torch.cat([prefix, patches.to(prefix.dtype)], dim=1)

    def checkpointed_blocks(self) -> list[nn.Module]:
        """What `models.checkpointing` computes again in the backward pass."""
        return list(self.blocks)

    def convert_state_dict(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Renames the parameters of torchvision's VisionTransformer to this class's; other names stay as they are."""
        if "encoder.pos_embedding" not in state:
            return state
        converted = {}
        for key, value in state.items():
            for pattern, name in TORCHVISION_NAMES:
                key = re.sub(pattern, name, key)
            converted[key] = value
        return converted

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, besides biases and norms (timm's protocol)."""
        return {"pos_embed", "cls_token", "dist_token"}

    def group_matcher(self, coarse: bool = False) -> dict:
        """The parameters at each depth: stem, each block (the last with the norm), head (timm's protocol)."""
        return {
            "stem": r"^cls_token|dist_token|pos_embed|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }


register_variants(
    VisionTransformer,
    variant("vit_scratch", dropout=0.1),
    variant("vit_tiny", embed_dim=192, num_heads=3),
    variant("vit_small", embed_dim=384, num_heads=6),
    year=2020,
    paper="arXiv:2010.11929",
)
register_variants(
    VisionTransformer,
    variant("vit_b_16", patch_size=16, pretrained="ViT_B_16_Weights"),
    variant("vit_b_32", patch_size=32, pretrained="ViT_B_32_Weights"),
    variant("vit_l_16", patch_size=16, embed_dim=1024, depth=24, num_heads=16, pretrained="ViT_L_16_Weights"),
    takes=("dropout", "drop_path", "layer_scale"),
    img_size=224,
    year=2020,
    paper="arXiv:2010.11929",
)
