"""A 3x3 convolution that is faster than the libraries' on a CPU for small maps with many channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable


class Conv3x3(nn.Conv2d):
    """nn.Conv2d with a 3x3 kernel and padding 1: (N, in_chans, H, W) -> (N, out_chans, H/stride, W/stride).

    At the end of a CIFAR network, with 256 or more channels and a map of 4x4 or less, the libraries' convolutions reach
    a quarter to a half of a CPU's peak rate. There this layer computes the convolution and its two gradients as matrix
    products of unfolded windows (im2col; Chellapilla et al., "High Performance Convolutional Neural Networks for
    Document Processing", 2006). They take 0.3 to 0.8 of the time; the result is equal up to rounding (docs/speed.md).
    """

    def __init__(self, in_chans: int, out_chans: int, stride: int = 1, bias: bool = False):
        super().__init__(in_chans, out_chans, 3, stride, padding=1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self._is_small(x):
            return super().forward(x)
        result = _ByMatrixProducts.apply(x, self.weight, self.stride[0])
        return result if self.bias is None else result + self.bias[:, None, None]

    def _is_small(self, x: torch.Tensor) -> bool:
        """Whether matrix products are faster, as measured in docs/speed.md."""
        positions = _outputs(x.shape[-2], self.stride[0]) * _outputs(x.shape[-1], self.stride[0])
        chans = min(self.in_channels, self.out_channels)
        return (
            x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and ((chans >= 256 and positions <= 16) or (chans >= 512 and positions <= 49))
            and x.is_contiguous(memory_format=torch.channels_last)
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )


class _ByMatrixProducts(torch.autograd.Function):
    """Unfolds the windows again in the backward pass: they take nine times the memory of the images."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        n, _, h, w = x.shape
        rows = _windows(x, stride) @ _matrix(weight).t()
        return rows.view(n, _outputs(h, stride), _outputs(w, stride), -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        x, weight = ctx.saved_tensors
        rows = grad.permute(0, 2, 3, 1).flatten(0, 2)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _sum_of_windows(rows @ _matrix(weight), x, ctx.stride)
        if ctx.needs_input_grad[1]:
            grad_weight = rows.t() @ _windows(x, ctx.stride)
            grad_weight = grad_weight.view(weight.shape[0], 3, 3, -1).permute(0, 3, 1, 2)
        return grad_x, grad_weight, None


def _outputs(side: int, stride: int) -> int:
    """Number of positions of a 3-wide window with padding 1."""
    return (side - 1) // stride + 1


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    """(out_chans, in_chans, 3, 3) -> (out_chans, 9*in_chans); without a copy in channels-last memory."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _windows(x: torch.Tensor, stride: int) -> torch.Tensor:
    """(N, C, H, W) -> (N*H'*W', 9*C): the window of the kernel at each position, with zeros around the image."""
    n, c, h, w = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
    step, row, pixel, _ = padded.stride()
    shape = (n, _outputs(h, stride), _outputs(w, stride), 3, 3 * c)
    return padded.as_strided(shape, (step, stride * row, stride * pixel, row, 1)).reshape(-1, 9 * c)


def _sum_of_windows(rows: torch.Tensor, like: torch.Tensor, stride: int) -> torch.Tensor:
    """The adjoint of `_windows`: (N*H'*W', 9*C) -> the shape of `like` (N, C, H, W), in channels-last memory."""
    n, c, h, w = like.shape
    down, right = _outputs(h, stride), _outputs(w, stride)
    parts = rows.view(n, down, right, 3, 3, c)
    padded = rows.new_zeros(n, h + 2, w + 2, c)
    for i in range(3):
        for j in range(3):
            padded[:, i : i + stride * down : stride, j : j + stride * right : stride] += parts[:, :, :, i, j]
    return padded[:, 1:-1, 1:-1].contiguous().permute(0, 3, 1, 2)
