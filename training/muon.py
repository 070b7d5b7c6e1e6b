"""Muon for the filters of convolutions, Nesterov SGD for everything else."""

from __future__ import annotations

import torch
from torch.optim.sgd import sgd

# Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (kellerjordan.github.io/posts/muon, 2024).
COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 4
FILTERS_LR = 0.5  # step of filters of norm 1, in units of the learning rate
FILTERS_MOMENTUM = 0.6  # at most, as in the authors' training on CIFAR-10


def orthogonalize(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Brings the singular values of a matrix near 1 (0.7 to 1.2) and keeps its singular vectors.

    It is a Newton-Schulz iteration in `dtype`.
    """
    a, b, c = COEFFICIENTS
    x = matrix.to(dtype)
    wide = x if len(x) <= x.shape[1] else x.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = wide @ wide.T
        wide = a * wide + torch.addmm(square, square, square, beta=b, alpha=c) @ wide
    return (wide if len(x) <= x.shape[1] else wide.T).to(matrix.dtype)


class MuonSGD(torch.optim.Optimizer):
    """Muon for filters (4 dimensions), SGD with Nesterov momentum for all other parameters.

    As in the authors' CIFAR-10 training, a normalisation follows each convolution, so only the direction of its filters
    matters. Each step sets them to a fixed norm and turns them by the orthogonalised momentum of their gradients.
    Filters have no weight decay.

    Args:
        groups: parameter groups. Their "weight_decay" is for all parameters but filters.
    """

    def __init__(self, groups: list[dict], lr: float, momentum: float):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # takes no closure
        for group in self.param_groups:
            used = [(parameter, parameter.grad) for parameter in group["params"] if parameter.grad is not None]
            self._step_others([pair for pair in used if pair[0].ndim != 4], group)
            for parameter, gradient in used:
                if parameter.ndim == 4:
                    self._step_filters(parameter, gradient, group)

    def _momentum(self, parameter: torch.Tensor) -> torch.Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]

    def _step_others(self, pairs: list[tuple[torch.Tensor, torch.Tensor]], group: dict) -> None:
        parameters, gradients = [parameter for parameter, _ in pairs], [gradient for _, gradient in pairs]
        buffers: list[torch.Tensor | None] = [self._momentum(parameter) for parameter in parameters]
        options = {name: group[name] for name in ("weight_decay", "momentum", "lr")}
        sgd(parameters, gradients, buffers, foreach=True, dampening=0, nesterov=True, maximize=False, **options)

    def _step_filters(self, filters: torch.Tensor, gradient: torch.Tensor, group: dict) -> None:
        momentum = min(group["momentum"], FILTERS_MOMENTUM)
        buffer = self._momentum(filters)
        buffer.mul_(momentum).add_(gradient)
        direction = gradient.add(buffer, alpha=momentum).flatten(1)
        dtype = torch.float32 if filters.device.type == "cpu" else torch.bfloat16
        filters.mul_(len(filters) ** 0.5 / filters.norm())
        filters.add_(orthogonalize(direction, dtype).view_as(filters), alpha=-FILTERS_LR * group["lr"])
