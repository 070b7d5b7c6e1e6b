"""The ImageNet-100 study on small shards: its commands, recipes, teachers and refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import train_deit_imagenet100 as script
from settings.groups import Settings
from settings.recipes import RECIPES

SMALL = "--img-size 32 --patch-size 8 --depth 1 --embed-dim 24 --epochs 2 --batch-size 8"


@pytest.fixture
def train(learns):
    return lambda command, *more: learns(command, *more, script=script)


@pytest.fixture
def refused(cli, workdir):
    """Runs a request that must be refused in one line, without writing a file."""

    def run(command: str, needle: str) -> None:
        before = sorted(workdir.rglob("*"))
        result = cli(command, script=script)
        assert result.status == 2 and needle in result.err, command + result.err
        assert len(result.err.splitlines()) == 1
        assert sorted(workdir.rglob("*")) == before

    return run


def settings(run: str) -> dict:
    return json.loads(Path(f"runs/{run}/settings.json").read_text())["settings"]


def summary(run: str) -> dict:
    return json.loads(Path(f"runs/{run}/summary.json").read_text())


def test_a_plain_run_and_what_its_checkpoint_holds(train, shards):
    result = train(f"--data-path {shards()} {SMALL} --run-name a")
    assert "recipe        seed: optimizer adamw, lr 0.0005, weight-decay 0.05, schedule constant" in result.out
    assert "splits        train 38, validation 4, val.X 24" in result.out
    content = torch.load("runs/a/best.pth", weights_only=True)
    stored = content["settings"]
    assert (stored["model"], stored["recipe"], stored["optimizer"], stored["crop"]) == (
        "vit_tiny", "seed", "adamw", "resized"
    )  # fmt: skip
    assert content["class_names"] == ["tench", "goldfish", "great white shark", "toilet tissue"]
    history = torch.load("runs/a/last.pth", weights_only=True)["history"]
    row = history[content["best"]["epoch"] - 1]
    assert content["best"]["top1"] == row["val_top1"] == max(row["val_top1"] for row in history)
    assert [row["lr"] for row in history] == [0.0005, 0.0005]
    assert summary("a")["selected_on"] == "0.1 of train, stratified, seed 0" and summary("a")["split"] == "val.X"


def test_the_published_protocol_selects_on_what_it_reports_and_says_so(train, shards):
    result = train(f"--data-path {shards()} {SMALL} --select-on reported --run-name a")
    assert "splits        train 42, validation 24, val.X 24" in result.out
    told = summary("a")
    assert told["selected_on"] == "val.X, the split that is reported, so the result is optimistic"
    assert told["selected_on"] in result.out
    content = torch.load("runs/a/best.pth", weights_only=True)
    assert content["best"]["top1"] == pytest.approx(told["top1"])


def test_given_flags_win_over_the_recipe(train, shards):
    line = f"--data-path {shards()} {SMALL} --recipe deit"
    result = train(f"{line} --run-name whole")
    stored = settings("whole")
    words = {"optimizer": "adamw", "schedule": "cosine", "augmentation": "cutmix+mixup", "rand": True}
    numbers = {"lr": 0.0005 * 8 / 512, "min_lr": 0.0005 * 8 / 51200, "warmup_epochs": 0.2, "mixup_alpha": 0.8,
               "cutmix_alpha": 1.0, "random_erasing": 0.25, "label_smoothing": 0.1, "ema": 0.99996}  # fmt: skip
    assert {key: stored[key] for key in words} == words
    assert {key: stored[key] for key in numbers} == pytest.approx(numbers)
    assert stored["model_args"]["drop_path"] == 0.1
    for words in ("drop-path 0.1", "augmentation cutmix+mixup", "ema 0.99996"):
        assert words in result.out
    train(f"{line} --lr 0.01 --augmentation none --no-rand --ema 0 --drop-path 0.2 --warmup-epochs 0 --run-name given")
    stored = settings("given")
    given = {"lr": 0.01, "augmentation": "none", "rand": False, "ema": None, "warmup_epochs": 0, "label_smoothing": 0.1}
    assert {key: stored[key] for key in given} == given
    assert stored["model_args"]["drop_path"] == 0.2


def test_a_recipe_warms_up_as_long_as_the_paper_where_the_training_is_as_long():
    settings = Settings.of({"epochs": 300, "batch_size": 512, "accumulate": 2, "lr": 1e-3})
    values = {key: value(settings) for key, value in RECIPES["deit"].items() if callable(value)}
    assert values == pytest.approx({"lr": 1e-3, "min_lr": 1e-5, "warmup_epochs": 5})


def test_main_knows_recipes_too(learns, workdir):
    """A model without drop path does not get one; a resumed run keeps its recipe."""
    result = learns("--dataset digits --model resnet20 --epochs 1 --recipe deit --train-fraction 0.1 --run-name a")
    assert "drop-path (not taken by resnet20)" in result.out
    assert "drop_path" not in settings("a")["model_args"]
    (workdir / "runs/a/summary.json").unlink()
    assert learns("--resume --run-name a").status == 0


def test_the_teacher_is_trained_first_as_a_run_of_its_own(train, shards, monkeypatch):
    """A run killed while its teacher trains resumes, and ends with the bits of an uninterrupted one."""
    from training import loop

    line = f"--data-path {shards()} {SMALL} --model deit_tiny_distill --teacher resnet20 --teacher-epochs 8 --lr 0.01"
    line += " --warmup-epochs 1 --val-fraction 0 --crop none --no-flip"
    train(f"{line} --run-name whole")
    stored = settings("whole-teacher")
    assert (stored["model"], stored["epochs"], stored["warmup_epochs"], stored["teacher"]) == ("resnet20", 8, 4, None)
    facts = summary("whole")["teacher"]
    assert facts["weights"] == "runs/whole-teacher/best.pth" and facts["split"] == "train"
    assert settings("whole")["teacher_weights"] is None

    train_all = loop.train

    def killed(state, forward, train_batches, val_batches, config, *others):
        config = dataclasses.replace(config, epochs=3)  # the process ends after three epochs
        train_all(state, forward, train_batches, val_batches, config, *others)
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", killed)
        with pytest.raises(AssertionError):
            train(f"{line} --run-name killed")
    assert not Path("runs/killed/last.pth").exists() and not Path("runs/killed-teacher/summary.json").exists()
    result = train("--resume --run-name killed")
    assert "resumed       after epoch 3 of 8" in result.out
    for part in ("", "-teacher"):
        first, second = (torch.load(f"runs/{name}{part}/best.pth", weights_only=True) for name in ("whole", "killed"))
        for key, value in first["model"].items():
            assert torch.equal(value, second["model"][key]), key
    again = train("--resume --run-name killed")
    assert "finished already" in again.out


def test_cached_answers_are_those_that_the_teacher_would_give(learns, workdir):
    """The training is the same if the teacher runs once per image instead of in each step."""
    learns("--dataset digits --model resnet20 --lr 0.05 --batch-size 32 --epochs 3 --run-name teacher")
    line = "--dataset digits --model vit_tiny --depth 1 --embed-dim 24 --patch-size 2 --epochs 2 --crop none"
    line += " --train-fraction 0.2 --teacher resnet20 --teacher-weights runs/teacher/best.pth --distill soft"
    learns(f"{line} --run-name asked")
    learns(f"{line} --cache-teacher --run-name cached")
    first, second = (torch.load(f"runs/{name}/last.pth", weights_only=True) for name in ("asked", "cached"))
    for row, other in zip(first["history"], second["history"], strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    for key, value in first["model"].items():
        torch.testing.assert_close(value, second["model"][key], rtol=1e-3, atol=1e-4)


def test_a_teacher_that_learnt_the_validation_images_is_told(learns, workdir):
    learns("--dataset digits --model resnet20 --lr 0.05 --batch-size 32 --epochs 2 --run-name teacher")
    line = "--dataset digits --model resnet20 --epochs 1 --train-fraction 0.1 --teacher resnet20"
    line += " --teacher-weights runs/teacher/best.pth"
    result = learns(f"{line} --seed 1 --run-name other")
    assert "some of these validation images were in its training" in result.out
    assert "note" not in summary("other")["teacher"] or summary("other")["teacher"]["note"] in result.out
    assert "some of these" not in learns(f"{line} --run-name same").out


def test_a_distillation_token_without_a_teacher_is_told(train, shards):
    result = train(f"--data-path {shards()} {SMALL} --model deit_tiny_distill --run-name a")
    assert "has a distillation token, but no --teacher is given" in result.out


def test_broken_images_are_found_before_training(cli, train, shards, workdir):
    root = shards()
    line = f"--data-path {root} {SMALL} --check-images"
    assert "all 66 files can be read" in train(f"{line} --run-name a").out
    bad = [root / "train.X2/n01440764/n01440764_X20.JPEG", root / "val.X/n15075141/n15075141_X5.JPEG"]
    for path in bad:
        path.write_bytes(path.read_bytes()[:300])
    before = sorted(workdir.rglob("*"))
    result = cli(f"{line} --run-name b", script=script)
    assert result.status == 2 and sorted(workdir.rglob("*")) == before
    assert "2 of 66 images are broken" in result.err and len(result.err.splitlines()) == 1
    for path in bad:
        assert f"{path}: cannot be read as an image" in result.out and str(path) in result.err


@pytest.mark.parametrize(
    ("line", "needle"),
    [
        ("", "--dataset imagenet100 needs --datapath"),
        ("--data-path .", "Labels.json: no such file"),
        ("--dataset digits", "unknown flag --dataset"),
        ("--recipe deti", "--recipe: 'deti' is none of seed, deit"),
        ("--teacher-epochs 3", "--teacher-epochs has no effect: it needs --teacher"),
        ("--cache-teacher", "--cache-teacher has no effect: it needs --teacher"),
        ("--teacher resnet18 --cache-teacher --rand", "--cache-teacher: --rand changes the images"),
        ("--teacher resnet18 --cache-teacher --auto-augment 3augment", "--auto-augment 3augment changes the images"),
        ("--val-fraction 0.2 --select-on reported", "--val-fraction has no effect: --select-on reported holds nothing"),
    ],
)
def test_bad_requests(refused, line, needle):
    refused(line, needle)


def test_bad_requests_that_only_the_data_tell(refused, shards, workdir):
    root = shards()
    line = f"--data-path {root} {SMALL}"
    Path("w.pth").write_bytes(b"")
    refused(f"{line} --teacher resnet18 --teacher-weights w.pth --teacher-epochs 1", "the teacher is trained already")
    refused(f"{line} --teacher resnet18 --cache-teacher", "--cache-teacher is for images that are kept on the device")
    Path("runs/a-teacher").mkdir(parents=True)
    Path("runs/a-teacher/settings.json").write_text("{}")
    refused(f"{line} --teacher resnet20 --teacher-epochs 1 --run-name a", "a-teacher: there is such a run")
    refused(f"{line} --check-images --img-size 30", "patches of 8 px do not divide 30 px images")
