"""Attention in each precision against its definition in float64."""

import math

import pytest
import torch

from models.attention import attention


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("tokens", [1, 65])
def test_attention_and_its_gradients_are_those_of_the_definition(dtype, tolerance, tokens):
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, tokens, 16).to(dtype).requires_grad_() for _ in range(3)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    upstream = torch.randn(2, 3, tokens, 16)
    q, k, v = exact
    expected = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(16), -1) @ v
    expected.backward(upstream.double())
    result = attention(*inputs)
    result.backward(upstream.to(dtype))
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)
    for tensor, reference in zip(inputs, exact, strict=True):
        torch.testing.assert_close(tensor.grad.double(), reference.grad, rtol=tolerance, atol=2 * tolerance)
