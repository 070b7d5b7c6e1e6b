"""Convolutions in the way that is fastest on a CPU for their shape and precision, as measured in docs/speed.md."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from models.matrix_units import has_matrix_units


def is_depthwise(module: nn.Module) -> bool:
    """Whether the module is a convolution that filters each channel alone."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels


class FastConv2d(nn.Conv2d):
    """nn.Conv2d: (N, in_channels, H, W) -> (N, out_channels, H', W'). The result is the same up to rounding.

    On a CPU, in channels-last memory, three kinds of layers take another way than the library's:

    - Small maps with many channels: matrix products of unfolded windows (im2col; Chellapilla et al., "High Performance
      Convolutional Neural Networks for Document Processing", 2006).
    - 1x1 convolutions in bf16 on matrix units: one matrix product without unfolding.
    - Depthwise convolutions in bf16: the gradient of the input is a convolution too, where the library's own way is
      slow, and for a stride above 1 a hundred times slower.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self._fast_dtype(x)
        if dtype is None:
            return super().forward(x)
        depthwise = is_depthwise(self)
        for_maps, for_weights = (False, True) if depthwise else self._products(x, dtype)
        needs_gradients = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if not for_maps and not (for_weights and needs_gradients):
            return super().forward(x)
        x, weight = x.to(dtype), self.weight.to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        if depthwise:
            return _Depthwise.apply(x, weight, bias, self.stride[0])
        return _ByMatrixProducts.apply(x, weight, bias, self.stride[0], for_maps, for_weights)

    def can_be_fast(self) -> bool:
        """Whether there is another way than the library's for this kind of convolution."""
        size, stride = self.kernel_size[0], self.stride[0]
        dense = self.groups == 1 and size in (1, 3)
        depthwise = is_depthwise(self) and self.out_channels == self.groups and size % 2 == 1
        return (
            (dense or depthwise)
            and self.kernel_size == (size, size)
            and self.stride == (stride, stride)
            and self.padding == (size // 2, size // 2)
            and self.dilation == (1, 1)
            and self.padding_mode == "zeros"
        )

    def _fast_dtype(self, x: torch.Tensor) -> torch.dtype | None:
        """The precision of the layer if there may be a faster way than the library's, else None."""
        if not (
            self.can_be_fast()
            and x.device.type == self.weight.device.type == "cpu"
            and x.is_contiguous(memory_format=torch.channels_last)
            and not torch.compiler.is_compiling()
        ):
            return None
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
        else:
            dtype = x.dtype if x.dtype == self.weight.dtype else None
        if dtype == torch.bfloat16:
            return dtype if is_depthwise(self) or has_matrix_units() else None
        return dtype if dtype == torch.float32 and self.groups == 1 and self.kernel_size == (3, 3) else None

    def _products(self, x: torch.Tensor, dtype: torch.dtype) -> tuple[bool, bool]:
        """Whether matrix products are faster: (for the result and the gradient of the input, for that of the weights).

        The bounds follow from the measurements in docs/speed.md.
        """
        positions = _outputs(x.shape[-2], self.stride[0]) * _outputs(x.shape[-1], self.stride[0])
        if dtype == torch.float32:
            chans = min(self.in_channels, self.out_channels)
            small = (chans >= 256 and positions <= 16) or (chans >= 512 and positions <= 49)
            return small, small
        if self.kernel_size == (1, 1):
            return True, positions <= 64 or self.stride != (1, 1)
        return self.in_channels * self.out_channels >= 2**17 and positions <= 49, positions <= 64


def _library_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int, groups: int, mask: tuple[bool, bool]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The library's gradients of (input, weights); those that `mask` leaves out are None."""
    stride_, padding = [stride, stride], [weight.shape[-1] // 2] * 2
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride_, padding, [1, 1], False, [0, 0], groups, [*mask, False]
    )[:2]


Gradients = tuple[torch.Tensor | None, ...]


class _ByMatrixProducts(torch.autograd.Function):
    """A 1x1 or 3x3 convolution with some of its passes as matrix products; see `FastConv2d._products`.

    The windows are unfolded again in the backward pass: for 3x3 they take nine times the memory of the images.
    """

    @staticmethod
    def forward(
        ctx,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: int,
        for_maps: bool,
        for_weights: bool,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.for_maps, ctx.for_weights = stride, for_maps, for_weights
        n, _, h, w = x.shape
        if not for_maps:
            return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)
        windows, matrix = _windows(x, weight.shape[-1], stride), _matrix(weight).t()
        rows = windows @ matrix if bias is None else torch.addmm(bias, windows, matrix)
        return rows.view(n, _outputs(h, stride), _outputs(w, stride), len(weight)).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> Gradients:
        x, weight = ctx.saved_tensors
        size = weight.shape[-1]
        rows = grad.permute(0, 2, 3, 1).flatten(0, 2)
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        by_library = for_x and not ctx.for_maps, for_weight and not ctx.for_weights
        grad_x = grad_weight = None
        if any(by_library):
            grad_x, grad_weight = _library_backward(grad, x, weight, ctx.stride, 1, by_library)
        if for_x and ctx.for_maps:
            grad_x = _sum_of_windows(rows @ _matrix(weight), x, size, ctx.stride)
        if for_weight and ctx.for_weights:
            grad_weight = rows.t() @ _windows(x, size, ctx.stride)
            grad_weight = grad_weight.view(len(weight), size, size, x.shape[1]).permute(0, 3, 1, 2)
        return grad_x, grad_weight, rows.sum(0) if for_bias else None, None, None, None


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution in bf16, with an odd kernel and half of it as padding."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> Gradients:
        x, weight = ctx.saved_tensors
        size, chans = weight.shape[-1], len(weight)
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        grad_x = grad_weight = None
        grad_bias = grad.sum((0, 2, 3)) if for_bias else None
        if for_x:
            spread = grad
            if ctx.stride > 1:  # zeros between the positions that the stride visits
                spread = torch.zeros_like(x)
                spread[:, :, :: ctx.stride, :: ctx.stride] = grad
            grad_x = F.conv2d(spread, weight.flip(2, 3), None, 1, size // 2, groups=chans)
        if for_weight:
            if size > 3:  # in bf16 the library takes five times as long
                x, weight, grad = x.float(), weight.float(), grad.float()
            _, grad_weight = _library_backward(grad, x, weight, ctx.stride, chans, (False, True))
            grad_weight = grad_weight.bfloat16()
        return grad_x, grad_weight, grad_bias, None


def _outputs(side: int, stride: int) -> int:
    """Number of positions of an odd window with half its side as padding."""
    return (side - 1) // stride + 1


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    """(out, in, size, size) -> (out, size*size*in); without a copy in channels-last memory."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _windows(x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """(N, C, H, W) -> (N*H'*W', size*size*C): the window at each position, with zeros around the image."""
    n, c, h, w = x.shape
    if size == 1:
        return x[:, :, ::stride, ::stride].permute(0, 2, 3, 1).reshape(-1, c)
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
    step, row, pixel, _ = padded.stride()
    shape = (n, _outputs(h, stride), _outputs(w, stride), 3, 3 * c)
    return padded.as_strided(shape, (step, stride * row, stride * pixel, row, 1)).reshape(-1, 9 * c)


def _sum_of_windows(rows: torch.Tensor, like: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """The adjoint of `_windows`: (N*H'*W', size*size*C) -> the shape of `like` (N, C, H, W), channels-last."""
    n, c, h, w = like.shape
    down, right = _outputs(h, stride), _outputs(w, stride)
    if size == 1 and stride == 1:
        return rows.view(n, h, w, c).permute(0, 3, 1, 2)
    if size == 1:
        spread = rows.new_zeros(n, h, w, c)
        spread[:, ::stride, ::stride] = rows.view(n, down, right, c)
        return spread.permute(0, 3, 1, 2)
    parts = rows.view(n, down, right, 3, 3, c)
    padded = rows.new_zeros(n, h + 2, w + 2, c, dtype=torch.float32)  # sums of nine; in bf16 each would be rounded
    for i in range(3):
        for j in range(3):
            padded[:, i : i + stride * down : stride, j : j + stride * right : stride] += parts[:, :, :, i, j]
    return padded[:, 1:-1, 1:-1].to(rows.dtype, memory_format=torch.contiguous_format).permute(0, 3, 1, 2)
