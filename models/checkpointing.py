"""Activation checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174).

A model keeps only the inputs of its blocks for the backward pass, which runs each block forward a second time. A class
names its blocks by a method `checkpointed_blocks() -> list of modules`, each a function of one tensor.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from utils import BadRequest


def checkpoint_blocks(model: Any, name: str) -> None:
    """Makes the blocks of the model compute their activations again instead of keeping them.

    Losses, gradients, dropout and the statistics of batch normalisation stay the same, bit for bit.

    Raises BadRequest, with `name`, for a model that does not tell its blocks.
    """
    if hasattr(model, "checkpointed_blocks"):
        for block in model.checkpointed_blocks():
            block.__class__ = _checkpointed(type(block))
    elif hasattr(model, "set_grad_checkpointing"):
        _switch_on(model, name)
    else:
        raise BadRequest(
            f"--grad-checkpointing: {name} does not say which blocks to compute again; the suite's vit, deit, resnet"
            " and mobilevit do, and timm/ models without running statistics"
        )


def _switch_on(model: Any, name: str) -> None:
    """timm's own checkpointing, which updates statistics a second time. Raises BadRequest for a model with any."""
    if any("running_" in buffer for buffer, _ in model.named_buffers()):
        raise BadRequest(
            f"--grad-checkpointing: timm updates the batch normalisation of {name} twice in a step; the suite's own"
            " resnet and mobilevit are updated once"
        )
    try:
        model.set_grad_checkpointing(True)
    except AssertionError as error:
        raise BadRequest(f"--grad-checkpointing: {name} does not take it: {error}") from None


class _Checkpointed(nn.Module):
    """Comes before the class of a block: (N, ...) -> what the block gives.

    A class instead of a wrapper: names of parameters stay, and so do copies of the model.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        if torch.compiler.is_compiling():  # it takes no contexts, and updates buffers once anyway
            return checkpoint(super().forward, x, use_reentrant=False)
        return checkpoint(super().forward, x, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
        return contextlib.nullcontext(), _buffers_kept(self)


@functools.cache
def _checkpointed(block: type[nn.Module]) -> type[nn.Module]:
    return type(f"Checkpointed{block.__name__}", (_Checkpointed, block), {})


@contextlib.contextmanager
def _buffers_kept(block: nn.Module) -> Iterator[None]:
    """Lets the block update copies of its buffers: the first forward pass has updated the running statistics."""
    kept = [(module._buffers, dict(module._buffers)) for module in block.modules()]
    for buffers, own in kept:
        buffers.update({name: buffer.clone() for name, buffer in own.items() if buffer is not None})
    try:
        yield
    finally:
        for buffers, own in kept:
            buffers.update(own)
