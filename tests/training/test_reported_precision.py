"""Reported numbers are computed in fp32 without TF32, whatever the training used, unless --eval-precision is given."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import models
import train_deit_imagenet100
import viz_random_10_vit_vs_deit
from image_datasets import load_dataset, locate_dataset
from models.matrix_units import MATRIX_UNITS
from records import checkpoint
from training import devices

LINE = "--dataset digits --model resnet9 --widths 8,8,16 --depths 1,1,1 --lr 0.05 --epochs 2 --batch-size 64"


def summary(run: str) -> dict:
    return json.loads(Path(f"runs/{run}/summary.json").read_text())


def logits(run: str) -> torch.Tensor:
    with np.load(f"runs/{run}/predictions.npz") as file:
        return torch.from_numpy(file["logits"])


@pytest.fixture
def reference(learns):
    """Trains a run in bf16. Returns a function that computes the logits of its selected weights on a split of the data
    set by hand, in fp32 or bf16."""
    learns(f"{LINE} --precision bf16 --run-name a")
    content = checkpoint.load_checkpoint(Path("runs/a/best.pth"))
    model = models.create_model("resnet9", 10, 8, 1, **content["settings"]["model_args"])
    model.load_state_dict(content["model"])
    model = model.eval().to(memory_format=torch.channels_last)
    dataset = load_dataset(locate_dataset("digits", None, False, True))

    def compute(bf16: bool) -> torch.Tensor:
        images = torch.from_numpy(dataset.test.images).permute(0, 3, 1, 2).float() / 255
        images = (images - content["mean"][0]) / content["std"][0]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return model(images).float()

    return compute


@pytest.mark.auto_precision
def test_a_run_trained_in_bf16_is_tested_in_fp32(reference):
    found = summary("a")
    assert [found[f"{key}_precision"] for key in ("train", "select", "test")] == ["bf16", "bf16", "fp32"]
    torch.testing.assert_close(logits("a"), reference(bf16=False), rtol=1e-4, atol=1e-4)
    assert (logits("a") - reference(bf16=True)).abs().max() > 1e-3  # the precisions do differ


@pytest.mark.auto_precision
def test_validation_uses_the_precision_of_training(learns):
    """Weights that are trained at a rate of almost 0, and so the same, are validated in bf16 and in fp32."""
    losses = {}
    for precision in ("bf16", "fp32"):
        learns(
            f"{LINE} --lr 1e-12 --weight-decay 0 --select-on reported --precision {precision} --run-name {precision}"
        )
        with Path(f"runs/{precision}/metrics.csv").open() as file:
            losses[precision] = float(list(csv.DictReader(file))[-1]["val_loss"])
    tested = summary("fp32")["loss"]
    assert losses["fp32"] == pytest.approx(tested, rel=1e-6)
    assert losses["bf16"] != pytest.approx(tested, rel=1e-6)
    assert losses["bf16"] == pytest.approx(tested, rel=0.05)


@pytest.mark.auto_precision
def test_eval_precision_chooses_another(learns, reference):
    learns("--evaluate runs/a/best.pth --eval-precision bf16 --run-name b")
    learns(f"{LINE} --precision bf16 --eval-precision bf16 --run-name c")
    for run in ("b", "c"):
        assert [summary(run)[f"{key}_precision"] for key in ("train", "select", "test")] == ["bf16"] * 3
        assert summary(run)["settings"]["eval_precision"] == "bf16"
        torch.testing.assert_close(logits(run), reference(bf16=True), rtol=0.02, atol=0.02)
        assert (logits(run) - reference(bf16=False)).abs().max() > 1e-3


def test_without_validation_nothing_was_selected_in_any_precision(learns):
    learns(f"{LINE} --epochs 1 --val-fraction 0 --precision fp32 --run-name a")
    learns("--evaluate runs/a/best.pth --run-name b")
    for run in ("a", "b"):
        assert summary(run)["select_precision"] is None and summary(run)["train_precision"] == "fp32"


@pytest.mark.auto_precision
def test_scores_do_not_depend_on_what_the_machine_would_train_in(learns, monkeypatch):
    learns(f"{LINE} --epochs 1 --run-name a")
    for units in ("on", "off"):
        monkeypatch.setenv(MATRIX_UNITS, units)
        learns(f"--evaluate runs/a/best.pth --run-name {units}")
    assert torch.equal(logits("on"), logits("off"))


@pytest.fixture
def products(monkeypatch):
    """Sets TF32 as on a GPU. For each forward pass of a whole model it notes (precision of products, whether
    convolutions may use TF32, whether the model is in train mode)."""
    seen: list[tuple] = []

    def note(module: torch.nn.Module, inputs: tuple) -> None:
        if hasattr(module, "head_names") and inputs[0].device.type != "meta":  # that counts FLOPs
            seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, module.training))

    set_up = devices.set_up

    def as_on_a_gpu(*args, **flags):
        device = set_up(*args, **flags)
        devices._use_tf32(flags.get("tf32", False))
        return device

    monkeypatch.setattr(devices, "set_up", as_on_a_gpu)
    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    yield seen
    hook.remove()
    devices._use_tf32(False)
    torch.backends.cudnn.allow_tf32 = True  # torch's default


EXACT, FAST = ("highest", False), ("high", True)


def test_tf32_is_off_for_reported_numbers_and_for_nothing_else(learns, shards, products, workdir):
    learns(f"{LINE} --epochs 1 --precision fp32 --run-name a")
    rows = [row[:2] for row in products]
    tested = rows.index(EXACT)
    assert set(rows[:tested]) == {FAST} and set(rows[tested:]) == {EXACT}
    assert not products[tested - 1][2], "validation comes before the test, and uses TF32 as training does"

    data = f"--data-path {shards()} --img-size 32 --patch-size 8 --depth 1 --embed-dim 24 --epochs 1 --batch-size 8"
    for run in ("b", "c"):
        learns(f"{data} --run-name {run}", script=train_deit_imagenet100)
    image = next(Path(data.split()[1]).glob("val.X/*/*"))
    for command, script in (
        ("--evaluate runs/a/best.pth --run-name e", None),
        ("--measure runs/a --corruptions", None),
        (f"--predict runs/b/best.pth {image}", None),
        ("--first runs/b --second runs/c --attention --num-images 2", viz_random_10_vit_vs_deit),
    ):
        products.clear()
        learns(command, **({} if script is None else {"script": script}))
        assert products and {row[:2] for row in products} == {EXACT}, command


@pytest.mark.auto_precision
def test_a_teacher_is_scored_in_fp32_and_teaches_in_the_precision_of_training(learns, monkeypatch):
    from assembly import teaching

    learns(f"{LINE} --run-name teacher")
    seen = []
    real = teaching.evaluate

    def noting(teacher, *args, **kwargs):
        seen.append(teacher.precision)
        result = real(teacher, *args, **kwargs)
        seen.append(teacher)
        return result

    monkeypatch.setattr(teaching, "evaluate", noting)
    line = "--teacher resnet9 --teacher-weights runs/teacher/best.pth --precision bf16 --run-name student"
    learns(f"{LINE} --epochs 1 {line}")
    assert seen[0] == "fp32" and seen[1].precision == "bf16"


@pytest.mark.parametrize(
    ("command", "needle"),
    [
        (
            "--evaluate runs/a/best.pth --precision fp32",
            "--precision has no effect with --evaluate; --eval-precision is",
        ),
        ("--measure runs/a --corruptions --precision fp32", "--precision has no effect: it needs --speed"),
        ("--measure runs/a --speed --eval-precision fp32", "--eval-precision has no effect: it needs --corruptions"),
        ("--evaluate runs/a/best.pth --eval-precision fp16 --device cpu", "--eval-precision fp16 needs a CUDA GPU"),
        ("--evaluate runs/a/best.pth --eval-precision auto", "'auto' is none of fp32, bf16, fp16"),
        ("--resume --run-name a --eval-precision bf16", "the run to be resumed has --eval-precision fp32"),
    ],
)
def test_a_precision_that_is_impossible_or_has_no_effect_is_refused(cli, learns, command, needle):
    learns(f"{LINE} --epochs 1 --train-fraction 0.1 --run-name a")
    result = cli(command)
    assert result.status == 2 and needle in result.err and len(result.err.splitlines()) == 1, result.err
