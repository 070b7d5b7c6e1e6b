"""Heat maps of what in the image a prediction is based on: attention rollout for Vision Transformers, else Grad-CAM."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from utils import BadRequest


def explain(model: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> tuple[torch.Tensor, str]:
    """Computes heat maps of a model's predictions by `attention_rollout`, or by `grad_cam` if that is impossible.

    Args:
        images: (N, C, H, W), normalised as the model expects.
        classes: int64 (N,): the class whose logit Grad-CAM explains. Rollout does not depend on it.

    Returns:
        (heat maps, method): (N, H, W) from 0 to 1, on the images' device; "attention rollout" or "Grad-CAM".

    Raises:
        BadRequest: neither is possible; one line gives both reasons.
    """
    try:
        return attention_rollout(model, images), "attention rollout"
    except BadRequest as reason:
        no_rollout = reason
    try:
        return grad_cam(model, images, classes), "Grad-CAM"
    except BadRequest as no_cam:
        raise BadRequest(f"{no_rollout}; {no_cam}") from None


@contextlib.contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Restores the mode of every module afterwards: frozen parts may be in eval mode while others train."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _spread(maps: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Resizes (N, h, w) to (N, *size), bilinearly."""
    return F.interpolate(maps[:, None], size, mode="bilinear")[:, 0]


# -------------------------------------------------------------------------------------------------------------- rollout


@torch.no_grad()
def attention_rollout(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Attention rollout: Abnar & Zuidema, "Quantifying Attention Flow in Transformers", arXiv:2005.00928, section 3.

    Each block contributes the mean of its attention, averaged over heads, and the identity of its residual connection;
    the result is their product over the blocks. The map is the row of the tokens that the head reads: the class token,
    the mean of class and distillation token, or the mean of the patches. Only columns of patches are kept.

    Works for plain self-attention between all patches of an image: this suite's and timm's ViT and DeiT, torchvision's
    ViT. Attention weights are recomputed from queries and keys, and used only if they reproduce the output of their
    module. This rules out biases, rotary embeddings and mixed heads.

    Args:
        images: (N, C, H, W), normalised as the model expects.

    Returns:
        (N, H, W), scaled for each image from 0 (lowest) to 1 (highest); 0 everywhere if the map is constant.

    Raises:
        BadRequest: the model has another kind of attention.
    """
    name = type(model).__name__
    layers = _attention_layers(model, images)
    prefix, rows = _read_tokens(model)
    size = images.shape[-2:]
    grid = _grid(layers[0].shape[1] - prefix, size)
    if grid is None:
        raise BadRequest(f"attention rollout: the tokens of {name} are no grid of patches over the image")

    *others, last = layers
    flow = _with_shortcut(last)[:, rows].mean(1, keepdim=True)  # (N, 1, tokens)
    for attention in reversed(others):  # last block first: row times matrix is cheaper than matrix products
        flow = flow @ _with_shortcut(attention)
    maps = _spread(flow[:, 0, prefix:].unflatten(1, grid), size)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    flat = high - low <= 1e-5 * high  # do not stretch the rounding errors of interpolation
    return torch.where(flat, 0.0, (maps - low) / (high - low))


def _with_shortcut(attention: torch.Tensor) -> torch.Tensor:
    """The mean of a block's attention, (N, tokens, tokens), and the identity of its residual connection."""
    return 0.5 * attention + 0.5 * torch.eye(attention.shape[1], device=attention.device, dtype=attention.dtype)


def _attention_layers(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Attention of each block, averaged over heads: (N, tokens, tokens), first block first."""
    name = type(model).__name__
    recorded: list[torch.Tensor | None] = []
    projected: dict[nn.Module, torch.Tensor] = {}

    def record(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        if isinstance(module, nn.MultiheadAttention) and args and module.in_proj_weight is not None:
            projected[module] = F.linear(args[0], module.in_proj_weight, module.in_proj_bias)
        recorded.append(_weights(module, projected.pop(module, None), output))

    with contextlib.ExitStack() as hooks, _in_eval_mode(model):
        for module in model.modules():
            qkv = getattr(module, "qkv", None)
            if isinstance(qkv, nn.Module) and hasattr(module, "num_heads"):

                def keep(_: nn.Module, args: tuple[Any, ...], output: Any, attention: nn.Module = module) -> None:
                    projected[attention] = output

                hooks.enter_context(qkv.register_forward_hook(keep))
            elif not isinstance(module, nn.MultiheadAttention):
                continue
            hooks.enter_context(module.register_forward_hook(record))
        model(images)

    if not recorded:
        raise BadRequest(f"attention rollout: {name} has no self-attention that it knows")
    layers = [layer for layer in recorded if layer is not None]
    if len(layers) < len(recorded):
        raise BadRequest(f"attention rollout: {name} has attention other than softmax(q k^T / sqrt(d))")
    if any(layer.shape != layers[0].shape or len(layer) != len(images) for layer in layers):
        raise BadRequest(f"attention rollout: {name} attends within windows, or in stages")
    blocks = getattr(model, "blocks", None)
    if isinstance(blocks, (nn.Sequential, nn.ModuleList)) and len(blocks) != len(layers):
        raise BadRequest(f"attention rollout: {name} has not one attention in each of its blocks")
    return layers


def _weights(module: Any, qkv: torch.Tensor | None, output: torch.Tensor) -> torch.Tensor | None:
    """softmax(q k^T / sqrt(d)), averaged over heads, (N, tokens, tokens); None if the module computes something else.

    Args:
        qkv: (N, tokens, 3 * heads * d), or None if the module has no such projection.
    """
    proj = module.out_proj if isinstance(module, nn.MultiheadAttention) else getattr(module, "proj", None)
    if qkv is None or qkv.dim() != 3 or not isinstance(proj, nn.Linear) or qkv.shape[2] != 3 * proj.in_features:
        return None
    q, k, v = qkv.unflatten(2, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    q_norm, k_norm = getattr(module, "q_norm", None), getattr(module, "k_norm", None)
    q, k = q if q_norm is None else q_norm(q), k if k_norm is None else k_norm(k)
    precise = torch.promote_types(q.dtype, torch.float32)
    attention = (q.to(precise) @ k.to(precise).mT / math.sqrt(q.shape[-1])).softmax(-1)
    expected = proj((attention @ v.to(precise)).transpose(1, 2).flatten(2).to(proj.weight.dtype))
    if expected.shape != output.shape:
        return None
    tolerance = 1e-3 if output.dtype == precise else 0.03  # half precision
    error = (expected - output).abs().max()
    return attention.mean(1) if error <= tolerance * output.abs().max() else None


def _read_tokens(model: nn.Module) -> tuple[int, slice]:
    """Returns (number of tokens before the patches, rows that the head reads)."""
    prefix = getattr(model, "num_prefix_tokens", int(hasattr(model, "class_token")))  # torchvision: class_token
    pool = getattr(model, "global_pool", "token" if prefix else "avg")  # timm
    if pool == "token":
        return prefix, slice(1 if getattr(model, "dist_token", None) is None else 2)
    if pool == "avg":
        return prefix, slice(0 if getattr(model, "pool_include_prefix", False) else prefix, None)
    raise BadRequest(f"attention rollout: the head of {type(model).__name__} reads neither a token nor a mean ({pool})")


def _grid(patches: int, size: torch.Size) -> tuple[int, int] | None:
    """(rows, columns) of so many square patches that cover an image of this (height, width), or None."""
    height, width = size
    rows = round(math.sqrt(max(0, patches) * height / width))
    if rows == 0 or patches % rows or rows * width != patches // rows * height:
        return None
    return rows, patches // rows


# ------------------------------------------------------------------------------------------------------------- Grad-CAM


def grad_cam(model: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Grad-CAM: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
    arXiv:1610.02391, equations 1 and 2.

    Uses the last feature map larger than one pixel, (N, C, h, w) or (N, h, w, C), that a module of the model returns.
    Works inside torch.no_grad and torch.inference_mode, but not for a model built in inference mode.

    Args:
        images: (N, C, H, W), normalised as the model expects.
        classes: int64 (N,): the class whose logit is explained.

    Returns:
        (N, H, W), with maximum 1 for each image; 0 everywhere if nothing supports the class.

    Raises:
        BadRequest: no module returns a feature map, or tokens follow the last one.
    """
    size = images.shape[-2:]
    found: list[torch.Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, torch.Tensor):
            return
        if output.dim() == 3 and output.shape[1] > 1:
            found.clear()  # tokens: the head does not read the map before them
        if output.dim() != 4 or len(output) != len(images):
            return
        if any(output.shape[axis] > 1 for axis in _space(output, size)):
            found[:] = [output]

    with torch.inference_mode(False), torch.enable_grad(), contextlib.ExitStack() as hooks, _in_eval_mode(model):
        for module in _outside_attention(model):
            hooks.enter_context(module.register_forward_hook(keep))
        # Gradients from the images reach the feature map of a frozen model, too.
        logits = model(images.detach().clone().requires_grad_())
        if not found:
            raise BadRequest(f"Grad-CAM: {type(model).__name__} has no feature map of more than one pixel at its end")
        score = logits.gather(1, classes.clone()[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, found[0])

    space = _space(gradient, size)
    channels = 6 - sum(space)
    with torch.no_grad():
        weights = gradient.mean(space, keepdim=True)
        maps = _spread((weights * found[0]).sum(channels).relu().float(), size)
        return maps / maps.amax((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def _outside_attention(module: nn.Module) -> Iterator[nn.Module]:
    """Modules whose output may be a map. Inside attention, (N, heads, tokens, d) only looks like one."""
    yield module
    for child in module.children():
        if hasattr(child, "num_heads"):
            yield child
        else:
            yield from _outside_attention(child)


def _space(output: torch.Tensor, size: torch.Size) -> tuple[int, int]:
    """Axes of height and width: 2 and 3, or 1 and 2 if those fit the images' aspect ratio better, as in Swin."""

    def misfit(height: int, width: int) -> float:
        return abs(math.log(height * size[1] / (width * size[0])))

    _, a, b, c = output.shape
    return (1, 2) if misfit(a, b) < misfit(b, c) else (2, 3)
