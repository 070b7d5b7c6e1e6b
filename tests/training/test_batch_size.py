"""How many images fit into memory: found by halving, and advised after a batch did not fit."""

import copy
import json

import pytest
import torch

from models.fast_layers import use_fast_layers
from models.matrix_units import MATRIX_UNITS, has_matrix_units
from training import batch_size, devices
from training.batch_size import largest_that_fits
from utils import RunFailed

QUICK = "--dataset digits --model resnet20 --epochs 1 --run-name a"
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def bounded(most: int):
    """A training step that runs out of GPU memory with more than `most` images."""

    def step(count: int) -> None:
        if count > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return step


@pytest.mark.slow
@pytest.mark.parametrize(("most", "found"), [(5000, 1024), (1024, 1024), (1023, 512), (3, 2), (1, 1), (0, None)])
def test_a_gpu_is_tried_with_half_as_many_until_they_fit(most, found):
    assert largest_that_fits(bounded(most), 1024, GPU) == found


@pytest.mark.parametrize(("reserved", "found"), [(0, 512), (100, 512), (101, 256), (901, None)])
def test_on_a_gpu_a_tenth_stays_free_beside_what_a_run_keeps(monkeypatch, reserved, found):
    """A card of 1,000 bytes; a step takes 800 bytes for 512 images. Trials of larger batches do not count."""
    peak = 0

    def step(count: int) -> None:
        nonlocal peak
        peak = max(peak, count * 800 / 512)

    def reset(device: torch.device) -> None:
        nonlocal peak
        peak = 0

    monkeypatch.setattr(batch_size, "gpu_memory", lambda device: 1000)
    monkeypatch.setattr(batch_size, "peak_memory", lambda device: peak)
    monkeypatch.setattr(batch_size, "reset_peak_memory", reset)
    assert largest_that_fits(step, 1024, GPU, reserved) == found


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "FIND was unable to find an engine to execute this computation",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_every_kind_of_lack_of_memory_halves_the_batch_and_is_one_line(message):
    def step(count: int) -> None:
        if count > 4:
            raise RuntimeError(message)

    assert largest_that_fits(step, 16, GPU) == 4
    failed = pytest.raises(RunFailed, match="not enough memory for 16 images")
    with failed, devices.machine_errors_as_run_failed(lambda: "16 images"):
        step(16)


def test_another_error_of_the_step_is_not_mistaken_for_lack_of_memory():
    def step(count: int) -> None:
        raise ValueError("of another kind")

    with pytest.raises(ValueError, match="of another kind"):
        largest_that_fits(step, 8, GPU)


@pytest.mark.parametrize(("images", "found"), [(1000, 512), (500, 256), (3, 2), (0.5, None)])
def test_on_a_cpu_the_memory_of_the_backward_pass_is_extrapolated(monkeypatch, images, found):
    weight = torch.ones(1000, requires_grad=True)

    def step(count: int) -> None:
        assert count <= 4, "a large batch must not be tried on a CPU"
        (weight * torch.rand(count, 1000)).exp().sum().backward()

    kept = 2 * 4 * 1000  # bytes per image: the factor of the weight, and the result of exp
    bound = images * kept / batch_size.MARGIN
    monkeypatch.setattr(batch_size, "available_memory", lambda: bound)
    assert largest_that_fits(step, 1024, CPU) == found


@pytest.mark.auto_precision
def test_auto_trains_with_what_fits_and_stores_it(learns, workdir, monkeypatch):
    monkeypatch.setattr(batch_size, "available_memory", lambda: 32e6)
    result = learns(f"{QUICK} --batch-size auto")
    stored = json.loads((workdir / "runs/a/settings.json").read_text())["settings"]["batch_size"]
    assert 1 < stored < 1024 and f"batch size    {stored}," in result.out
    monkeypatch.setattr(batch_size, "available_memory", lambda: 8e6)
    result = learns(f"{QUICK} --batch-size auto --overwrite")
    assert json.loads((workdir / "runs/a/settings.json").read_text())["settings"]["batch_size"] < stored


@pytest.mark.auto_precision
def test_auto_is_at_most_the_training_set(learns, workdir):
    learns(f"{QUICK} --batch-size auto --train-fraction 0.1")
    assert json.loads((workdir / "runs/a/settings.json").read_text())["settings"]["batch_size"] == 128  # of 129 images


def test_if_not_even_one_image_fits_nothing_is_written(cli, workdir, monkeypatch):
    monkeypatch.setattr(batch_size, "available_memory", lambda: 1000)
    result = cli(f"{QUICK} --batch-size auto")
    assert result.status == 1 and "not enough memory for a batch of one image" in result.err
    assert not (workdir / "runs/a").exists()


@pytest.mark.parametrize(("units", "elsewhere", "precision"), [("off", "on", "fp32"), ("on", "off", "bf16")])
def test_a_resumed_run_keeps_the_size_and_the_precision_that_were_found(
    cli, learns, workdir, monkeypatch, units, elsewhere, precision
):
    """Also on a machine where auto would choose others."""
    monkeypatch.setenv(MATRIX_UNITS, units)
    monkeypatch.setattr(batch_size, "available_memory", lambda: 32e6)
    learns(f"{QUICK} --batch-size auto --precision auto")
    stored = json.loads((workdir / "runs/a/settings.json").read_text())["settings"]
    assert stored["precision"] == precision
    (workdir / "runs/a/summary.json").unlink()
    monkeypatch.setenv(MATRIX_UNITS, elsewhere)
    monkeypatch.setattr(batch_size, "available_memory", lambda: 1e12)
    learns("--resume --run-name a --batch-size auto --precision auto")
    resumed = json.loads((workdir / "runs/a/summary.json").read_text())
    assert resumed["settings"]["batch_size"] == stored["batch_size"]
    assert resumed["settings"]["precision"] == resumed["train_precision"] == precision
    result = cli("--resume --run-name a --batch-size", str(2 * stored["batch_size"]))
    assert result.status == 2 and "--batch-size" in result.err


def test_auto_precision_follows_device_and_architecture(monkeypatch):
    dense = torch.nn.Conv2d(8, 8, 3)
    depthwise = torch.nn.Sequential(dense, torch.nn.Conv2d(8, 8, 3, padding=1, groups=8))
    grouped = torch.nn.Conv2d(8, 8, 3, groups=2)
    fast = use_fast_layers(copy.deepcopy(depthwise))
    unpadded = use_fast_layers(torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, groups=8)))
    for units, expected in (("on", ["bf16", "fp32", "bf16", "bf16"]), ("off", ["fp32"] * 4)):
        monkeypatch.setenv(MATRIX_UNITS, units)
        chosen = [devices.choose_precision("auto", CPU, model) for model in (dense, depthwise, grouped, fast)]
        assert chosen == expected
        assert devices.choose_precision("auto", CPU, unpadded) == "fp32"
        assert devices.choose_precision("auto", CPU, fast, fast=False) == "fp32"  # compiled, or contiguous
    assert devices.choose_precision("bf16", CPU, depthwise) == "bf16"


def test_without_the_environment_variable_the_cpu_decides(monkeypatch):
    monkeypatch.delenv(MATRIX_UNITS, raising=False)
    for there in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda there=there: there)
        assert has_matrix_units() is there


def test_an_unknown_value_of_the_environment_variable_is_refused(cli, monkeypatch):
    monkeypatch.setenv(MATRIX_UNITS, "yes")
    result = cli(QUICK)
    assert (
        result.status == 2 and "SUITE_MATRIX_UNITS=yes: this environment variable is neither on nor off" in result.err
    )
