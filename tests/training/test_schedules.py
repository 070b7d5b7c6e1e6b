"""Learning rates against torch's schedulers, averaged weights against timm's and torch's."""

import math

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

from training.averaging import ModelAverage
from training.schedules import continues_exactly, ema_decay, last_epochs_decay, learning_rate


def of_torch(make_scheduler, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def ours(steps: int, **settings) -> list[float]:
    return [learning_rate(step, steps_per_epoch=5, lr=0.5, **settings) for step in range(steps)]


@pytest.mark.parametrize("epochs", [1, 3, 12])
def test_cosine_is_torchs_over_the_whole_training(epochs):
    expected = of_torch(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=5 * epochs, eta_min=0.01), 5 * epochs)
    assert ours(5 * epochs, epochs=epochs, schedule="cosine", min_lr=0.01) == pytest.approx(expected)


@pytest.mark.parametrize("epochs", [1, 3, 12])
def test_linear_is_torchs_over_the_whole_training(epochs):
    expected = of_torch(lambda o: lr_scheduler.LinearLR(o, 1.0, 0.02, total_iters=5 * epochs), 5 * epochs)
    assert ours(5 * epochs, epochs=epochs, schedule="linear", min_lr=0.01) == pytest.approx(expected)


def test_step_is_torchs():
    expected = of_torch(lambda o: lr_scheduler.StepLR(o, step_size=15, gamma=0.3), 60)
    assert ours(60, epochs=12, schedule="step", step_size=3, gamma=0.3) == pytest.approx(expected)


def test_multistep_is_torchs():
    expected = of_torch(lambda o: lr_scheduler.MultiStepLR(o, milestones=[10, 40], gamma=0.2), 60)
    assert ours(60, epochs=12, schedule="multistep", milestones=[2, 8], gamma=0.2) == pytest.approx(expected)


def test_constant_stays_and_the_floor_holds():
    assert set(ours(60, epochs=12, schedule="constant")) == {0.5}
    assert min(ours(60, epochs=12, schedule="step", step_size=1, gamma=0.1, min_lr=0.002)) == 0.002


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_warmup_grows_linearly_from_above_zero_and_joins_the_schedule_without_a_jump(schedule):
    rates = ours(60, epochs=12, schedule=schedule, warmup_epochs=2)
    assert rates[:10] == pytest.approx([0.05 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_warmup_of_a_fraction_of_an_epoch():
    assert ours(4, epochs=2, schedule="constant", warmup_epochs=0.4) == pytest.approx([0.25, 0.5, 0.5, 0.5])


def test_cosine_ends_near_its_floor():
    assert ours(60, epochs=12, schedule="cosine")[-1] == pytest.approx(0.25 * (1 + math.cos(math.pi * 59 / 60)))


def test_wsd_is_torchs_constant_and_linear_rates_in_sequence():
    def make(optimizer):
        parts = [lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 9), lr_scheduler.ConstantLR(optimizer, 1.0, 1),
                 lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 15)]  # fmt: skip
        return lr_scheduler.SequentialLR(optimizer, parts, milestones=[10, 45])

    settings = {"schedule": "wsd", "warmup_epochs": 2, "decay_epochs": 3, "min_lr": 0.01}
    assert ours(60, epochs=12, **settings) == pytest.approx(of_torch(make, 60))


SCHEDULES = {
    "cosine": {},
    "linear": {},
    "constant": {"warmup_epochs": 2},
    "step": {"step_size": 2},
    "multistep": {"milestones": [1, 5]},
    "wsd": {"decay_epochs": 1.5},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_that_starts_anew_is_that_of_a_shorter_training(schedule):
    settings = {"schedule": schedule, **SCHEDULES[schedule]}
    assert ours(60, epochs=12, start=4, **settings)[20:] == ours(40, epochs=8, **settings)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_may_have_more_epochs_as_long_as_its_rates_are_those_of_every_longer_run(schedule):
    settings = {"schedule": schedule, **SCHEDULES[schedule]}
    short, long = ours(30, epochs=6, **settings), ours(100, epochs=20, **settings)
    for step in range(1, 31):
        exact = continues_exactly(schedule, step, 5, 6, settings.get("decay_epochs"))
        assert not exact or short[:step] == long[:step]
    assert continues_exactly(schedule, 22, 5, 6, 1.5) == (schedule not in ("cosine", "linear"))
    assert continues_exactly(schedule, 23, 5, 6, 1.5) == (schedule not in ("cosine", "linear", "wsd"))


def trained(update) -> nn.Module:
    """Calls `update` with a small network and the number of each of 30 steps, in which its weights change."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    for step in range(30):
        model(torch.randn(4, 3))
        with torch.no_grad():
            model[0].weight.add_(torch.randn(2, 3))
        update(model, step)
    return model


def assert_same(average: ModelAverage, reference: nn.Module) -> None:
    for ours, theirs in zip(average.model.state_dict().values(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("warmup", ["ratio", "power", "none"])
def test_the_moving_average_is_timms_and_copies_counters(warmup):
    pair: list = []

    def update(model: nn.Module, step: int) -> None:
        if not pair:
            pair.extend([ModelAverage(model), ModelEmaV3(model, decay=0.9, use_warmup=warmup == "power")])
        decay = ema_decay(step, 0.9, warmup)
        pair[0].update(model, decay)
        if warmup == "ratio":
            pair[1].decay = min(0.9, (1 + step) / (10 + step))
        pair[1].update(model, step + 1)  # timm counts the steps that are done, and copies the weights at 0

    trained(update)
    assert_same(pair[0], pair[1].module)
    assert not any(parameter.requires_grad for parameter in pair[0].model.parameters())


def test_the_mean_of_the_last_epochs_is_torchs():
    pair: list = []

    def update(model: nn.Module, step: int) -> None:
        if not pair:
            pair.extend([ModelAverage(model), AveragedModel(model, use_buffers=True)])
        pair[0].update(model, last_epochs_decay(step, steps_per_epoch=5, epochs=6, last=3))
        if step in (19, 24, 29):
            pair[1].update_parameters(model)
        if step == 14:
            assert_same(pair[0], model)  # before the last epochs it is the epoch that ended

    trained(update)
    # torch keeps the counter of batches of the first epoch; here it is that of the last, as for moving averages.
    pair[1].module[1].num_batches_tracked.copy_(pair[0].model[1].num_batches_tracked)
    assert_same(pair[0], pair[1].module)
