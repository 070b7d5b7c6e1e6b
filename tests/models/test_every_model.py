"""Every registered model: forward, backward, its weights in a file. One of each family: compilation, odd sizes."""

from __future__ import annotations

import io

import pytest
import torch
from reference import make_on_meta

import models
from analysis.cost import count_flops
from utils import BadRequest

# One of each family for the slow tests; small `depth` and `widths` save time.
FAMILIES = {
    "vgg11": {},
    "resnet20": {},
    "resnet9": {"widths": (16, 32, 32)},
    "resnext50_32x4d": {},
    "convnext_tiny": {},
    "vit_tiny": {"depth": 2},
    "deit_tiny_distill": {"depth": 2},
    "mobilenet_v2": {},
    "mobilenet_v3_small": {},
    "mobilevit_xxs": {},
}
LIBRARY = ("convnext_tiny", "resnext50_32x4d")  # torchvision's networks
LARGE = ("convnext_base", "convnext_large", "convnext_small", "resnet101", "resnet152", "resnext101_32x8d", "vgg13",
         "vgg16", "vgg19", "vit_l_16")  # fmt: skip
LARGEST = ("convnext_large", "vit_l_16")


def heads(outputs) -> tuple[torch.Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def loss_of(outputs, targets: torch.Tensor) -> torch.Tensor:
    return sum(torch.nn.functional.cross_entropy(logits.float(), targets) for logits in heads(outputs))


def long_if(condition: bool, why: str, *values):
    return pytest.param(*values, marks=pytest.mark.long(why) if condition else ())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "img_size"),
    [
        long_if(name in (LARGE if size == 224 else LARGEST), "a smaller network of the same classes passes", name, size)
        for name in models.list_models()
        for size in (32, 224)
    ],
)
def test_forward_and_backward_are_finite_in_fp32_and_bf16(name, img_size):
    torch.manual_seed(0)
    model = models.create_model(name, 5, img_size, 3).train()
    images = torch.randn(2 if img_size == 32 else 1, 3, img_size, img_size)  # at 32 px some maps are 1x1
    targets = torch.arange(len(images))
    for bf16 in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            outputs = model(images)
            loss = loss_of(outputs, targets)
        assert all(logits.shape == (len(images), 5) and bool(logits.isfinite().all()) for logits in heads(outputs))
        loss.backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, f"{parameter_name} has no effect"
            assert bool(parameter.grad.isfinite().all()), f"{parameter_name}, {'bf16' if bf16 else 'fp32'}"
        assert all(logits.dtype == (torch.bfloat16 if bf16 else torch.float32) for logits in heads(outputs))
    if img_size == 32:
        assert_same_after_a_file(model, name, images)


@torch.no_grad()
def assert_same_after_a_file(model: torch.nn.Module, name: str, images: torch.Tensor) -> None:
    """A state dict in a file suffices to restore the model."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = make_on_meta(name, 5, 32, 3)
    again.load_state_dict(torch.load(file, weights_only=True), assign=True)
    assert torch.equal(again.eval()(images), model.eval()(images))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [long_if(name in LIBRARY, "its layers are torchvision's own", name) for name in FAMILIES]
)
def test_it_compiles_into_one_graph_with_the_same_logits_and_gradients(name):
    torch.manual_seed(0)
    model = models.create_model(name, 5, 32, 3, **FAMILIES[name]).eval()  # no dropout: it draws other numbers
    images, targets = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    results = []
    for forward in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        logits = forward(images)
        loss_of(logits, targets).backward()
        results.append(
            (
                logits.detach(),
                [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None],
            )
        )
    torch._dynamo.reset()
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("img_size", [28, 33, 63, 97])
@pytest.mark.parametrize("name", FAMILIES)
def test_odd_image_sizes_work_or_are_refused_with_sizes_that_work(name, img_size):
    def try_it(size: int) -> None:
        count_flops(make_on_meta(name, 5, size, 3), size, 3, name)

    try:
        try_it(img_size)
    except BadRequest as error:
        sizes = [int(word) for word in str(error).replace(",", " ").replace(".", " ").split() if word.isdigit()]
        others = [size for size in sizes if size not in (img_size, 5)]
        assert others, error
        try_it(others[-1])
