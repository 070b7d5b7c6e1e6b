"""Recipes: the values they set, from their sources, the flags that override them, and their printed lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from settings.scripts import SCRIPTS

SMALL = "--dataset digits --recipe cifar-fast --widths 8,16 --depths 1,1 --train-fraction 0.2"


def settings(run: str) -> dict:
    return json.loads(Path(f"runs/{run}/settings.json").read_text())["settings"]


def test_cifar_fast_chooses_the_model_too_and_is_printed_and_stored(learns, workdir):
    result = learns(f"{SMALL} --epochs 5 --run-name a")
    assert "recipe        cifar-fast: model airbench94, epochs 5, batch-size 1024, optimizer muon-sgd" in result.out
    assert "selected on: last epoch" in result.out
    stored = settings("a")
    expected = {"recipe": "cifar-fast", "model": "airbench94", "epochs": 5, "warmup_epochs": 0.0, "schedule": "linear",
                "optimizer": "muon-sgd", "crop": "pad", "crop_padding": 2, "val_fraction": 0.0}  # fmt: skip
    assert {key: stored[key] for key in expected} == expected
    assert stored["model_args"] == {"widths": [8, 16], "depths": [1, 1], "stem_stride": 1}
    (workdir / "runs/a/summary.json").unlink()
    assert "resumed       after epoch 5 of 5" in learns("--resume --run-name a").out


def test_the_decay_of_cifar_fast_is_not_given_to_optimisers_that_would_scale_it():
    """2e-6 * batch size per step; Adam would add so much to each gradient."""
    base = ["--dataset", "digits", "--recipe", "cifar-fast"]
    decays = [SCRIPTS["main.py"].ask([*base, *more]).settings.optimization.weight_decay for more in (
        [], ["--lr", "0.1"], ["--optimizer", "adam"], ["--optimizer", "adamw"])]  # fmt: skip
    assert decays == [pytest.approx(2e-6 * 1024 / 0.344), pytest.approx(2e-6 * 1024 / 0.1), 0.0, 0.05]


def test_given_flags_win_over_cifar_fast(learns, workdir):
    given = "--epochs 1 --batch-size 64 --lr 0.01 --optimizer sgd --crop none --val-fraction 0.1 --label-smoothing 0"
    learns(f"--dataset digits --recipe cifar-fast --train-fraction 0.2 --model resnet20 {given} --run-name a")
    stored = settings("a")
    expected = {"model": "resnet20", "epochs": 1, "batch_size": 64, "lr": 0.01, "optimizer": "sgd", "crop": "none",
                "crop_padding": None, "val_fraction": 0.1, "label_smoothing": 0.0, "warmup_epochs": 0.0}  # fmt: skip
    assert {key: stored[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("flags", "rate"),
    [("--batch-size 1024", 0.344), ("--batch-size 64", 0.086), ("--batch-size 256 --accumulate 16", 0.688)],
)
def test_the_rate_of_cifar_fast_grows_with_the_root_of_the_batch(workdir, flags, rate):
    asked = SCRIPTS["main.py"].ask(f"{SMALL} {flags}".split())
    assert asked.settings.optimization.lr == pytest.approx(rate)


def test_a_metric_cannot_select_where_cifar_fast_holds_nothing_out(cli, workdir):
    result = cli(f"{SMALL} --select-by f1")
    assert result.status == 2 and "--select-by has no effect: no validation images select an epoch" in result.err


def asked(line: str) -> dict:
    return SCRIPTS["main.py"].ask(line.split()).settings.flat()


# Values at the published batch size, each from its source (settings/recipes.py).
RSB = {"optimizer": "lamb", "weight_decay": 0.02, "schedule": "cosine", "warmup_epochs": 5.0, "loss": "BCE",
       "bce_target_threshold": 0.2, "label_smoothing": 0.0, "augmentation": "cutmix+mixup", "mixup_alpha": 0.1,
       "cutmix_alpha": 1.0, "mix_prob": 1.0, "crop": "resized", "auto_augment": "randaugment", "auto_augment_ops": 2,
       "random_erasing": 0.0, "eval_crop": 0.95, "ema": None, "clip_grad": None}  # fmt: skip
PUBLISHED = {
    "rsb-a2": (2048, {**RSB, "epochs": 300, "lr": 0.005, "min_lr": 1e-6, "auto_augment_magnitude": 21,
                      "repeated_aug": 3, "train_size": None}),
    "rsb-a3": (2048, {**RSB, "epochs": 100, "lr": 0.008, "min_lr": 1e-6, "auto_augment_magnitude": 18,
                      "repeated_aug": 1, "train_size": 160}),
    "deit3": (2048, {"epochs": 800, "optimizer": "lamb", "lr": 0.003, "min_lr": 1e-5, "weight_decay": 0.02,
                     "schedule": "cosine", "warmup_epochs": 5.0, "clip_grad": 1.0, "clip_mode": "norm", "loss": "BCE",
                     "bce_target_threshold": 0.0, "label_smoothing": 0.0, "augmentation": "cutmix+mixup",
                     "mixup_alpha": 0.8, "cutmix_alpha": 1.0, "mix_prob": 1.0, "crop": "resized",
                     "auto_augment": "3augment", "random_erasing": 0.0, "repeated_aug": 3, "eval_crop": 1.0,
                     "train_size": None, "ema": None}),
    "torchvision-v2": (1024, {"epochs": 600, "optimizer": "sgd", "lr": 0.5, "min_lr": 0.0, "momentum": 0.9,
                              "nesterov": False, "weight_decay": 2e-5, "schedule": "cosine", "warmup_epochs": 5.0,
                              "loss": "CE", "label_smoothing": 0.1, "augmentation": "cutmix+mixup", "mixup_alpha": 0.2,
                              "cutmix_alpha": 1.0, "mix_prob": 1.0, "crop": "resized",
                              "auto_augment": "trivialaugment", "random_erasing": 0.1, "repeated_aug": 4,
                              "train_size": 176, "eval_crop": 224 / 232, "ema_warmup": "ratio"}),
}  # fmt: skip


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_published_recipe_has_its_published_values(workdir, recipe):
    batch, expected = PUBLISHED[recipe]
    found = asked(f"--dataset digits --img-size 224 --recipe {recipe} --batch-size {batch}")
    assert {key: found[key] for key in expected} == {
        key: pytest.approx(value) if isinstance(value, float) else value for key, value in expected.items()
    }


def test_the_averaged_weights_of_torchvision_decay_as_fast_as_there(workdir):
    """32 steps have the decay that torchvision's train.py computes for 8 processes of 128 images and 600 epochs."""
    decay = asked("--dataset digits --recipe torchvision-v2 --batch-size 1024")["ema"]
    adjust = 8 * 128 * 32 / 600
    assert decay**32 == pytest.approx(1.0 - min(1.0, (1.0 - 0.99998) * adjust), abs=1e-12)
    assert asked("--dataset digits --recipe torchvision-v2 --batch-size 2048 --epochs 1")["ema"] is None


@pytest.mark.parametrize(
    ("recipe", "flags", "rate"),
    [
        ("rsb-a2", "--batch-size 512", 0.0025),
        ("rsb-a3", "--batch-size 128 --accumulate 4", 0.004),
        ("deit3", "--batch-size 512", 0.0015),
        ("torchvision-v2", "--batch-size 256", 0.125),
    ],
)
def test_rates_grow_with_the_root_of_the_batch_for_lamb_and_with_the_batch_for_sgd(workdir, recipe, flags, rate):
    found = asked(f"--dataset digits --recipe {recipe} --epochs 20 {flags}")
    assert found["lr"] == pytest.approx(rate) and found["warmup_epochs"] == 2.0


@pytest.mark.parametrize("recipe", ["rsb-a3", "torchvision-v2"])
def test_images_keep_their_size_in_training_unless_one_is_given(workdir, recipe):
    small = f"--dataset digits --recipe {recipe}"
    assert asked(small)["train_size"] is None
    share = {"rsb-a3": 160 / 224, "torchvision-v2": 176 / 224}[recipe]
    assert asked(f"{small} --img-size 96,160")["train_size"] == [round(96 * share), round(160 * share)]
    assert asked(f"{small} --img-size 224 --train-size 128")["train_size"] == 128


def test_arguments_of_the_model_are_taken_by_models_that_have_them(workdir):
    found = asked("--dataset digits --model vit_tiny --recipe deit3")["model_args"]
    assert (found["drop_path"], found["layer_scale"]) == (0.05, 1e-4)
    assert asked("--dataset digits --model vit_tiny --recipe deit3 --drop-path 0")["model_args"]["drop_path"] == 0
    found = asked("--dataset digits --model resnet20 --recipe deit3")["model_args"]
    assert not {"drop_path", "layer_scale"} & found.keys()


@pytest.mark.parametrize("recipe", ["cifar-fast", "torchvision-v2"])
def test_a_recipe_that_computes_from_the_batch_size_needs_it_as_a_number(cli, workdir, recipe):
    result = cli(f"--dataset digits --recipe {recipe} --batch-size auto --lr 0.1 --optimizer sgd")
    assert result.status == 2 and f"--batch-size auto: values of --recipe {recipe} follow" in result.err
