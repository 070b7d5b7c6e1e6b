"""Training at another image size than evaluation (Touvron et al., "Fixing the train-test resolution discrepancy",
arXiv:1906.06423): the model is built for evaluation, and its forward pass in training gets images of --train-size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from models.memory import lacks_memory
from models.vit import nearby_multiples
from utils import BadRequest, in_px, sides


@torch.no_grad()
def check_train_size(model: nn.Module, name: str, size: int | Sequence[int], in_chans: int) -> None:
    """Runs the model on one blank image of this size. Raises BadRequest, with `name`, if it cannot take it.

    Args:
        size: side in pixels, or (H, W).
    """
    device = next((parameter.device for parameter in model.parameters()), None)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        model(torch.zeros(1, in_chans, *sides(size), device=device))
    except Exception as error:
        if lacks_memory(error):
            raise
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        given = ",".join(map(str, dict.fromkeys(sides(size))))
        raise BadRequest(f"--train-size {given}: {name}, built for the images of --img-size, cannot take those of"
                         f" {in_px(size)}: {reason}{_advice(model, size)}") from None  # fmt: skip
    finally:
        for module, training in modes:
            module.training = training


def _advice(model: nn.Module, size: int | Sequence[int]) -> str:
    """What to try instead: timm's argument for other sizes, or multiples of the size of the patches."""
    if getattr(model, "dynamic_img_size", True) is False:
        return "; timm's --model-arg dynamic_img_size=true takes multiples of its patches"
    projection = getattr(getattr(model, "patch_embed", None), "proj", None)
    step = getattr(projection, "kernel_size", (1, 1))[0]
    return f"; use {nearby_multiples(size if isinstance(size, int) else tuple(size), step)}" if step > 1 else ""
