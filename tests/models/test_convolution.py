"""The fast path for small maps against torch's own convolution in float64."""

import pytest
import torch
import torch.nn.functional as F

from models.convolution import Conv3x3

SHAPES = [  # batch, in, out, side, stride; some small enough for the fast path
    (3, 256, 256, 4, 1),
    (2, 256, 512, 2, 1),
    (5, 512, 512, 1, 1),
    (2, 512, 512, 7, 1),
    (3, 256, 512, 8, 2),
    (3, 256, 256, 7, 2),
    (2, 256, 256, 5, 1),
    (2, 64, 64, 4, 1),
]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_result_and_gradients_are_those_of_a_convolution(shape, bias, layout):
    torch.manual_seed(0)
    n, chans, width, side, stride = shape
    layer = Conv3x3(chans, width, stride, bias=bias).to(memory_format=layout)
    x = torch.randn(n, chans, side, side).contiguous(memory_format=layout).requires_grad_()
    upstream = torch.randn(n, width, -(-side // stride), -(-side // stride))
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, *layer.parameters())]
    expected = F.conv2d(*exact, padding=1, stride=stride)
    expected.backward(upstream.double())
    result = layer(x)
    result.backward(upstream)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)
    for tensor, reference in zip((x, *layer.parameters()), exact, strict=True):
        torch.testing.assert_close(tensor.grad.double(), reference.grad, rtol=1e-4, atol=1e-3)


def test_what_is_frozen_gets_no_gradient():
    layer = Conv3x3(256, 256).to(memory_format=torch.channels_last)
    x = torch.randn(2, 256, 4, 4).contiguous(memory_format=torch.channels_last)
    layer(x).sum().backward()
    assert layer.weight.grad is not None and x.grad is None
    layer.weight.requires_grad_(False).grad = None
    layer(x.requires_grad_()).sum().backward()
    assert layer.weight.grad is None and x.grad is not None


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    torch.manual_seed(0)
    layer = Conv3x3(512, 512).to(memory_format=torch.channels_last)
    x = torch.randn(6, 512, 4, 4).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        together, alone = layer(x), torch.cat([layer(image) for image in x.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_bf16_is_a_convolution_as_ever():
    x = torch.randn(2, 256, 4, 4).contiguous(memory_format=torch.channels_last)
    layer = Conv3x3(256, 256)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
