"""Steps of the loop against plain arithmetic."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from data_transform import Augment, Mix
from image_datasets.batch_plan import epoch_order
from image_datasets.batches import EvalBatches, ResidentTrainBatches
from image_datasets.splits import Split
from training.config import TrainConfig
from training.evaluation import evaluate, select_best
from training.loop import micro_batches, train_epoch
from training.losses import make_criterion
from training.metrics import Totals
from training.optim import make_clip
from training.progress import Progress
from training.state import RunState
from utils import RunFailed

CPU = torch.device("cpu")
K, SIDE = 6, 4


def make_split(count: int) -> Split:
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, K, count), rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8))


def make_batches(count: int, batch_size: int) -> ResidentTrainBatches:
    return ResidentTrainBatches(make_split(count), Augment(), SIDE, (0.5,) * 3, (0.25,) * 3, CPU, batch_size, seed=0)


def make_state(momentum: float = 0.0) -> RunState:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 8), nn.Tanh(), nn.Linear(8, K))
    return state_of(model, momentum)


def state_of(model: nn.Module, momentum: float = 0.0, scale: float = 1.0) -> RunState:
    groups = [{"params": list(model.parameters()), "lr_scale": scale}]
    return RunState(model, torch.optim.SGD(groups, lr=0.1, momentum=momentum), Totals(K, CPU))


def make_config(**changes) -> TrainConfig:
    return dataclasses.replace(
        TrainConfig(make_criterion("CE", K), Mix("none", K, 1, 1, 1), lambda step: 0.1, 0), **changes
    )


def run_epoch(state: RunState, batches: ResidentTrainBatches, config: TrainConfig) -> dict:
    progress = Progress()
    progress.start_epoch(0, 1, len(batches.split), 0)
    train_epoch(state, state.model, batches, config, progress)
    means = state.totals.means()
    state.totals.reset()
    return means


@pytest.mark.parametrize("count", [24, 23, 13])
def test_accumulated_batches_are_one_large_batch(count):
    large, small = make_state(), make_state()
    a = run_epoch(large, make_batches(count, 12), make_config())
    b = run_epoch(small, make_batches(count, 4), make_config(accumulate=3))
    assert large.step == small.step
    for p, q in zip(large.model.parameters(), small.model.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def without(count: int, batch_size: int, bad: list[int]) -> ResidentTrainBatches:
    """Batches of a split with images that could not be read."""
    batches = make_batches(count, batch_size)
    reasons = np.full(count, None)
    reasons[bad] = "broken"
    split = dataclasses.replace(batches.split, paths=[str(i) for i in range(count)], reasons=reasons)
    return dataclasses.replace(batches, split=split, report=lambda path, reason: None)


@pytest.mark.parametrize("clip_grad", [None, 0.01])
def test_images_that_cannot_be_read_have_no_share_in_a_step(clip_grad):
    """One of the step's three batches lacks an image, one has none. The gradient is the mean over all that are left."""
    order = epoch_order(12, seed=0, epoch=0)
    bad = order[[2, 4, 5, 6, 7]]
    batches = without(12, 4, bad.tolist())
    state, reference = make_state(), make_state()
    config = make_config(accumulate=3, clip_grad=make_clip(clip_grad, "norm"), smallest_batch=1)
    means = run_epoch(state, batches, config)
    assert state.step == 1 and state.batch == 3

    left = order[~torch.isin(order, bad)].numpy()
    images = (torch.from_numpy(batches.split.images[left]).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    loss = nn.functional.cross_entropy(reference.model(images), torch.from_numpy(batches.split.targets[left]))
    loss.backward()
    if clip_grad is not None:
        nn.utils.clip_grad_norm_(reference.model.parameters(), clip_grad)
    reference.optimizer.step()
    for p, q in zip(state.model.parameters(), reference.model.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert means["loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize(("smallest", "sizes"), [(1, [1, 4]), (2, [4])])
def test_a_batch_without_enough_images_is_left_out_but_counts_as_a_step(smallest, sizes):
    """The first batch has one image left, the second none, the third all of them."""
    batches = without(12, 4, epoch_order(12, seed=0, epoch=0)[[0, 1, 2, 4, 5, 6, 7]].tolist())
    seen, state = [], make_state()
    state.model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    run_epoch(state, batches, make_config(smallest_batch=smallest))
    assert seen == sizes
    assert state.step == state.batch == 3


def test_an_epoch_without_a_readable_image_is_an_error():
    with pytest.raises(RunFailed, match="no training image could be read in epoch 1"):
        run_epoch(make_state(), without(8, 4, list(range(8))), make_config(smallest_batch=1))


def test_gradients_are_clipped_to_the_norm():
    state = make_state()
    before = [p.detach().clone() for p in state.model.parameters()]
    run_epoch(state, make_batches(8, 8), make_config(clip_grad=make_clip(0.01, "norm")))
    change = torch.cat([(p - q).flatten() for p, q in zip(state.model.parameters(), before, strict=True)])
    assert float(change.detach().norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_each_gradient_is_clipped_to_the_value():
    state = make_state()
    before = [p.detach().clone() for p in state.model.parameters()]
    run_epoch(state, make_batches(8, 8), make_config(clip_grad=make_clip(1e-5, "value")))
    largest = max(float((p.detach() - q).abs().max()) for p, q in zip(state.model.parameters(), before, strict=True))
    assert largest == pytest.approx(0.1 * 1e-5, rel=0.1)


def test_the_learning_rate_is_that_of_the_optimiser_step():
    """Three steps have rates that are powers of a thousand."""
    state = make_state()
    run_epoch(state, make_batches(20, 4), make_config(accumulate=2, learning_rate=lambda step: 0.1 * 1000.0**-step))
    assert state.step == 3
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 1000.0**-2)


def test_a_groups_learning_rate_is_scaled():
    states = [make_state(), state_of(make_state().model, scale=0.25)]
    start = make_state().model.state_dict()
    run_epoch(states[0], make_batches(4, 4), make_config(learning_rate=lambda step: 0.1))
    run_epoch(states[1], make_batches(4, 4), make_config(learning_rate=lambda step: 0.4))
    assert not torch.equal(states[0].model[1].weight, start["1.weight"])
    for p, q in zip(states[0].model.parameters(), states[1].model.parameters(), strict=True):
        assert torch.equal(p, q)


class TwoHeads(nn.Module):
    """Returns the logits of both heads, as a DeiT with a distillation token does in training."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleList(nn.Linear(3 * SIDE * SIDE, K) for _ in range(2))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(head(x.flatten(1)) for head in self.heads)


def test_both_heads_of_a_model_are_trained_on_the_mean_of_their_losses():
    state, batches = state_of(TwoHeads()), make_batches(8, 8)
    images, targets = next(iter(batches.epoch(0)))
    reference = TwoHeads()
    first, second = reference(images)
    loss = (nn.functional.cross_entropy(first, targets) + nn.functional.cross_entropy(second, targets)) / 2
    loss.backward()
    means = run_epoch(state, batches, make_config())
    assert means["loss"] == pytest.approx(loss.item())
    assert means["top1"] == pytest.approx(float((((first + second) / 2).argmax(1) == targets).float().mean()))
    for p, q in zip(state.model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(p, q - 0.1 * q.grad, atol=1e-6)


@pytest.mark.parametrize(("select_by", "best"), [("top1", 1), ("loss", 2), ("map", 3), ("f1", 0)])
def test_select_by_chooses_the_metric_of_the_best_epoch(select_by, best):
    """Each of four epochs is the best by another metric."""
    scores = [
        {"loss": 2.0, "top1": 0.5, "map": 0.5, "f1": 0.9},
        {"loss": 2.0, "top1": 0.9, "map": 0.5, "f1": 0.5},
        {"loss": 0.2, "top1": 0.5, "map": 0.5, "f1": 0.5},
        {"loss": 2.0, "top1": 0.5, "map": 0.9, "f1": 0.5},
    ]
    state, chosen = make_state(), None
    for epoch, means in enumerate(scores):
        state.epoch = epoch
        if select_best(state, {"raw": means}, select_by):
            chosen = epoch
    assert chosen == best == state.best["epoch"]


def test_an_epoch_continued_at_a_batch_ends_with_the_same_bits():
    config = make_config(mix=Mix("cutmix", K, 1, 1, 1))
    whole = make_state(momentum=0.9)
    expected = run_epoch(whole, make_batches(22, 4), config)

    first, snapshot = make_state(momentum=0.9), {}

    class Stop(Exception):
        pass

    class StopAfter(Progress):
        def step(self, *args, **kwargs):
            super().step(*args, **kwargs)
            if first.batch == 3:
                snapshot.update(torch.load(saved, weights_only=True) if (saved := self.save()) else {})
                raise Stop

        def save(self):
            import io

            buffer = io.BytesIO()
            torch.save(first.state_dict(), buffer)
            buffer.seek(0)
            return buffer

    progress = StopAfter()
    progress.start_epoch(0, 1, 22, 0)
    with pytest.raises(Stop):
        train_epoch(first, first.model, make_batches(22, 4), config, progress)
    second = make_state(momentum=0.9)
    second.load_state_dict(snapshot)
    assert second.batch == 3
    assert run_epoch(second, make_batches(22, 4), config) == expected
    for p, q in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_evaluation_counts_every_image_once_whatever_the_batch_size():
    model = make_state().model.eval()
    split = make_split(23)
    results = []
    for batch_size in (1, 7, 64):
        batches = EvalBatches(split, SIDE, (0.5,) * 3, (0.25,) * 3, CPU, batch_size)
        means, logits = evaluate(model, batches, K, "fp32", keep_logits=True)
        assert logits.shape == (23, K)
        assert means["top1"] == pytest.approx((logits.argmax(1).numpy() == split.targets).mean())
        results.append((means["loss"], logits))
    for loss, logits in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        assert torch.allclose(logits, results[0][1], atol=1e-5)


def spoil(monkeypatch, epoch: int, batch: int) -> None:
    """Makes the images of one batch infinite, each time they are drawn."""
    batches = ResidentTrainBatches.epoch

    def spoilt(self, number, start=0):
        for step, (images, targets) in enumerate(batches(self, number, start), start):
            yield images * (float("inf") if (number, step) == (epoch, batch) else 1), targets

    monkeypatch.setattr(ResidentTrainBatches, "epoch", spoilt)


LINE = "--dataset digits --train-fraction 0.2 --model resnet20 --batch-size 32 --checkpoint-every 3"


def test_a_run_that_is_rolled_back_skips_the_batches_that_diverged_and_says_so(learns, workdir, monkeypatch):
    spoil(monkeypatch, 1, 4)
    result = learns(LINE, "--epochs", "2", "--run-name", "a", "--on-nonfinite", "rollback")
    assert "rolled back   the loss is not finite in epoch 2, step 5" in result.out
    summary = json.loads((workdir / "runs/a/summary.json").read_text())
    (rollback,) = summary["rollbacks"]
    # An epoch has nine steps of one batch. Checkpoints are after steps 9 (the end of an epoch) and 12.
    assert (rollback["epoch"], rollback["first_batch"], rollback["last_batch"]) == (2, 4, 5)
    kept = torch.load(workdir / "runs/a/last.pth", weights_only=True)
    assert kept["step"] == 18 and all(value.isfinite().all() for value in kept["model"].values())


def test_a_run_that_diverges_again_and_again_fails(cli, workdir, monkeypatch):
    for batch in (1, 2, 5, 8):
        spoil(monkeypatch, 0, batch)
    line = LINE.replace("--checkpoint-every 3", "--checkpoint-every 1")
    result = cli(line, "--epochs", "1", "--run-name", "a", "--on-nonfinite", "rollback")
    assert result.status == 1 and "the loss is not finite in epoch 1, step 9" in result.err
    kept = torch.load(workdir / "runs/a/last.pth", weights_only=True)
    assert len(kept["rollbacks"]) == 3 and all(value.isfinite().all() for value in kept["model"].values())


def test_a_scaler_skips_a_step_whose_loss_is_not_finite(monkeypatch):
    spoil(monkeypatch, 0, 1)
    state = make_state()
    state.scaler = torch.amp.GradScaler("cpu")
    means = run_epoch(state, make_batches(24, 8), make_config())
    assert np.isfinite(means["loss"]) and all(bool(p.isfinite().all()) for p in state.model.parameters())
    assert state.scaler.get_scale() == 2.0**15  # halved once


def test_a_scaler_that_skips_every_step_ends_the_run():
    state = make_state()
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-9)
    with torch.no_grad():
        state.model[1].bias.fill_(float("nan"))
    with pytest.raises(RunFailed, match="the loss is not finite in epoch 1, step 2"):
        run_epoch(state, make_batches(24, 8), make_config())


def test_steps_that_a_scaler_skipped_are_not_reported_as_unreadable_images():
    state = make_state()
    state.scaler = torch.amp.GradScaler("cpu")
    with torch.no_grad():
        state.model[1].bias.fill_(float("nan"))
    with pytest.raises(RunFailed, match="no loss is finite in epoch 1"):
        run_epoch(state, make_batches(8, 8), make_config())


def test_a_scaler_that_is_disabled_is_stored_as_none():
    state = make_state()
    stored = state.state_dict()
    assert stored["scaler"] is None
    state.load_state_dict(stored)
    state.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(RuntimeError, match="disabled instance of GradScaler"):
        state.load_state_dict(stored)
    state.load_state_dict(state.state_dict())


def test_micro_batches_weigh_every_image_of_an_optimiser_step_the_same():
    """A step has three batches: 4 + 4 + 4 images, then 4 + 4 + 2."""
    batches = list(micro_batches(make_batches(22, 4), 0, 0, make_config(accumulate=3)))
    assert [batch.weight / batch.count for batch in batches] == pytest.approx([1 / 12] * 3 + [1 / 10] * 3)
    assert [batch.ends_step for batch in batches] == [False, False, True] * 2
    assert {batch.readable_share for batch in batches} == {1.0}


def test_a_micro_batch_with_too_few_readable_images_is_a_dummy():
    """Of a step's batches of four the first has one readable image, the second none, the third all."""
    bad = epoch_order(12, seed=0, epoch=0)[[0, 1, 2, 4, 5, 6, 7]].tolist()
    config = make_config(accumulate=3, smallest_batch=2)
    batches = list(micro_batches(without(12, 4, bad), 0, 0, config))
    assert [(batch.count, len(batch.images), len(batch.targets)) for batch in batches] == [
        (0, 2, 0),
        (0, 2, 0),
        (4, 4, 4),
    ]
    assert not batches[0].images.any() and batches[2].readable_share == pytest.approx(1 / 3)
    state = make_state()
    loss, _ = config.objective(state.model(batches[0].images), batches[0].images, batches[0].targets, 0, 0)
    loss.backward()
    assert loss == 0 and all(p.grad is not None and not p.grad.any() for p in state.model.parameters())
