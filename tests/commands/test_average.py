"""--average: the mean of checkpoints, its batch-norm statistics, its scores, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import main
import models
from assembly import averaged
from comparison.cohorts import make_cohorts
from comparison.runs import read_run
from records.checkpoint import load_checkpoint
from settings.groups import Settings

TRAIN = "--dataset digits --model resnet18 --widths 8,8,8,8 --epochs 2 --train-fraction 0.2 --wandb disabled"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Runs a and b of two seeds and the same images, and c, which validates nothing."""
    runs = tmp_path_factory.mktemp("average") / "runs"
    for name, more in {
        "a": "--keep every:1 --ema 0.9",
        "b": "--seed 1 --split-seed 0",
        "c": "--val-fraction 0 --epochs 1 --augmentation cutmix",
    }.items():
        main.main([*TRAIN.split(), *more.split(), "--runs-dir", str(runs), "--run-name", name])
    return runs


def test_the_average_of_equal_checkpoints_is_that_checkpoint(cli, trained, workdir):
    file = trained / "b/best.pth"
    result = cli("--average", str(file), str(shutil.copy(file, workdir / "copy.pth")), str(file))
    assert result.status == 0, result.err
    before, after = load_checkpoint(file), load_checkpoint(workdir / "runs/b-average/best.pth")
    names = [name for name in before["model"] if not name.endswith(STATISTICS)]
    assert names and all(torch.equal(before["model"][name], after["model"][name]) for name in names)


def test_statistics_are_the_means_over_the_batches_of_the_first_epoch(trained):
    """Also with mixed images. A momentum of 1 makes a layer's statistics those of its last batch."""
    model, (part, *_) = averaged.read_parts([str(trained / "c/best.pth"), str(trained / "c/last.pth")])
    settings, data = averaged.data_of_run(part, 0, {})
    device = torch.device("cpu")
    averaged.update_statistics(model, settings, data, device)
    found = {name: value.clone() for name, value in model.named_buffers()}
    averaged.update_statistics(model, settings, data, device)
    assert all(torch.equal(value, found[name]) for name, value in model.named_buffers())

    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for layer in layers.values():
        layer.momentum = 1.0
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in found}

    def record(images):
        with torch.no_grad():
            model.train()(images)
        for name, value in model.named_buffers():
            seen[name].append(value.double().clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(averaged, "update_bn", lambda images, model: [record(batch) for batch in images])
        averaged.update_statistics(model, settings, data, device)
    assert layers
    for name in layers:
        for kind in STATISTICS[:2]:
            expected = torch.stack(seen[f"{name}.{kind}"]).mean(0).float()
            torch.testing.assert_close(found[f"{name}.{kind}"], expected, rtol=1e-4, atol=1e-6)
        assert found[f"{name}.num_batches_tracked"] == len(seen[f"{name}.running_var"]) > 1


def test_a_frozen_backbone_keeps_its_statistics():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    assert averaged.has_statistics(model, Settings())
    assert not averaged.has_statistics(model, Settings().replace(freeze="backbone"))
    assert not averaged.has_statistics(model[0], Settings())


def test_the_average_is_scored_beside_its_parts_and_is_a_run_of_its_own(cli, trained, workdir):
    files = [str(trained / name) for name in ("a/epoch-0001.pth", "a/epoch-0002.pth", "b/best.pth")]
    result = cli("--average", *files[:2], "--weights-kind", "raw", "--run-name", "ab", "--average", files[2])
    assert result.status == 0, result.err
    summary = json.loads((workdir / "runs/ab/summary.json").read_text())
    assert summary["selected_on"] == "average of 3 checkpoints; 0.1 of train, stratified, seed 0"
    assert summary["settings"]["averaged"] == "ema 0.9, 2 epochs + ema none; 2 seeds (raw)"
    assert [row["checkpoint"] for row in summary["averaged"]] == files
    assert [row["epoch"] for row in summary["averaged"]][:2] == [1, 2]
    lines = [line for line in result.out.splitlines() if line.startswith("validation ")]
    for name, row, line in zip([*files, "the average"], [*summary["averaged"], summary], lines, strict=True):
        assert f"{name}: top-1 {100 * row['val_top1']:.2f} %" in line
    states = [load_checkpoint(Path(file))["model"] for file in files]
    own = load_checkpoint(workdir / "runs/ab/best.pth")["model"]["fc.weight"]
    torch.testing.assert_close(own, torch.stack([state["fc.weight"].double() for state in states]).mean(0).float())

    again = cli("--evaluate runs/ab/best.pth --run-name again")
    assert again.status == 0, again.err
    assert json.loads((workdir / "runs/again/summary.json").read_text())["loss"] == summary["loss"]
    runs = [read_run(path) for path in (trained / "b", workdir / "runs/ab")]
    (cohort,) = make_cohorts(runs, {0: None, 1: None}, [])
    assert len(cohort.models) == 2
    resumed = cli("--resume --run-name ab")
    assert resumed.status == 2 and "an average" in resumed.err


def part(path: str = "a/best.pth", seed: int = 0, **settings) -> averaged.Part:
    """A checkpoint without weights."""
    stored = {"model": "resnet20", "model_args": {}, "lr": 0.1, "seed": seed, "run_name": f"{path}-{seed}", **settings}
    return averaged.Part(path, {"settings": stored}, "raw", {})


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([part("a/epoch-0003.pth"), part("a/last.pth"), part("a/epoch-0001.pth")], "3 epochs"),
        ([part(seed=1), part(seed=0), part(seed=2, data_path="/elsewhere", keep=["best:1"])], "3 seeds"),
        ([part(seed=seed) for seed in (4, 3, 4, 3)], "2 x 2 epochs; 2 seeds"),
        ([part(lr=0.1), part(lr=0.02)], "lr 0.02 + lr 0.1"),
        ([part(lr=0.1, seed=1), part(lr=0.5, seed=1)], "lr 0.1 + lr 0.5"),
        ([part(lr=0.1), part(lr=0.5), part(lr=0.1, seed=1)], "2 x lr 0.1 + lr 0.5; 2 seeds"),
    ],
)
def test_an_average_is_told_from_others_by_what_it_averages_in_any_order(parts, text):
    found, first = averaged.describe(parts)
    again, same = averaged.describe(parts[::-1])
    assert found == again == text
    assert (
        first.content["settings"]["seed"]
        == same.content["settings"]["seed"]
        == min(one.content["settings"]["seed"] for one in parts)
    )
    assert first.content["settings"]["lr"] == same.content["settings"]["lr"]


def test_an_epoch_that_the_run_did_not_select_is_called_so(cli, trained, workdir):
    """Its better weights are scored. The best epoch up to then is not the run's if a later one is better."""
    run = Path(shutil.copytree(trained / "a", workdir / "runs/a"))
    content = torch.load(run / "epoch-0002.pth", weights_only=True)
    for kind, worse in (("raw", "val_ema_"), ("ema", "val_")):
        row = {**content["history"][-1], f"{worse}top1": -1.0}
        best = {"epoch": 1, "weights": "ema" if kind == "raw" else "raw", "top1": 1.0, "score": [1.0, 0.0]}
        torch.save({**content, "best": best, "history": [*content["history"][:-1], row]}, run / "altered.pth")
        result = cli("--evaluate runs/a/altered.pth --overwrite --run-name scored")
        assert result.status == 0, result.err
        assert f"weights       epoch 2 of 2 ({kind} weights), which the run did not select" in result.out
        summary = json.loads((workdir / "runs/scored/summary.json").read_text())
        assert (summary["weights"], summary["selected_by"], summary["select_precision"]) == (kind, None, None)
        assert summary["selected_on"] == "epoch 2, not selected" and summary["loss"] == pytest.approx(
            summary[kind]["loss"]
        )
    (kept,) = {1, 2} - {load_checkpoint(run / "best.pth")["epoch"]}
    for name, selected in ((f"epoch-000{kept}.pth", False), (f"epoch-000{3 - kept}.pth", True), ("best.pth", True)):
        assert cli(f"--evaluate runs/a/{name} --overwrite --run-name scored").status == 0
        summary = json.loads((workdir / "runs/scored/summary.json").read_text())
        assert (summary["selected_by"] == "top1") == selected
    torch.save({**content, "best": {}, "epoch": 0, "history": []}, run / "altered.pth")
    for command in ("--evaluate", "--average runs/a/best.pth"):
        result = cli(f"{command} runs/a/altered.pth --run-name none")
        assert (result.status, result.err.count("\n")) == (2, 1) and "within the first epoch" in result.err


def test_runs_without_validation_are_averaged_with_a_note(cli, trained, workdir):
    result = cli("--average", str(trained / "c/best.pth"), str(trained / "c/last.pth"))
    assert result.status == 0, result.err
    assert "no images validate" in result.out and "\nvalidation" not in result.out
    summary = json.loads((workdir / "runs/c-average/summary.json").read_text())
    assert summary["selected_on"] == "average of 2 checkpoints; last epoch" and "val_top1" not in summary


def test_what_does_not_fit_is_refused_before_anything_is_written(cli, trained, workdir, tmp_path):
    first = trained / "b/best.pth"
    content = torch.load(first, weights_only=True)
    weights, settings = content["model"], content["settings"]
    tiny = models.create_model("resnet20", 10, 8, 1)
    foreign = tmp_path / "foreign.pth"
    torch.save(weights, foreign)
    names = [f"digit {name}" for name in content["class_names"]]
    nan = {**weights, "fc.bias": weights["fc.bias"] * torch.nan}
    args = models.default_arguments("resnet20")

    def altered(**values) -> str:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.pth"
        torch.save({**content, **values}, file)
        return str(file)

    def digests(**values) -> str:
        return altered(image_digests={**content["image_digests"], **values})

    for file, reason in (
        (None, "at least two checkpoints"),
        (str(tmp_path / "gone.pth"), "no such checkpoint file"),
        (str(foreign), "not a checkpoint of this suite"),
        (altered(model=nan), "not all finite"),
        (altered(model=tiny.state_dict(), settings={**settings, "model": "resnet20", "model_args": args}), "model is"),
        (altered(class_names=names), "other classes"),
        (altered(mean=(0.3,)), "mean is"),
        (digests(train="0"), "other training images"),
        (digests(val="0"), "other validation images"),
        (altered(image_digests={}), "does not store its training images"),
        (str(trained / "c/best.pth"), "other training images"),
    ):
        result = cli("--average", str(first), *([] if file is None else [file]))
        assert (result.status, result.err.count("\n")) == (2, 1), result.err
        assert reason in result.err and (file is None or file in result.err)
    for more, reason in (
        ("--weights-kind raw", "none of the checkpoints holds averaged"),
        ("--dataset digits", "--dataset has no effect with --average"),
        (f"--runs-dir {trained} --run-name b --overwrite", "is needed"),
    ):
        result = cli("--average", str(first), str(trained / "b/last.pth"), *more.split())
        assert result.status == 2 and reason in result.err
    assert list(workdir.iterdir()) == []
