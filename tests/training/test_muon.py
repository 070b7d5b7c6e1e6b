"""Muon for filters and Nesterov SGD for all else, against their definitions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from training.muon import FILTERS_LR, FILTERS_MOMENTUM, MuonSGD, orthogonalize
from training.optim import make_optimizer, parameter_groups


@pytest.mark.parametrize("shape", [(16, 72), (72, 16), (24, 24)])
def test_the_orthogonalized_matrix_keeps_the_singular_vectors(shape):
    torch.manual_seed(0)
    u, _, vt = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = u @ torch.linspace(0.5, 3, min(shape)).diag() @ vt
    inside = u.T @ orthogonalize(matrix[None], torch.float32)[0] @ vt.T
    assert (inside - inside.diagonal().diag()).abs().max() < 1e-4
    assert inside.diagonal().min() > 0.6 and inside.diagonal().max() < 1.25


def test_the_length_of_a_gradient_does_not_matter_and_zero_stays_zero():
    torch.manual_seed(0)
    matrix = torch.randn(1, 8, 30)
    expected = orthogonalize(matrix, torch.float32)
    torch.testing.assert_close(orthogonalize(1000 * matrix, torch.float32), expected, rtol=1e-4, atol=1e-5)
    assert not orthogonalize(torch.zeros(1, 8, 30), torch.float32).any()


def network() -> nn.Module:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 5))
    model.head_names = ("3",)
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, rates=(0.1, 0.05)) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images, targets = torch.randn(6, 3, 4, 4, generator=generator), torch.arange(6) % 5
        for group in optimizer.param_groups:
            group["lr"] = rates[step % 2]
        nn.functional.cross_entropy(model(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_all_but_filters_are_trained_as_by_torchs_nesterov_sgd():
    ours = network()
    ours[0].weight.requires_grad_(False)
    torchs = copy.deepcopy(ours)
    for model, name in ((ours, "muon-sgd"), (torchs, "sgd")):
        train(model, make_optimizer(parameter_groups(model, 0.01), name, 0.1, 0.9, nesterov=True), range(5))
    for mine, other in zip(ours.parameters(), torchs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_filters_are_turned_from_one_norm_by_orthogonalized_momentum():
    torch.manual_seed(0)
    filters = nn.Parameter(torch.randn(8, 3, 3, 3).contiguous(memory_format=torch.channels_last))
    optimizer = MuonSGD([{"params": [filters], "weight_decay": 0.5}], lr=0.1, momentum=0.9)
    buffer = torch.zeros(8, 27)
    for _ in range(3):
        gradient = torch.randn(8, 3, 3, 3)
        buffer = FILTERS_MOMENTUM * buffer + gradient.flatten(1)
        direction = orthogonalize((gradient.flatten(1) + FILTERS_MOMENTUM * buffer)[None], torch.float32)
        before = filters.detach().clone()
        expected = before * 8**0.5 / before.norm() - 0.1 * FILTERS_LR * direction.view(8, 3, 3, 3)
        filters.grad = gradient
        optimizer.step()
        torch.testing.assert_close(filters.detach(), expected, rtol=1e-4, atol=1e-5)


def test_filters_of_one_shape_step_as_if_each_were_alone():
    torch.manual_seed(0)
    together = [nn.Parameter(torch.randn(8, 3, 3, 3)) for _ in range(3)] + [nn.Parameter(torch.randn(4, 8, 3, 3))]
    alone = copy.deepcopy(together)
    optimizers = [MuonSGD([{"params": together, "weight_decay": 0.0}], 0.1, 0.9)]
    optimizers += [MuonSGD([{"params": [each], "weight_decay": 0.0}], 0.1, 0.9) for each in alone]
    for _ in range(2):
        for a, b in zip(together, alone, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_stored_optimizer_continues_with_the_same_bits():
    whole, stopped = network(), network()
    train(whole, MuonSGD(parameter_groups(whole, 0.01), 0.1, 0.9), range(4))
    first = MuonSGD(parameter_groups(stopped, 0.01), 0.1, 0.9)
    train(stopped, first, range(2))
    second = MuonSGD(parameter_groups(stopped, 0.01), 0.1, 0.9)
    second.load_state_dict(first.state_dict())
    train(stopped, second, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), stopped.parameters(), strict=True))
