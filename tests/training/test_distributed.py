"""Several processes train one model on CPUs, with gloo."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import finish, start_many, wait_for_saves
from test_main import REPO, assert_same_run

from data_transform import Augment
from image_datasets.batch_plan import batch_bounds, share_of
from image_datasets.batches import ResidentTrainBatches
from image_datasets.splits import Split
from utils import BadRequest

# Each process draws its own augmentation and has its own batch norm, so the tests that compare use neither.
PLAIN = (
    "--dataset digits --train-fraction 0.5 --model vit_tiny --depth 2 --embed-dim 48 --num-heads 2 --no-flip"
    " --crop none --optimizer adamw --ema 0.9 --accumulate 2 --epochs 2 --precision fp32"
)
BATCH_NORM = "--dataset digits --train-fraction 0.3 --model resnet20 --augmentation cutmix --ema 0.9 --batch-size 16"


@pytest.fixture
def together(workdir):
    """Runs a command line in several processes. Returns what they print and their exit statuses."""

    def run(count: int, command: str, *more: str) -> tuple[str, list[int]]:
        log = workdir / "log"
        log.write_text("")
        statuses = [finish(process) for process in start_many(count, [*command.split(), *more], workdir, log)]
        return log.read_text(), statuses

    return run


def metrics(directory: Path) -> list[dict[str, float]]:
    with (directory / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [20, 23, 47, 61])
def test_every_image_is_in_one_part_of_one_batch(count, ranks):
    bounds = batch_bounds(count, 4, ranks)
    parts = [[share_of(bound, rank, ranks) for bound in bounds] for rank in range(ranks)]
    seen = [i for own in parts for bound in own for i in range(*bound)]
    assert sorted(seen) == list(range(count))
    sizes = [end - start for own in parts for start, end in own]
    assert min(sizes) >= 2  # batch norm of a single image may be undefined


def test_two_processes_give_the_loss_curve_of_one_with_batches_twice_as_large(together, learns, workdir):
    out, statuses = together(2, PLAIN, "--batch-size", "16", "--run-name", "two")
    assert statuses == [0, 0], out
    assert out.count("processes     2: batches of 16 images each, 32 in all") == 1
    assert out.count("epoch 1/2") == 1  # only rank 0 prints
    learns(PLAIN, "--batch-size", "32", "--run-name", "one")
    for one, two in zip(metrics(workdir / "runs/one"), metrics(workdir / "runs/two"), strict=True):
        assert one == pytest.approx(two, rel=1e-4)
    summary = json.loads((workdir / "runs/two/summary.json").read_text())
    assert summary["processes"] == 2
    assert summary["images"]["test"] == 359  # a prime: the processes have different numbers of images
    with np.load(workdir / "runs/one/predictions.npz") as one, np.load(workdir / "runs/two/predictions.npz") as two:
        assert one["targets"].tolist() == two["targets"].tolist()
        assert np.allclose(one["logits"], two["logits"], atol=1e-3)
        assert summary["top1"] == pytest.approx((two["logits"].argmax(1) == two["targets"]).mean())


def test_batch_normalisation_is_validated_as_it_is_saved(together, learns, workdir):
    """Every process validates with the statistics of rank 0, which the checkpoint holds."""
    out, statuses = together(2, f"{BATCH_NORM} --epochs 1 --lr 0.01 --run-name a")
    assert statuses == [0, 0], out
    learns("--evaluate runs/a/best.pth --run-name again")
    summaries = [json.loads((workdir / f"runs/{name}/summary.json").read_text()) for name in ("a", "again")]
    assert summaries[0]["top1"] == summaries[1]["top1"]
    assert summaries[0]["loss"] == pytest.approx(summaries[1]["loss"], rel=1e-5)


@pytest.mark.slow
def test_a_process_without_a_validation_batch_waits_for_none(workdir):
    """The 144 validation images are one batch, which rank 0 has."""
    log = workdir / "log"
    line = "--dataset digits --model resnet20 --train-fraction 0.3 --epochs 2 --batch-size 256 --run-name a"
    processes = start_many(2, [*line.split(), "--ema", "0.9"], workdir, log)
    try:
        assert [finish(process, timeout=60) for process in processes] == [0, 0], log.read_text()
    finally:
        for process in processes:
            process.kill()
    assert len(metrics(workdir / "runs/a")) == 2


def test_a_signal_to_one_process_stops_all_and_they_go_on_with_the_same_bits(together, workdir):
    line = f"{BATCH_NORM} --epochs 3 --accumulate 2"
    assert together(2, f"{line} --run-name whole")[1] == [0, 0]
    log = workdir / "log"
    processes = start_many(2, f"{line} --run-name left --checkpoint-every 3".split(), workdir, log)
    assert wait_for_saves(processes[0], workdir / "runs/left/last.pth", 2)
    os.kill(processes[1].pid, signal.SIGTERM)
    assert [finish(process) for process in processes] == [143, 143], log.read_text()
    batch = torch.load(workdir / "runs/left/last.pth", weights_only=True)["batch"]
    if batch:  # within an epoch the number of processes is fixed
        out, statuses = together(1, f"{line} --run-name left --resume")
        assert statuses == [2] and "the last checkpoint is of 2 processes, within epoch" in out
    out, statuses = together(2, f"{line} --run-name left --resume auto --checkpoint-every 600s")
    assert statuses == [0, 0] and "resumed       after epoch" in out, out
    assert_same_run(workdir / "runs/whole", workdir / "runs/left")


def test_all_processes_roll_back_together(together):
    """Each rate is too high, so the run ends after three times, in all processes alike."""
    out, statuses = together(2, f"{BATCH_NORM} --epochs 2 --lr 1e9 --on-nonfinite rollback --checkpoint-every 2")
    assert statuses == [1, 1], out
    assert out.count("rolled back ") == 3 and "not finite" in out


def test_another_number_of_processes_resumes_at_the_end_of_an_epoch_and_says_so(together, learns, cli, workdir):
    line = f"{BATCH_NORM} --epochs 2"
    assert together(2, f"{line} --run-name a")[1] == [0, 0]
    (workdir / "runs/a/summary.json").unlink()
    (workdir / "runs/a/previous.pth").replace(workdir / "runs/a/last.pth")  # the checkpoint of the first epoch
    result = learns("--resume --run-name a")
    assert "resumed       after epoch 1 of 2" in result.out
    assert "an epoch has 25 steps with 1 process(es) instead of 12" in result.out
    assert torch.load(workdir / "runs/a/last.pth", weights_only=True)["step"] == 50


def test_torchrun_starts_a_killed_worker_again_and_goes_on_from_the_last_checkpoint(together, workdir):
    line = f"{BATCH_NORM} --epochs 6"
    assert together(2, f"{line} --run-name whole --checkpoint-every 5")[1] == [0, 0]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", str(REPO / "main.py"), *line.split(), "--checkpoint-every", "5"]
    command += ["--run-name", "killed", "--wandb", "disabled"]
    job = subprocess.Popen(
        command, cwd=workdir, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while not (workdir / "runs/killed/previous.pth").is_file():
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.01)
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(job.pid)], capture_output=True, text=True).stdout
    os.kill(max(int(pid) for pid in listed.split()), signal.SIGKILL)
    output = job.communicate(timeout=240)[0]
    assert job.returncode == 0, output
    assert output.count("resumed       after epoch") == 1
    assert_same_run(workdir / "runs/whole", workdir / "runs/killed")


def test_commands_for_a_single_process_are_refused(together):
    for words, needle in (
        ("--evaluate best.pth", "--evaluate is for a single process"),
        ("--dataset digits --device cuda:1", "--gpu and --device cuda:N are for a single process"),
    ):
        out, statuses = together(2, words)
        assert statuses == [2, 2] and needle in out, out
        assert "Traceback" not in out


def test_fewer_images_than_processes_are_refused():
    split = Split(np.zeros(5, dtype=np.int64), np.zeros((5, 4, 4, 3), dtype=np.uint8))
    with pytest.raises(BadRequest, match="5 training images cannot be shared by 8 processes"):
        ResidentTrainBatches(split, Augment(), 4, (0.5,) * 3, (0.5,) * 3, torch.device("cpu"), 4, seed=0, world_size=8)


def test_scale_lr_multiplies_the_learning_rate_by_the_number_of_processes(together, workdir):
    line = f"{BATCH_NORM} --epochs 1 --lr 0.02 --schedule constant"
    out, statuses = together(2, f"{line} --run-name scaled --scale-lr")
    assert statuses == [0, 0] and "learning rate 0.04" in out, out
    assert metrics(workdir / "runs/scaled")[0]["lr"] == pytest.approx(0.04)


def test_synchronised_batch_normalisation_needs_several_processes_with_gpus(cli, together):
    result = cli("--dataset digits --sync-bn")
    assert result.status == 2 and "--sync-bn has no effect: there is a single process" in result.err
    if not torch.cuda.is_available():
        out, statuses = together(2, f"{BATCH_NORM} --sync-bn")
        assert 2 in statuses and "--sync-bn needs GPUs" in out
