"""A model whose blocks run forward a second time trains as before, bit for bit, and keeps less for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import models
from models.checkpointing import checkpoint_blocks
from utils import BadRequest

CASES = {
    "vit_tiny": {"depth": 3, "embed_dim": 48, "dropout": 0.1, "drop_path": 0.3, "layer_scale": 0.1},
    "deit_tiny_distill": {"depth": 2, "embed_dim": 48, "dropout": 0.1},
    "resnet20": {},
    "resnet50": {"depths": (2, 1), "widths": (16, 32)},
    "mobilevit_xxs": {"dropout": 0.1, "depths": (1, 1, 1)},
    "timm/test_vit": {"img_size": 32, "proj_drop_rate": 0.1, "drop_path_rate": 0.3},
}


def build(name: str, checkpointed: bool) -> nn.Module:
    args: dict[str, Any] = {"img_size": 32, **CASES[name]}
    torch.manual_seed(0)
    model = models.create_model(name, 4, args.pop("img_size"), 3, **args)
    if checkpointed:
        checkpoint_blocks(model, name)
    return model.to(memory_format=torch.channels_last).train()


def loss_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    outputs = model(images)
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    return torch.stack([nn.functional.cross_entropy(logits.float(), torch.arange(4)) for logits in heads]).sum()


def trained(name: str, checkpointed: bool, bf16: bool) -> dict[str, torch.Tensor]:
    """What three steps and an evaluation by a copy of the model leave behind."""
    model = build(name, checkpointed)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    found = {}
    for step in range(3):
        images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of(model, images)
        loss.backward()
        optimizer.step()
        averaged = copy.deepcopy(model).requires_grad_(False).eval()
        found |= {f"loss {step}": loss.detach(), f"logits {step}": averaged(images)}
    found |= {f"gradient of {key}": parameter.grad for key, parameter in model.named_parameters()}
    return {**found, **model.state_dict(), "random numbers": torch.rand(2)}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_training_is_the_same_bit_for_bit(name, bf16):
    expected, found = (trained(name, checkpointed, bf16) for checkpointed in (False, True))
    assert list(found) == list(expected)
    assert not [key for key, value in expected.items() if not torch.equal(value, found[key])]


def bytes_kept(model: nn.Module) -> int:
    """Bytes of the tensors that the graph of one step keeps, without parameters."""
    storages = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(model, torch.randn(4, 3, 32, 32))
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("name", CASES)
def test_less_is_kept_for_the_backward_pass(name):
    assert bytes_kept(build(name, True)) < 0.5 * bytes_kept(build(name, False))


def test_nothing_runs_twice_in_evaluation_or_where_nothing_learns():
    model = build("vit_tiny", True)
    calls = []
    for block in model.blocks:
        block.attn.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    images = torch.zeros(4, 3, 32, 32)
    with torch.no_grad():
        model(images)
    loss_of(model.eval(), images).backward()
    assert calls == [False] * 3 + [True] * 3
    loss_of(model.train(), images).backward()
    assert calls[6:] == [True] * 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg11", "vgg11 does not say which blocks to compute again; the suite's vit, deit, resnet and mobilevit do"),
        ("torchvision/resnet18", "torchvision/resnet18 does not say which blocks"),
        ("timm/test_resnet", "timm updates the batch normalisation of timm/test_resnet twice in a step"),
    ],
)
def test_other_models_are_refused_with_those_that_work(name, message):
    model = models.create_model(name, 4, 32, 3)
    with pytest.raises(BadRequest, match=f"--grad-checkpointing: {message}") as caught:
        checkpoint_blocks(model, name)
    assert "\n" not in str(caught.value)
