"""Shared by the tests of architectures: sizes, and models whose every weight affects the logits."""

from __future__ import annotations

import torch
from torch import nn

import models

# Image size, the argument `stem`, and the form that the model must have.
STEM_CASES = [
    (32, "auto", "cifar"),
    (64, "auto", "cifar"),
    (65, "auto", "imagenet"),
    (32, "imagenet", "imagenet"),
    (224, "cifar", "cifar"),
]


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def make_on_meta(name: str, *args, **kwargs) -> nn.Module:
    """A registered model on the meta device: quick to build, to count its parameters or load weights into it."""
    with torch.device("meta"):
        return models.create_model(name, *args, **kwargs)


def with_lively_statistics(model: nn.Module, low: float, high: float) -> nn.Module:
    """`model` in eval mode, its batch normalisation no longer the identity.

    Args:
        low, high: range of its weights, such that activations of deep networks neither vanish nor explode.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, low, high)
            nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


def lively(model: nn.Module) -> nn.Module:
    """`model` in eval mode, every parameter moved from its initial value: a swapped or missing one shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()
