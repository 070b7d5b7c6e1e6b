"""Muon for the filters of convolutions, Nesterov SGD for everything else."""

from __future__ import annotations

import torch
from torch.optim.sgd import sgd

# Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (kellerjordan.github.io/posts/muon, 2024).
COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 4
FILTERS_LR = 0.5  # step of filters of norm 1, in units of the learning rate
FILTERS_MOMENTUM = 0.6  # at most, as in the authors' training on CIFAR-10


def orthogonalize(matrices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Brings the singular values of matrices (n, rows, columns) near 1 (0.7 to 1.2) and keeps their singular vectors.

    It is a Newton-Schulz iteration in `dtype`.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(dtype)
    transposed = x.shape[1] > x.shape[2]
    wide = x.mT if transposed else x
    wide = wide / (torch.linalg.vector_norm(wide, dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = torch.bmm(wide, wide.mT)
        wide = a * wide + torch.bmm(torch.baddbmm(square, square, square, beta=b, alpha=c), wide)
    return (wide.mT if transposed else wide).to(matrices.dtype)


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
            by_shape: dict[tuple[int, int], list[tuple[torch.Tensor, torch.Tensor]]] = {}
            for parameter, gradient in used:
                if parameter.ndim == 4:
                    by_shape.setdefault((len(parameter), parameter[0].numel()), []).append((parameter, gradient))
            for pairs in by_shape.values():
                self._step_filters([filters for filters, _ in pairs], [gradient for _, gradient in pairs], group)

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

    def _step_filters(self, filters: list[torch.Tensor], gradients: list[torch.Tensor], group: dict) -> None:
        """Steps filters whose matrices have one shape: their products run as one batch, which keeps a GPU busy."""
        momentum = min(group["momentum"], FILTERS_MOMENTUM)
        buffers = [self._momentum(each) for each in filters]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        directions = torch._foreach_add(gradients, buffers, alpha=momentum)
        dtype = torch.float32 if filters[0].device.type == "cpu" else torch.bfloat16
        turned = orthogonalize(torch.stack([direction.flatten(1) for direction in directions]), dtype)
        scales = len(filters[0]) ** 0.5 / torch.stack(torch._foreach_norm(filters))
        torch._foreach_mul_(filters, list(scales.unbind()))
        turned = [each.view_as(one) for each, one in zip(turned.unbind(), filters, strict=True)]
        torch._foreach_add_(filters, turned, alpha=-FILTERS_LR * group["lr"])
