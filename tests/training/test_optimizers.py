"""Every optimiser that timm lists trains and resumes exactly, or is refused with the reason."""

import io
from collections import OrderedDict
from fnmatch import fnmatch

import pytest
import torch
from timm.optim import list_optimizers
from torch import nn

from settings.optimizers import HAS_MOMENTUM, check_optimizer, refusal
from training.optim import make_optimizer, optimizer_step, parameter_groups
from utils import BadRequest

# Learning rates of families that need another than 0.03 on the batch below.
RATES = {"adadelta": 1.0, "*lar[cs]": 1.0, "radam*": 0.1}
OF_TIMM = [str(name) for name in list_optimizers() if name not in HAS_MOMENTUM]


def step_by_step(model: nn.Module, optimizer: torch.optim.Optimizer, rate: float, count: int, noise: int) -> list:
    """The losses of `count` steps on one batch. `noise` is the seed of torch's global generator."""
    generator = torch.Generator().manual_seed(1)
    images, targets = torch.randn(32, 3, 6, 6, generator=generator), torch.arange(32) % 4
    torch.manual_seed(noise)
    losses = []
    for _ in range(count):
        losses.append(nn.functional.cross_entropy(model(images), targets))
        losses[-1].backward()
        optimizer_step(model, optimizer, torch.amp.GradScaler(enabled=False), rate)
    return [loss.item() for loss in losses]


@pytest.mark.filterwarnings("ignore:It is highly recommended to have 'opt_einsum'")
@pytest.mark.parametrize("name", [*HAS_MOMENTUM, *(name for name in OF_TIMM if not refusal(name))])
def test_every_optimiser_learns_and_continues_bit_for_bit_from_a_checkpoint(name):
    """It draws nothing from torch's generator either, which has another seed in each process."""
    rate = next((rate for pattern, rate in RATES.items() if fnmatch(name, pattern)), 0.03)

    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(OrderedDict(
            conv=nn.Conv2d(3, 8, 3, padding=1, bias=False), bn=nn.BatchNorm2d(8), act=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(2), flat=nn.Flatten(), head=nn.Linear(32, 4)))  # fmt: skip
        model.head_names = ("head",)
        return model, make_optimizer(parameter_groups(model, 0.01, head_scale=2.0), name, rate, 0.9, nesterov=False)

    torch.compiler.set_stance("force_eager")  # kron compiles its steps, which takes half a minute
    try:
        model, optimizer = build()
        losses = step_by_step(model, optimizer, rate, 12, noise=2)
        torch.save((model.state_dict(), optimizer.state_dict()), file := io.BytesIO())
        weights, state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        losses += step_by_step(model, optimizer, rate, 8, noise=3)
        resumed, other = build()
        resumed.load_state_dict(weights)
        other.load_state_dict(state)
        assert step_by_step(resumed, other, rate, 8, noise=4) == losses[12:]
    finally:
        torch.compiler.set_stance("default")
    assert losses[-1] < 0.95 * losses[0]
    assert all(map(torch.equal, model.state_dict().values(), resumed.state_dict().values()))


@pytest.mark.parametrize("name", [name for name in OF_TIMM if refusal(name)])
def test_an_optimiser_that_does_not_train_here_is_refused_with_the_reason(name):
    reason = "apex" if name.startswith("fused") else "bitsandbytes" if name.startswith("bnb") else "second-order"
    with pytest.raises(BadRequest, match=f"--optimizer {name}: it needs .*{reason}"):
        check_optimizer(name, {})
