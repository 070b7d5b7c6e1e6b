"""A model with averaged weights, kept beside the one that is trained."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Pairs = tuple[list[torch.Tensor], list[torch.Tensor]]


class ModelAverage:
    """A running average of a model's weights and buffers. `training.schedules` has its decays."""

    def __init__(self, model: nn.Module):
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.pairs: tuple[nn.Module, Pairs, Pairs] | None = None

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        """Moves the average towards the weights of `model`.

        Args:
            decay: what the average keeps of itself; with 1 nothing changes.
        """
        if decay == 1:
            return
        (averages, values), (counters, counts) = self._pairs_with(model)
        get_ema_multi_avg_fn(decay)(averages, values, None)
        if counters:
            torch._foreach_copy_(counters, counts)

    def _pairs_with(self, model: nn.Module) -> tuple[Pairs, Pairs]:
        """(averages, values) of floating-point tensors, and those of others: the counters of batch norm.

        Collected once: a state_dict at every step takes longer than the update. Both models keep their tensors.
        """
        if self.pairs is None or self.pairs[0] is not model:
            pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
            floats = [pair for pair in pairs if pair[0].is_floating_point()]
            others = [pair for pair in pairs if not pair[0].is_floating_point()]
            floats, others = (([mine for mine, _ in part], [theirs for _, theirs in part]) for part in (floats, others))
            self.pairs = model, floats, others
        return self.pairs[1:]
