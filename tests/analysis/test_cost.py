"""FLOPs and checks of a model need no memory for a second copy of it."""

import pytest
import torch
from torch import nn

from analysis.cost import count_flops, unfit_for_one_image


def test_a_model_is_counted_without_copying_its_tensors(monkeypatch):
    def copied(self, memo):
        raise AssertionError("a tensor is copied")

    linear = nn.Linear(12, 5)
    model = nn.Sequential(nn.Flatten(), linear, nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 5), linear.__class__(5, 2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", copied)
    monkeypatch.setattr(nn.Parameter, "__deepcopy__", copied)
    assert count_flops(model, 2, 3, "a model") == 2 * (12 * 5 + 5 * 5 + 5 * 2)
    assert "Expected more than 1 value per channel" in (unfit_for_one_image(model, 2, 3) or "")
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_that_reads_values_is_counted_where_it_is(device):
    """Without values it cannot run, so the image is on the model's own device. Here meta is a device like others."""
    seen = []

    class Reads(nn.Linear):
        def forward(self, x):
            seen.append(x.device.type)
            if len(seen) == 1:
                raise RuntimeError("needs values")
            return super().forward(x.flatten(1))

    assert count_flops(Reads(12, 5, device=device), 2, 3, "a model") == 2 * 12 * 5
    assert seen == ["meta", device]
