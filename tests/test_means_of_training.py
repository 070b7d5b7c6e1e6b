"""Means of training from the command line: each run is exact under resume within an epoch, and says what it did."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from test_main import assert_same_run, read_metrics, read_summary

from training.config import TrainConfig
from training.saving import Saver

TINY = "--dataset digits --model resnet18 --widths 4,4,4,4 --depths 1,1,1,1 --batch-size 64 --train-fraction 0.2"
SAME_WEIGHTS = "--dataset digits --model vit_tiny --embed-dim 12 --depth 1 --optimizer sgd --lr 1e-30 --weight-decay 0"


def stop_at(step: int, monkeypatch) -> None:
    """Stops the process after that optimiser step, as a signal would."""
    after_step = Saver.after_step

    def stopping(self):
        after_step(self)
        if self.state.step == step:
            self.save()
            self._leave()

    monkeypatch.setattr(Saver, "after_step", stopping)


@pytest.mark.parametrize(
    "flags",
    [
        "--sampler balanced --repeated-aug 2 --loss focal --augmentation mixup --mixup-off-epoch 1 --average-last 2"
        " --schedule wsd --clip-grad 0.1 --clip-mode value --lr-base-size 256 --auto-augment trivialaugment",
        "--class-weights balanced --loss BCE --ema 0.99 --ema-warmup power --optimizer lamb --lr-base-size 256"
        " --auto-augment 3augment --val-fold 2/5",
    ],
)
def test_a_run_resumed_within_an_epoch_has_the_same_bits(cli, learns, workdir, monkeypatch, flags):
    learns(TINY, *flags.split(), "--epochs", "2", "--run-name", "whole")
    with monkeypatch.context() as patch:
        stop_at(6, patch)  # within the second epoch
        assert cli(TINY, *flags.split(), "--epochs", "2", "--run-name", "resumed").status == 143
    assert "batch " in learns("--resume --run-name resumed").out
    assert_same_run(workdir / "runs/whole", workdir / "runs/resumed")


def test_training_stops_early_where_no_epoch_is_better(cli, learns, workdir):
    result = learns(SAME_WEIGHTS, "--epochs", "9", "--early-stopping", "2", "--run-name", "a")
    assert "stopped early after epoch 3 of 9: none was better than epoch 1 (--early-stopping 2)" in result.out
    summary = read_summary(workdir / "runs/a")
    assert (summary["epochs"], summary["trained_epochs"], summary["best_epoch"]) == (9, 3, 1)
    assert len(read_metrics(workdir / "runs/a")) == 3
    assert "finished already" in learns("--resume --run-name a").out
    refused = cli(SAME_WEIGHTS, "--early-stopping", "2", "--val-fraction", "0")
    assert refused.status == 2 and "--early-stopping has no effect" in refused.err


def test_a_fold_is_reported_after_the_last_epoch_and_the_test_split_is_left_alone(learns, workdir):
    result = learns(TINY, "--epochs", "1", "--val-fold", "2/3", "--run-name", "fold")
    summary = read_summary(workdir / "runs/fold")
    assert summary["split"] == "fold 2 of 3" and summary["selected_on"] == "last epoch"
    assert summary["images"]["val"] == 0 and "val" not in result.out.split("epoch 1/1")[1].split("\n")[0]
    train = 1797 - 359  # without the digits that are held out as test split
    assert summary["images"]["test"] == pytest.approx(train / 3, abs=1)
    repeated = learns("--evaluate runs/fold/best.pth --run-name again")
    assert "on fold 2 of 3" in repeated.out and read_summary(workdir / "runs/again")["top1"] == summary["top1"]


def test_more_epochs_give_the_run_that_had_them_from_the_start(learns, workdir):
    schedule = ["--schedule", "step", "--step-size", "1", "--gamma", "0.5"]
    learns(TINY, *schedule, "--epochs", "3", "--run-name", "whole")
    learns(TINY, *schedule, "--epochs", "2", "--run-name", "more")
    assert "resumed       after epoch 2 of 3" in learns("--resume --epochs 3 --run-name more").out
    assert_same_run(workdir / "runs/whole", workdir / "runs/more", "epochs", "step_size")
    note = (
        "extended from 2 to 3 epochs after epoch 2, where the schedule went on; the test split had been scored before"
    )
    assert note in read_summary(workdir / "runs/more")["notes"]
    assert "finished already" in learns("--resume --epochs 3 --run-name more").out


def test_more_epochs_go_on_exactly_before_the_decay_of_wsd_and_are_refused_after(cli, learns, workdir, monkeypatch):
    flags = [*TINY.split(), "--schedule", "wsd", "--decay-epochs", "1"]
    learns(*flags, "--epochs", "4", "--run-name", "whole")
    with monkeypatch.context() as patch:
        stop_at(6, patch)
        assert cli(*flags, "--epochs", "3", "--run-name", "more").status == 143
    learns("--resume --epochs 4 --run-name more")
    assert_same_run(workdir / "runs/whole", workdir / "runs/more", "epochs", "step_size")
    before = (workdir / "runs/more/settings.json").read_bytes()
    refused = cli("--resume --epochs 6 --run-name more")
    assert refused.status == 2 and "the decay of its learning rate has begun" in refused.err
    assert "--extend" in refused.err and (workdir / "runs/more/settings.json").read_bytes() == before


def test_a_run_is_extended_with_a_schedule_that_starts_anew(cli, learns, workdir, monkeypatch):
    learns(TINY, "--epochs", "2", "--run-name", "a")
    refused = cli("--resume --epochs 4 --run-name a")
    assert refused.status == 2 and "the cosine schedule of the run to be resumed spans 2" in refused.err
    with monkeypatch.context() as patch:
        stop_at(14, patch)
        assert cli("--resume --epochs 4 --extend --run-name a").status == 143
    learns("--resume --epochs 4 --extend --run-name a")  # as a job that is requeued
    rows = read_metrics(workdir / "runs/a")
    rates = [float(row["lr"]) for row in rows]
    assert rates[2:] == pytest.approx(rates[:2]) and rates[0] > rates[1]
    summary = read_summary(workdir / "runs/a")
    assert summary["settings"]["extend"] == 2 and any("started anew" in note for note in summary["notes"])
    stored = json.loads((workdir / "runs/a/settings.json").read_text())
    assert stored["extensions"] == [{"after_epoch": 2, "epochs": [2, 4], "schedule": "anew", "scored": True}]
    assert cli("--resume --epochs 3 --run-name a").status == 2


def test_classes_of_unequal_size_are_scored_one_by_one_after_each_epoch(learns, workdir):
    rng = np.random.default_rng(0)
    sizes = {"train": (60, 20, 12), "test": (30, 10, 6)}
    arrays = {}
    for part, counts in sizes.items():
        labels = np.repeat(np.arange(3), counts)
        arrays |= {f"{part}_images": rng.integers(0, 256, (len(labels), 8, 8, 3), dtype=np.uint8),
                   f"{part}_labels": labels}  # fmt: skip
    np.savez(workdir / "unequal.npz", **arrays)
    line = TINY.replace("digits", "npz/unequal.npz").replace("--train-fraction 0.2", "--select-on reported")
    result = learns(line, "--epochs", "1", "--run-name", "a", "--sampler", "balanced")
    summary, row = read_summary(workdir / "runs/a"), read_metrics(workdir / "runs/a")[0]
    for name, accuracy in summary["per_class_accuracy"].items():
        assert float(row[f"val_recall of {name}"]) == pytest.approx(accuracy)
    assert float(row["val_recall"]) == pytest.approx(summary["recall"])
    lowest = min(summary["per_class_accuracy"].values())
    assert f"mean recall {100 * summary['recall']:.2f} % (lowest: " in result.out
    assert f" {100 * lowest:.1f} %" in result.out.split("lowest: ")[1]


RECIPES = {
    "deit3": "--model vit_tiny --embed-dim 24 --depth 2 --img-size 16",
    "rsb-a2": "--model resnet18 --widths 4,4,4,4 --depths 1,1,1,1",
    "rsb-a3": "--model resnet18 --widths 4,4,4,4 --depths 1,1,1,1 --img-size 28 --grad-checkpointing",
    "torchvision-v2": "--model resnet18 --widths 4,4,4,4 --depths 1,1,1,1 --img-size 28",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_trains_an_epoch_and_resumes_within_it_with_the_same_bits(
    cli, learns, workdir, monkeypatch, recipe
):
    line = f"--dataset digits {RECIPES[recipe]} --recipe {recipe} --batch-size 64 --epochs 1 --train-fraction 0.2"
    assert f"recipe        {recipe}: " in learns(line, "--run-name", "whole").out
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        assert cli(line, "--run-name", "resumed").status == 143
    assert "after epoch 0 of 1, batch 2" in learns("--resume --run-name resumed").out
    assert_same_run(workdir / "runs/whole", workdir / "runs/resumed")


def test_the_mean_of_the_last_epochs_has_each_of_them_also_after_a_rollback(learns, workdir, monkeypatch):
    """The loss of the last batch of the second epoch is not finite, so its step is left out."""
    objective, steps = TrainConfig.objective, 5

    def diverging(self, outputs, images, targets, epoch, batch):
        loss, logits = objective(self, outputs, images, targets, epoch, batch)
        return loss * (math.nan if (epoch, batch) == (1, steps - 1) else 1), logits

    monkeypatch.setattr(TrainConfig, "objective", diverging)
    flags = ["--epochs", "3", "--average-last", "3", "--on-nonfinite", "rollback", "--checkpoint-every", "2"]
    learns(TINY, *flags, "--keep", "every:1", "--run-name", "a")
    kept = [torch.load(workdir / f"runs/a/epoch-{n:04d}.pth", weights_only=True) for n in (1, 2, 3)]
    assert len(kept[2]["rollbacks"]) == 1 and kept[0]["step"] == steps
    for name, average in kept[2]["ema"].items():
        if average.is_floating_point():
            torch.testing.assert_close(average, torch.stack([each["model"][name] for each in kept]).mean(0))


def test_weights_of_classes_are_those_of_the_beginning_also_if_their_file_changes(cli, learns, workdir, monkeypatch):
    file, flags = workdir / "weights.csv", ["--epochs", "2", "--class-weights", "weights.csv"]
    file.write_text("class,weight\n" + "".join(f"{i},{i + 1}\n" for i in range(10)))
    learns(TINY, *flags, "--run-name", "whole")
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        assert cli(TINY, *flags, "--run-name", "resumed").status == 143
    file.unlink()
    learns("--resume --run-name resumed")
    assert_same_run(workdir / "runs/whole", workdir / "runs/resumed")


def test_a_run_that_stopped_early_is_not_extended(cli, learns, workdir):
    learns(SAME_WEIGHTS, "--epochs", "9", "--early-stopping", "1", "--train-fraction", "0.1", "--run-name", "a")
    refused = cli("--resume --epochs 20 --extend --run-name a")
    assert refused.status == 2 and "the run stopped early, as no epoch was better than 1" in refused.err
