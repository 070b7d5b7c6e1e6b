"""The least work of a model for one image: arithmetic, and values that go through memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

import models
from analysis.cost import count_flops
from benchmarks.cases import Case

# How often the values of a layer are read or written at least, each pass counted once: (input, output).
# A product reads its input and writes its output, and in the backward pass makes the gradients of its weights (reads
# both) and of its input. Batch normalisation in training needs the statistics of all images before it can normalise,
# so it reads its input twice and writes once, and in the backward pass reads two tensors twice and writes one. A
# normalisation of each token alone reads once. In evaluation a batch normalisation is part of the product before it.
# Everything else, such as activations and sums, can be computed on the way.
TRAINING = {(nn.Conv2d, nn.Linear): (3, 3), (nn.BatchNorm2d,): (0, 8), (nn.LayerNorm,): (0, 5)}
INFERENCE = {(nn.Conv2d, nn.Linear): (1, 1), (nn.LayerNorm,): (0, 2)}


@dataclass(frozen=True)
class Work:
    """For one image.

    Attributes:
        flops: floating-point operations; a multiply-add counts as two.
        values: numbers read from memory or written to it. Attention's own products and weights do not count.
    """

    flops: float
    values: float

    def seconds(self, flops_per_second: float, bytes_per_second: float, value_bytes: int) -> tuple[float, bool]:
        """The least time, and whether memory sets it."""
        computing, moving = self.flops / flops_per_second, self.values * value_bytes / bytes_per_second
        return max(computing, moving), moving > computing


def work_of(case: Case, num_classes: int, training: bool) -> Work:
    """The work of a training step or of inference, per image. The backward pass has twice the forward's FLOPs."""
    with torch.device("meta"):
        model = models.create_model(case.model, num_classes, case.img_size, 3, **case.args).eval()
    flops = count_flops(model, case.img_size, 3, case.model)
    passes, values = TRAINING if training else INFERENCE, 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal values
        for kinds, (of_input, of_output) in passes.items():
            if isinstance(module, kinds):
                values += of_input * inputs[0].numel() + of_output * output.numel()

    for module in model.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.empty(1, 3, case.img_size, case.img_size, device="meta"))
    return Work((3 if training else 1) * flops, values)
