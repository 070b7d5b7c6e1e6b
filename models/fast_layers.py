"""Layers that compute the same as torch's, in less time. Models are written with torch's own."""

from __future__ import annotations

from torch import nn

from models.convolution import FastConv2d
from models.linear import FastLinear

FASTER = {nn.Conv2d: FastConv2d, nn.Linear: FastLinear}


def use_fast_layers(model: nn.Module) -> nn.Module:
    """Changes how the plain convolutions and linear layers of the model compute. Returns the model.

    They keep their parameters and their place. Subclasses of torch's layers stay as they are. Gradients of gradients,
    torch.fx and torch.jit need `use_plain_layers` first.
    """
    for module in model.modules():
        module.__class__ = FASTER.get(type(module), type(module))
    return model


def use_plain_layers(model: nn.Module) -> nn.Module:
    """Undoes `use_fast_layers`. Returns the model."""
    plain = {fast: layer for layer, fast in FASTER.items()}
    for module in model.modules():
        module.__class__ = plain.get(type(module), type(module))
    return model
