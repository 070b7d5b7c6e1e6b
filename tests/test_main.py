"""The main job from the command line: a run leaves complete files and honest numbers, and can be resumed."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import models
from assembly import trainee
from models import registry
from models.weight_files import read_state_dict
from records.run_directory import RunDirectory
from training import loop

REPO = Path(__file__).resolve().parent.parent
QUICK = "--dataset digits --model resnet20 --batch-size 64 --train-fraction 0.2"

VGG_LINE = (
    "--gpu 0 --model vgg16 --lr 0.01 --batch_size 128 --epochs 200 --augmentation cutmix --optimizer sgd"
    " --weight_decay 0.0002 --loss CE --datapath PATH --wandb_run_name vgg16"
)
SGD_LINE = (
    "--gpu 0 --model resnet50 --lr 0.01 --batch_size 128 --epochs 200 --augmentation cutmix --optimizer sgd"
    " --weight_decay 0.0002 --loss CE --datapath PATH --wandb_run_name rn50_sgd_CE"
)
BCE_LINE = (
    "--gpu 0 --model resnet50 --lr 0.01 --batch_size 128 --epochs 200 --augmentation cutmix --optimizer adamw"
    " --weight_decay 0.02 --loss BCE --warmup_epochs 5 --datapath PATH --wandb_run_name rn50_adamw_BCE"
)
SUMMARY_KEYS = {
    "split", "selected_on", "top1", "top5", "loss", "precision", "recall", "f1", "map", "ece", "params", "flops",
    "peak_memory", "epochs", "best_epoch", "train_seconds", "settings",
}  # fmt: skip


def read_summary(directory: Path) -> dict:
    return json.loads((directory / "summary.json").read_text())


def read_metrics(directory: Path) -> list[dict[str, str]]:
    with (directory / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def assert_same(a, b, where: str = "") -> None:
    """Asserts equality to the last bit, through dicts and lists."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_run(first: Path, second: Path, *may_differ: str) -> None:
    """Asserts that two runs have the same bits. Some settings may differ: those named, and how a run is started."""
    for name in ("last.pth", "best.pth"):
        a, b = (torch.load(path / name, weights_only=True) for path in (first, second))
        for content in (a, b):  # the run's name, its duration and how it ran may differ
            content.pop("train_seconds")
            for key in ("run_name", "num_workers", "checkpoint_every", *may_differ):
                content["settings"].pop(key)
        assert_same(a, b, name)
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()
    with np.load(first / "predictions.npz") as a, np.load(second / "predictions.npz") as b:
        for key in ("logits", "targets", "class_names"):
            assert a[key].tobytes() == b[key].tobytes()


@pytest.mark.parametrize(("line", "epochs"), [(VGG_LINE, 1), (SGD_LINE, 1), (BCE_LINE, 6)])
def test_the_documented_lines_work_as_they_stand(learns, workdir, cifar100_folder, line, epochs):
    result = learns(line.replace("PATH", str(cifar100_folder)), "--epochs", str(epochs))
    directory = workdir / "runs" / line.split()[-1]
    summary = read_summary(directory)
    assert summary["settings"]["dataset"] == "cifar100"
    assert summary["epochs"] == len(read_metrics(directory)) == epochs
    for name in ("settings.json", "last.pth", "best.pth", "predictions.npz"):
        assert (directory / name).stat().st_size > 0
    if not torch.cuda.is_available():
        assert "--gpu 0: there are 0 GPUs here, so the CPU is used" in result.out


@pytest.mark.auto_precision
def test_the_bce_line_trains_with_bce(learns, workdir, cifar100_folder):
    losses = {}
    for loss in ("BCE", "CE"):
        line = BCE_LINE.replace("PATH", str(cifar100_folder)).replace("--model resnet50", "--model resnet20")
        learns(line, "--epochs", "6", "--loss", loss, "--run-name", loss)
        losses[loss] = float(read_metrics(workdir / "runs" / loss)[0]["train_loss"])
    # Undecided logits cost ln 2 for each of four classes with BCE, ln 4 with CE.
    assert losses["BCE"] == pytest.approx(4 * np.log(2), rel=0.25)
    assert losses["CE"] == pytest.approx(np.log(4), rel=0.25)


@pytest.mark.auto_precision
@pytest.mark.draws
def test_a_run_leaves_a_complete_and_consistent_directory(learns, workdir):
    result = learns(QUICK, "--epochs", "2", "--run-name", "a/b")
    directory = workdir / "runs/a/b"
    summary = read_summary(directory)
    assert summary.keys() >= SUMMARY_KEYS
    assert summary["split"] == "test"
    assert summary["selected_on"] == "0.1 of train, stratified, seed 0"
    assert summary["params"] == 269_434
    assert 1e8 < summary["peak_memory"] < 1e12 and "peak memory" in result.out
    with np.load(directory / "predictions.npz") as predictions:
        logits, targets = predictions["logits"], predictions["targets"]
        assert logits.dtype == np.float32 and len(logits) == len(targets) == 359
        assert summary["top1"] == pytest.approx((logits.argmax(1) == targets).mean())
        per_class = [(logits[targets == k].argmax(1) == k).mean() for k in range(10)]
    assert list(summary["per_class_accuracy"].values()) == pytest.approx(per_class)
    rows = read_metrics(directory)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    best = max(rows, key=lambda row: (float(row["val_top1"]), -float(row["val_loss"])))
    assert summary["best_epoch"] == int(best["epoch"])
    assert torch.load(directory / "best.pth", weights_only=True)["epoch"] == summary["best_epoch"]
    for name in ("curves.png", "confusion.png"):
        with Image.open(directory / name) as picture:
            assert min(picture.size) > 500
    assert "\r" not in result.out + result.err
    for text in ("269,434 parameters", "FLOPs per image", "validation 145, test 359", "cpu", "summary.json"):
        assert text in result.out


@pytest.mark.auto_precision
def test_digits_are_learnt_in_a_few_epochs(learns, workdir):
    learns("--dataset digits --model resnet20 --batch-size 32 --lr 0.05 --epochs 5 --run-name learns")
    # A linear classifier on the same split reaches 0.95 to 0.96 at convergence.
    assert read_summary(workdir / "runs/learns")["top1"] > 0.9


@pytest.mark.auto_precision
def test_the_same_seed_gives_the_same_bits_and_another_seed_another_run(learns, workdir):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        learns(QUICK, "--epochs", "1", "--seed", seed, "--run-name", name)
    assert_same_run(workdir / "runs/a", workdir / "runs/b")
    assert read_metrics(workdir / "runs/a") != read_metrics(workdir / "runs/c")


HARD = "--augmentation cutmix+mixup --mix-prob 0.8 --rand --ema 0.9 --accumulate 2 --label-smoothing 0.1"


def stop_after(epoch: int, monkeypatch) -> None:
    """Interrupts the process after it has saved that epoch."""
    write = RunDirectory.write_metrics

    def stopping(self, history):
        write(self, history)
        if len(history) == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunDirectory, "write_metrics", stopping)


@pytest.mark.auto_precision
def test_a_resumed_run_is_bit_identical_on_resident_data(cli, learns, workdir, monkeypatch):
    learns(QUICK, *HARD.split(), "--epochs", "3", "--run-name", "whole")
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        stopped = cli(QUICK, *HARD.split(), "--epochs", "3", "--run-name", "resumed")
        assert stopped.status == 130
    result = learns("--resume --run-name resumed")
    assert "resumed       after epoch 1 of 3" in result.out
    assert_same_run(workdir / "runs/whole", workdir / "runs/resumed")


@pytest.mark.auto_precision
def test_a_resumed_run_is_bit_identical_on_streamed_data_with_other_workers(
    cli, learns, workdir, monkeypatch, image_folder
):
    path = image_folder(side=80)
    line = f"--dataset folder --datapath {path} --model resnet20 --img-size 32 --batch-size 5 --epochs 3 --rand"
    learns(line, "--run-name", "whole", "--num-workers", "0")
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        assert cli(line, "--run-name", "resumed", "--num-workers", "0").status == 130
    learns("--resume --run-name resumed --num-workers 2")
    assert_same_run(workdir / "runs/whole", workdir / "runs/resumed")


def test_a_run_that_stopped_before_its_first_epoch_is_resumed_from_the_start(cli, learns, workdir, monkeypatch):
    learns(QUICK, "--epochs", "1", "--run-name", "whole")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli(QUICK, "--epochs", "1", "--run-name", "resumed").status == 130
    assert "from the start" in learns("--resume --run-name resumed").out
    assert_same_run(workdir / "runs/whole", workdir / "runs/resumed")


def test_a_finished_run_is_not_resumed(learns, workdir):
    learns(QUICK, "--epochs", "1", "--run-name", "a")
    before = (workdir / "runs/a/summary.json").read_bytes()
    assert "finished already" in learns("--resume --run-name a").out
    assert (workdir / "runs/a/summary.json").read_bytes() == before


def test_an_existing_run_is_kept_unless_overwrite_is_given(cli, learns, workdir):
    learns(QUICK, "--epochs", "1", "--run-name", "a")
    before = (workdir / "runs/a/settings.json").read_bytes()
    refused = cli(QUICK, "--epochs", "1", "--run-name", "a")
    assert refused.status == 2 and "--overwrite" in refused.err
    assert (workdir / "runs/a/settings.json").read_bytes() == before
    learns(QUICK, "--epochs", "2", "--run-name", "a", "--overwrite")
    assert read_summary(workdir / "runs/a")["epochs"] == 2


def test_overwrite_does_not_delete_a_folder_that_is_no_run(cli, workdir):
    (workdir / "runs/thesis").mkdir(parents=True)
    (workdir / "runs/thesis/chapter1.txt").write_text("years of work")
    result = cli(QUICK, "--epochs", "1", "--run-name", "thesis", "--overwrite")
    assert result.status == 2
    assert (workdir / "runs/thesis/chapter1.txt").read_text() == "years of work"


def test_resuming_with_another_learning_rate_is_refused(cli, learns):
    learns(QUICK, "--epochs", "1", "--run-name", "a", "--lr", "0.05")
    result = cli("--resume --run-name a --lr 0.1")
    assert result.status == 2 and "--lr 0.1: the run to be resumed has --lr 0.05" in result.err


def test_without_validation_the_last_epoch_is_reported(learns, workdir):
    learns(QUICK, "--epochs", "2", "--val-fraction", "0", "--run-name", "a")
    summary = read_summary(workdir / "runs/a")
    assert summary["selected_on"] == "last epoch" and summary["best_epoch"] == 2
    assert summary["images"]["val"] == 0
    assert "val_top1" not in read_metrics(workdir / "runs/a")[0]


@pytest.mark.auto_precision
def test_both_raw_and_averaged_weights_are_scored(learns, workdir):
    learns(QUICK, "--epochs", "2", "--ema", "0.9", "--run-name", "a")
    summary = read_summary(workdir / "runs/a")
    assert summary["raw"]["loss"] != summary["ema"]["loss"]
    chosen = summary[summary["weights"]]
    assert chosen["top1"] == pytest.approx(summary["top1"]) and chosen["loss"] == pytest.approx(summary["loss"])
    assert {"val_top1", "val_ema_top1"} <= read_metrics(workdir / "runs/a")[0].keys()


def test_accuracy_on_mixed_targets_is_labelled_as_agreement(learns, workdir):
    learns(QUICK, "--epochs", "1", "--augmentation", "mixup", "--run-name", "a")
    row = read_metrics(workdir / "runs/a")[0]
    assert "train_agreement_top1" in row and "train_top1" not in row


@pytest.mark.parametrize(
    "flags",
    [
        "--precision bf16",
        "--no-channels-last",
        "--schedule step --step-size 1 --optimizer lamb --clip-grad 1",
        "--schedule multistep --optimizer adam --deterministic",
        "--model timm/resnet10t",
        "--in-chans 3 --img-size 16 --random-erasing 0.5 --crop none --flip --decay-all",
        "--loss bce --bce-target-threshold 0.2 --augmentation cutmix --nesterov",
    ],
)
def test_other_flags_train(learns, workdir, flags):
    learns(f"{QUICK} --epochs 2 --run-name a {flags}")
    assert np.isfinite(read_summary(workdir / "runs/a")["loss"])


@pytest.fixture
def two_layers(monkeypatch):
    """A model registered for the test and quick to compile."""
    monkeypatch.setattr(registry, "_CONSTRUCTORS", dict(registry._CONSTRUCTORS))

    @models.register_model(year=1989, paper="a convolution and a linear layer")
    def two_layers(num_classes: int, img_size: int, in_chans: int) -> nn.Module:
        features = nn.Sequential(nn.Conv2d(in_chans, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        return nn.Sequential(features, nn.Flatten(), nn.Linear(16 * (img_size // 2) ** 2, num_classes))


@pytest.mark.auto_precision
def test_a_compiled_model_trains_to_the_same_losses(learns, workdir, two_layers):
    line = "--dataset digits --model two_layers --lr 0.05 --epochs 2"
    for name, more in (("plain", []), ("compiled", ["--compile"])):
        learns(line, "--run-name", name, *more)
    plain, compiled = (float(read_metrics(workdir / "runs" / name)[1]["val_loss"]) for name in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=1e-3)
    keys = torch.load(workdir / "runs/compiled/best.pth", weights_only=True)["model"]
    assert not any("_orig_mod" in key for key in keys)


@pytest.mark.auto_precision
def test_evaluate_repeats_the_score_of_the_run(learns, workdir):
    learns(QUICK, "--epochs", "2", "--ema", "0.9", "--run-name", "a")
    learns("--evaluate runs/a/best.pth")
    trained, evaluated = read_summary(workdir / "runs/a"), read_summary(workdir / "runs/a-on-digits")
    for key in SUMMARY_KEYS - {"settings", "train_seconds", "peak_memory"}:
        assert evaluated[key] == trained[key], key
    with np.load(workdir / "runs/a/predictions.npz") as a, np.load(workdir / "runs/a-on-digits/predictions.npz") as b:
        assert np.array_equal(a["logits"], b["logits"])


def test_evaluate_on_other_classes_is_refused(cli, learns, image_folder):
    learns(QUICK, "--epochs", "1", "--run-name", "a")
    for classes, needle in ((3, "has 10 classes, folder has 3"), (10, "has other classes than folder")):
        path = image_folder(classes=classes, name=f"images{classes}")
        result = cli(f"--evaluate runs/a/best.pth --dataset folder --datapath {path}")
        assert result.status == 2 and needle in result.err


def test_weights_of_another_run_are_a_starting_point(learns, workdir, image_folder):
    learns(QUICK, "--epochs", "1", "--run-name", "a", "--in-chans", "3")
    path = image_folder(classes=4)
    result = learns(
        f"--dataset folder --datapath {path} --model resnet20 --epochs 1 --batch-size 8 --weights runs/a/best.pth"
        " --run-name b"
    )
    assert "head 'fc' replaced" in result.out and "10 classes, this model 4" in result.out


@pytest.mark.auto_precision
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(cli, workdir, monkeypatch):
    rate = trainee.learning_rate
    steps = 5  # per epoch: 258 images in batches of 64

    def exploding(step, **settings):
        return rate(step, **settings) if step < steps else 1e30

    monkeypatch.setattr(trainee, "learning_rate", exploding)
    result = cli(QUICK, "--epochs", "3", "--run-name", "a")
    assert result.status == 1
    assert "not finite in epoch 2, step" in result.err and len(result.err.splitlines()) == 1
    kept = torch.load(workdir / "runs/a/last.pth", weights_only=True)
    assert kept["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in kept["model"].values())
    assert not (workdir / "runs/a/summary.json").exists()


@pytest.mark.parametrize(
    ("error", "needle"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory for --batch-size 64; 32 would fit"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (OSError(28, "No space left on device", "runs/a/last.pth"), "runs/a/last.pth: No space left on device"),
        (RuntimeError("adaptive_avg_pool2d_backward_cuda is not deterministic"), "--deterministic is not possible"),
    ],
)
def test_what_the_machine_lacks_is_said_in_one_line(cli, monkeypatch, error, needle):
    monkeypatch.setattr(loop, "train", lambda *args: (_ for _ in ()).throw(error))
    result = cli(QUICK, "--epochs", "1", "--run-name", "a")
    assert result.status == 1 and needle in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.auto_precision
def test_weights_spoilt_by_the_last_step_are_not_saved(cli, workdir, monkeypatch):
    rate = trainee.learning_rate
    last = 9  # last step of the second epoch; its loss is computed before the weights change

    def exploding(step, **settings):
        return rate(step, **settings) if step < last else float("inf")

    monkeypatch.setattr(trainee, "learning_rate", exploding)
    result = cli(QUICK, "--epochs", "2", "--val-fraction", "0", "--run-name", "a")
    assert result.status == 1 and "weights are not finite in epoch 2, step 5" in result.err
    kept = torch.load(workdir / "runs/a/best.pth", weights_only=True)
    assert kept["epoch"] == 1 and all(torch.isfinite(value).all() for value in kept["model"].values())


def test_a_moved_run_is_resumed_where_it_is(cli, learns, workdir, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert cli(QUICK, "--epochs", "2", "--run-name", "a").status == 130
    (workdir / "runs").rename(workdir / "elsewhere")
    learns("--resume --run-name a --runs-dir elsewhere")
    assert (workdir / "elsewhere/a/summary.json").is_file() and not (workdir / "runs").exists()


def test_averaged_weights_are_a_starting_point_where_they_were_selected(learns, workdir):
    learns(QUICK, "--epochs", "1", "--ema", "0.5", "--val-fraction", "0", "--run-name", "a")
    content = torch.load(workdir / "runs/a/best.pth", weights_only=True)
    assert content["best"]["weights"] == "ema"
    read = read_state_dict(workdir / "runs/a/best.pth")
    assert_same(dict(read), dict(content["ema"]))


def test_a_damaged_image_in_a_streamed_set_ends_the_run_and_is_named(cli, image_folder):
    path = image_folder(side=80)
    damaged = path / "train/class1/3.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    result = cli(f"--dataset folder --datapath {path} --model resnet20 --img-size 32 --epochs 1 --num-workers 1")
    assert result.status in (1, 2)
    assert str(damaged) in result.err and len(result.err.splitlines()) == 1


def run_python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPO), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("flags", ["--help", "--model resnet181", "--lr -1", "--model vit_tiny --se", ""])
def test_help_and_bad_requests_import_nothing_heavy(tmp_path, flags):
    code = f"""
import sys
sys.argv = ["main.py", *{flags.split()!r}]
import main
try:
    main.run_script(main.main)
except SystemExit:
    pass
heavy = {{"torch", "torchvision", "timm", "numpy", "sklearn", "matplotlib", "wandb", "torchmetrics"}} & set(sys.modules)
assert not heavy, heavy
"""
    result = run_python(code, tmp_path)
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_main_leaves_with_its_status(tmp_path):
    command = [sys.executable, str(REPO / "main.py"), "--model", "resnet19"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2
    assert result.stderr.startswith("main.py: error: unknown model 'resnet19'. Did you mean resnet9 or resnet18")
    assert len(result.stderr.splitlines()) == 1 and "Traceback" not in result.stderr


@pytest.mark.parametrize("metric", ["map", "f1", "loss"])
def test_the_best_epoch_is_chosen_by_the_metric_that_is_asked_for(learns, workdir, metric):
    learns(QUICK, "--epochs", "4", "--lr", "0.3", "--select-by", metric, "--run-name", "a")
    rows, summary = read_metrics(workdir / "runs/a"), read_summary(workdir / "runs/a")
    values = [float(row[f"val_{metric}"]) for row in rows]
    best = min(values) if metric == "loss" else max(values)
    assert values[summary["best_epoch"] - 1] == best
    assert summary["selected_by"] == metric


def test_the_normalisation_that_is_asked_for_goes_into_the_checkpoint_and_is_used(learns, workdir):
    learns(QUICK, "--epochs", "1", "--normalization", "half", "--run-name", "a")
    content = torch.load(workdir / "runs/a/best.pth", weights_only=True)
    assert (list(content["mean"]), list(content["std"])) == ([0.5], [0.5])
    learns("--evaluate runs/a/best.pth")
    assert read_summary(workdir / "runs/a-on-digits")["loss"] == read_summary(workdir / "runs/a")["loss"]


def test_a_frozen_backbone_is_left_as_it_came(learns, workdir):
    learns(QUICK, "--epochs", "1", "--run-name", "a")
    learns(f"{QUICK} --epochs 1 --run-name b --weights runs/a/best.pth --freeze backbone --seed 1")
    before, after = (torch.load(workdir / f"runs/{name}/best.pth", weights_only=True)["model"] for name in "ab")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"fc.weight", "fc.bias"}
    assert read_summary(workdir / "runs/b")["trained_params"] == 64 * 10 + 10


@pytest.mark.parametrize(
    ("model", "size"), [("vit_b_16", "224"), ("vit_b_32", "224"), ("vit_l_16", "224"), ("vit_tiny", "32")]
)
def test_cifar_is_enlarged_for_models_that_are_made_for_224_px(learns, model, size):
    line = next(line for line in learns("--list-models", model).out.splitlines() if line.startswith(f"{model} "))
    assert line.split()[1] == size


@pytest.mark.auto_precision
def test_a_model_with_two_heads_resumes_with_the_same_bits(cli, learns, workdir, monkeypatch):
    """Also with dropout, stochastic depth, layer-wise learning rate decay and a learning rate of the heads' own."""
    line = (
        "--dataset digits --train-fraction 0.2 --model deit_tiny_distill --depth 2 --embed-dim 48 --drop-path 0.2"
        " --dropout 0.1 --optimizer adamw --layer-decay 0.7 --head-lr 0.01 --epochs 3"
    )
    learns(line, "--run-name", "whole")
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert cli(line, "--run-name", "cut").status == 130
    learns("--resume --run-name cut")
    whole, cut = (torch.load(workdir / f"runs/{name}/last.pth", weights_only=True) for name in ("whole", "cut"))
    for key in ("model", "optimizer", "history"):
        assert_same(cut[key], whole[key], key)


def test_published_weights_get_the_pixels_that_they_were_trained_on():
    assert models.published_statistics("timm/vit_tiny_patch16_224") == ((0.5,) * 3, (0.5,) * 3)
    assert models.published_statistics("timm/resnet18") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert models.published_statistics("resnet18") is None


def test_a_run_may_be_resumed_with_the_flags_that_started_it(cli, learns, workdir, monkeypatch):
    line = f"{QUICK.replace('resnet20', 'resnet18')} --stem auto --widths 8,8,8,8 --epochs 2 --run-name a"
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert cli(line).status == 130
    refused = cli("--resume --run-name a --widths 8,8,8,16")
    assert (
        refused.status == 2 and "--widths [8, 8, 8, 16]: the run to be resumed has --widths [8, 8, 8, 8]" in refused.err
    )
    learns(line, "--resume")


@pytest.mark.parametrize("settings", ["{}", '{"model": 3, "model_args": {}}', '{"model": "resnet18"}'])
def test_damaged_settings_are_named_when_a_run_is_resumed(cli, workdir, settings):
    (workdir / "runs/a").mkdir(parents=True)
    (workdir / "runs/a/settings.json").write_text(f'{{"settings": {settings}}}')
    result = cli("--resume --run-name a")
    assert result.status == 2 and "settings.json: damaged, or written by another version" in result.err
