"""Size of a model: parameters, and floating-point operations per image."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.optim import train_mode
from utils import BadRequest, sides


def count_parameters(model: nn.Module, trainable: bool = False) -> int:
    """Number of parameters: all, or with `trainable` those that are not frozen."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not trainable)


def count_flops(model: nn.Module, img_size: int | Sequence[int], in_chans: int, name: str) -> int:
    """FLOPs of the forward pass of one image, by torch's counter: a multiply-add counts as two.

    Also checks that the model accepts images of this size. Raises BadRequest, with `name`, if it does not.
    """
    try:
        return _count(_on_meta(model), torch.empty(1, in_chans, *sides(img_size), device="meta"))
    except Exception:  # not every model runs on the meta device
        try:
            device = next((parameter.device for parameter in model.parameters()), None)
            return _count(model, torch.zeros(1, in_chans, *sides(img_size), device=device))
        except Exception as error:
            reason = str(error).strip().split("\n")[0][:200] or f"{type(error).__name__} in its forward pass"
            given = ",".join(map(str, dict.fromkeys(sides(img_size))))
            raise BadRequest(f"{name} does not work with --img-size {given}: {reason}") from None


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy of the model without memory for its tensors. Copying first and moving then would need it for a moment."""
    tensors = [*model.parameters(), *model.buffers()]
    empty = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    for parameter in model.parameters():
        empty[id(parameter)] = nn.Parameter(empty[id(parameter)], parameter.requires_grad)
    return copy.deepcopy(model, empty).to("meta")


def unfit_for_one_image(model: nn.Module, img_size: int | Sequence[int], in_chans: int) -> str | None:
    """Reason why the model cannot be trained on a batch of one image (batch norm over one value), or None."""
    trial = _on_meta(model)
    train_mode(trial)
    try:
        trial(torch.empty(1, in_chans, *sides(img_size), device="meta"))
    except ValueError as error:
        return str(error)
    return None


def check_batch_of_one(model: nn.Module, img_size: int | Sequence[int], in_chans: int) -> None:
    """Raises BadRequest if the model cannot be trained on a batch of one image."""
    unfit = unfit_for_one_image(model, img_size, in_chans)
    if unfit:
        raise BadRequest(f"--batch-size: batches of one image are too small for this model ({unfit})")


def _count(model: nn.Module, images: torch.Tensor) -> int:
    """FLOPs of one forward pass. The counter fails on parameters that require gradients and are a module's input."""
    training, trainable = model.training, [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(images)
    finally:
        model.train(training)
        for parameter in trainable:
            parameter.requires_grad_(True)
    return counter.get_total_flops()
