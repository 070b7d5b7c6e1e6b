"""What the tests of architectures share: sizes, and reference models that cannot be exchanged unseen."""

from __future__ import annotations

import torch
from torch import nn

import models

# Image size, stem= as it is given, and the form that the model must then have.
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
    """A registered model without memory for its weights: quick to build, fit to be counted or loaded into."""
    with torch.device("meta"):
        return models.create_model(name, *args, **kwargs)


def with_lively_statistics(model: nn.Module, low: float, high: float) -> nn.Module:
    """Batch normalisation that is no identity, its weights between `low` and `high` (so that deep networks neither
    fade nor explode), in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, low, high)
            nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


def lively(model: nn.Module) -> nn.Module:
    """In eval mode, with every parameter away from its initial value: none can be exchanged or left out unseen."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()
