"""Fast layers against torch's own layers in float64."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import models
from models.fast_layers import use_fast_layers, use_plain_layers
from models.matrix_units import MATRIX_UNITS

DENSE = [  # batch, in, out, side, kernel, stride; for each way of each pass, in fp32 and in bf16
    (3, 256, 256, 4, 3, 1),
    (2, 256, 512, 2, 3, 1),
    (5, 512, 512, 1, 3, 1),
    (2, 512, 512, 7, 3, 1),
    (3, 256, 512, 8, 3, 2),
    (3, 256, 256, 7, 3, 2),
    (2, 256, 256, 5, 3, 1),
    (2, 64, 64, 8, 3, 1),
    (2, 32, 32, 12, 3, 1),
    (2, 16, 24, 12, 1, 1),
    (2, 16, 24, 7, 1, 1),
    (2, 16, 24, 7, 1, 2),
]
DEPTHWISE = [  # batch, channels, side, kernel, stride
    (2, 8, 8, 3, 1),
    (2, 8, 8, 3, 2),
    (2, 8, 7, 3, 2),
    (2, 8, 9, 5, 1),
    (2, 8, 9, 5, 2),
    (2, 8, 9, 7, 1),
]
OTHERS = [
    nn.Conv2d(8, 8, 3, groups=8),
    nn.Conv2d(8, 16, 3, padding=1, groups=8),
    nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
    nn.Conv2d(8, 8, 4, padding=2, groups=8),
    nn.Conv2d(8, 8, 3, padding=1, groups=2),
    nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
    nn.Conv2d(8, 8, 3, padding="same"),
    nn.Conv2d(8, 8, (3, 1), padding=(1, 0)),
    nn.Conv2d(8, 8, 3, stride=(1, 2), padding=1),
]
KINDS = ("fp32", "bf16", "bf16_units")
UPSTREAM = 0.01  # scale of gradients, like those of a mean over a batch


def check(layer: nn.Module, x: torch.Tensor, bf16: bool, layout: torch.memory_format = torch.channels_last) -> None:
    """The result and all gradients of the layer are those of a plain one in float64, up to rounding."""
    layer = copy.deepcopy(layer)
    if bf16:  # the reference sees the same rounded numbers
        x = x.bfloat16().float()
        for parameter in layer.parameters():
            parameter.data = parameter.data.bfloat16().float()
    exact = copy.deepcopy(layer).double()
    reference = x.double().requires_grad_()
    expected = exact(reference)
    upstream = UPSTREAM * torch.randn_like(expected)
    expected.backward(upstream.bfloat16().double() if bf16 else upstream)

    fast = use_fast_layers(nn.Sequential(layer))
    fast = fast.to(memory_format=layout) if x.ndim == 4 else fast
    x = (x.contiguous(memory_format=layout) if x.ndim == 4 else x).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        result = fast(x)
    assert result.dtype == (torch.bfloat16 if bf16 else torch.float32)
    result.backward(upstream.to(result.dtype))
    tolerance = 4e-3 if bf16 else 1e-5  # torch's own error in bf16 is 1.7e-3
    pairs = [(result, expected), (x.grad, reference.grad)]
    pairs += [(ours.grad, theirs.grad) for ours, theirs in zip(layer.parameters(), exact.parameters(), strict=True)]
    for ours, theirs in pairs:
        assert ours is not None and theirs is not None
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm()


@pytest.fixture(params=["on", "off"])
def units(request, monkeypatch):
    """Both kinds of CPU: with matrix units, and without."""
    monkeypatch.setenv(MATRIX_UNITS, request.param)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["last", "first"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("shape", DENSE, ids=str)
def test_a_convolution_in_fp32(shape, bias, layout):
    torch.manual_seed(0)
    n, chans, width, side, kernel, stride = shape
    layer = nn.Conv2d(chans, width, kernel, stride, kernel // 2, bias=bias)
    check(layer, torch.randn(n, chans, side, side), False, layout)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("shape", DENSE, ids=str)
def test_a_convolution_in_bf16(shape, bias, units):
    torch.manual_seed(0)
    n, chans, width, side, kernel, stride = shape
    layer = nn.Conv2d(chans, width, kernel, stride, kernel // 2, bias=bias)
    check(layer, torch.randn(n, chans, side, side), True)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", DEPTHWISE, ids=str)
def test_a_depthwise_convolution(shape, bf16, units):
    torch.manual_seed(0)
    n, chans, side, kernel, stride = shape
    layer = nn.Conv2d(chans, chans, kernel, stride, kernel // 2, groups=chans, bias=stride == 1)
    check(layer, torch.randn(n, chans, side, side), bf16)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("layer", OTHERS, ids=str)
def test_every_other_convolution_stays_right(layer, bf16, units):
    torch.manual_seed(0)
    check(layer, torch.randn(2, 8, 9, 10), bf16)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("leading", [(5,), (3, 7), (2, 3, 4)], ids=str)
def test_a_linear_layer(leading, bias, bf16):
    torch.manual_seed(0)
    check(nn.Linear(24, 40, bias=bias), torch.randn(*leading, 24), bf16)


def test_a_linear_layer_needs_no_onednn(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    check(nn.Linear(24, 40), torch.randn(5, 24), True)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(16, 24, 1, bias=False), (0, 16, 4, 4)),
        (nn.Conv2d(512, 512, 3, padding=1), (0, 512, 4, 4)),
        (nn.Linear(24, 40), (24,)),
        (nn.Linear(24, 40), (0, 24)),
    ],
    ids=["no image for products of pixels", "no image for products of windows", "one row", "no row"],
)
def test_shapes_that_torch_accepts(layer, shape, bf16, units):
    check(layer, torch.randn(shape), bf16)


WAYS = [  # the layer, its input, and which way it takes: in fp32, in bf16 without and with matrix units
    (nn.Conv2d(256, 256, 3, padding=1), (2, 256, 4, 4), "products", "library", "weights by products"),
    (nn.Conv2d(512, 512, 3, padding=1), (2, 512, 7, 7), "products", "library", "products"),
    (nn.Conv2d(512, 512, 3, padding=1), (2, 512, 9, 9), "library", "library", "library"),
    (nn.Conv2d(64, 64, 3, padding=1), (2, 64, 8, 8), "library", "library", "weights by products"),
    (nn.Conv2d(16, 24, 1), (2, 16, 12, 12), "library", "library", "products"),
    (nn.Conv2d(16, 16, 3, padding=1, groups=16), (2, 16, 12, 12), "library", "depthwise", "depthwise"),
    (nn.Conv2d(16, 16, 3, padding="same", groups=16), (2, 16, 12, 12), "library", "library", "library"),
]


@pytest.mark.parametrize(("layer", "shape", *KINDS), WAYS, ids=lambda value: str(value))
def test_the_way_follows_from_shape_precision_and_cpu(layer, shape, fp32, bf16, bf16_units, monkeypatch):
    """As the table in docs/speed.md says; without gradients only what makes the result faster."""
    layer = use_fast_layers(nn.Sequential(copy.deepcopy(layer)))[0].to(memory_format=torch.channels_last)
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)

    def way(in_bf16: bool, units: str) -> str:
        monkeypatch.setenv(MATRIX_UNITS, units)
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            name = type(layer(x).grad_fn).__name__
            if "ByMatrixProducts" in name:
                return "products" if layer(x).grad_fn.for_maps else "weights by products"
        return "depthwise" if "Depthwise" in name else "library"

    assert way(False, "on") == way(False, "off") == fp32
    assert way(True, "off") == bf16
    assert way(True, "on") == bf16_units


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(256, 256, 3, padding=1), (2, 256, 4, 4)),
        (nn.Conv2d(8, 8, 3, 2, padding=1, groups=8), (2, 8, 4, 4)),
        (nn.Linear(8, 8), (2, 8)),
    ],
    ids=["dense", "depthwise", "linear"],
)
def test_what_is_frozen_gets_no_gradient(layer, shape, units):
    layer = use_fast_layers(nn.Sequential(copy.deepcopy(layer)))[0]
    x = torch.randn(shape)
    x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).sum().backward()
        assert layer.weight.grad is not None and x.grad is None
        layer.requires_grad_(False).weight.grad = None
        layer(x.requires_grad_()).sum().backward()
    assert layer.weight.grad is None and x.grad is not None


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    torch.manual_seed(0)
    layer = use_fast_layers(nn.Sequential(nn.Conv2d(512, 512, 3, padding=1))).to(memory_format=torch.channels_last)
    x = torch.randn(6, 512, 4, 4).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        together, alone = layer(x), torch.cat([layer(image) for image in x.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "mobilenet_v3_small", "vit_tiny", "timm/resnet18"])
def test_a_model_keeps_its_answers(name, units):
    """Every model has the fast layers, also those of the libraries; in bf16 they agree with torch's as bf16 allows."""
    torch.manual_seed(0)
    fast = models.create_model(name, num_classes=10, img_size=32).to(memory_format=torch.channels_last).eval()
    plain = use_plain_layers(copy.deepcopy(fast))
    assert {type(module) for module in plain.modules()} != {type(module) for module in fast.modules()}
    x = torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        exact = plain(x)
        torch.testing.assert_close(fast(x), exact, rtol=1e-3, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = fast(x).float(), plain(x).float()
    assert (ours - exact).norm() <= 2 * (theirs - exact).norm() + 1e-3 * exact.norm()


def test_a_small_bf16_batch_trains_like_torchs_layers(units):
    """Gradients of a whole mobile network in bf16: as close to fp32's as torch's own layers come."""

    def gradients(model, bf16):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(x), targets)
        loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    torch.manual_seed(0)
    fast = models.create_model("mobilenet_v2", num_classes=10, img_size=32, width_mult=0.35, dropout=0.0)
    fast = fast.to(memory_format=torch.channels_last)
    plain = use_plain_layers(copy.deepcopy(fast))
    x = torch.randn(32, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    targets = torch.arange(32) % 10
    exact = gradients(plain, False)
    ours, theirs = gradients(fast, True), gradients(plain, True)
    assert (ours - exact).norm() <= 1.2 * (theirs - exact).norm()
