"""The implementations that are compared, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

import models
from benchmarks import baseline, hardware, ours
from benchmarks.cases import Case, choose
from benchmarks.common import SUITE, TIMM, USUAL, Bench, How
from benchmarks.data import CLASSES
from benchmarks.work import Work
from image_datasets.dataset import Dataset
from models.fast_layers import use_plain_layers
from training.devices import choose_precision

MEMORY = "copy"  # name of the rate at which memory is read and written


def start(name: str, request: How) -> tuple[Bench, torch.device]:
    """Returns (the benchmark `name`, device), after printing the header."""
    device = ours.set_up(request.device)
    bench = Bench(name, request, hardware.facts(device))
    bench.prepare = {USUAL: baseline.set_up, TIMM: baseline.set_up, SUITE: lambda: ours.set_up(request.device)}
    return bench, device


def precisions_of(bench: Bench, request: Any, case: Case, device: torch.device) -> dict[str, str]:
    """The precision of each side for a case: "usual" computes in float32, the others as asked.

    With "auto" each gets what is fastest for it: on a CPU torch's own depthwise convolutions are slow in bf16. Measures
    the peak rates of these precisions if they are not known yet.
    """
    own, plain = make_model(case, CLASSES), use_plain_layers(make_model(case, CLASSES))
    compiled = getattr(request, "compile", False)
    chosen = {
        TIMM: choose_precision(request.precision, device, plain),
        SUITE: choose_precision(request.precision, device, own, fast=not compiled),
    }
    precisions = {USUAL: "fp32", **chosen}
    how = request.seconds, request.repeats, request.quick
    bench.prepare[SUITE]()
    for precision in sorted(set(precisions.values())):
        name = _ceiling(precision, device)
        if name not in bench.ceilings:
            bench.ceilings[name] = hardware.matrix_rate(device, precision, *how)
    if MEMORY not in bench.ceilings:
        bench.ceilings[MEMORY] = hardware.copy_rate(device, *how)
    return precisions


Compare = Callable[[Bench, Any, Case, torch.device, dict[str, str]], None]


def over_cases(name: str, request: Any, compare: Compare) -> int:
    """Runs the benchmark `name`: `compare` for every case. Returns the exit status."""
    bench, device = start(name, request)
    print(
        f"{request.precision} precision{', compiled' if getattr(request, 'compile', False) else ''}; {USUAL}: float32"
    )
    with ours.machine_errors_as_run_failed():
        for case in choose(request):
            compare(bench, request, case, device, precisions_of(bench, request, case, device))
    return bench.finish()


def limits(
    bench: Bench, precisions: dict[str, str], device: torch.device, work: Work, value: Callable[[float], float]
) -> dict[str, tuple[float, str]]:
    """For each side, the limit set by the rate of matrix products in its precision or by that of memory, and by which.

    Args:
        value: converts the least seconds per image to the row's unit.
    """
    found = {}
    for side, precision in precisions.items():
        name = _ceiling(precision, device)
        rates = bench.ceilings[name]["high"], bench.ceilings[MEMORY]["high"]
        seconds, by_memory = work.seconds(*rates, value_bytes=4 if precision == "fp32" else 2)
        found[side] = value(seconds), MEMORY if by_memory else name
    return found


def _ceiling(precision: str, device: torch.device) -> str:
    """The name of a rate. On CUDA all sides convolve in TF32 in fp32; only the suite also multiplies in it."""
    return f"{'TF32' if precision == 'fp32' and device.type == 'cuda' else precision} matrix product"


def make_model(case: Case, num_classes: int) -> torch.nn.Module:
    """The model of a case, always with the same weights."""
    torch.manual_seed(0)
    return models.create_model(case.model, num_classes, case.img_size, 3, **case.args)


def trainers(
    case: Case, num_classes: int, device: torch.device, precisions: dict[str, str], compile_model: bool = False
) -> dict[str, Any]:
    """A trainer for each side, of the same model with the same weights.

    Each has `model`, `optimizer` and `train(batches)`.
    """
    usual, timm = (use_plain_layers(make_model(case, num_classes)) for _ in range(2))
    own = make_model(case, num_classes)
    return {
        USUAL: baseline.Trainer(usual, case.optimizer, device),
        TIMM: baseline.TimmTrainer(timm, case.optimizer, device, precisions[TIMM], compile_model),
        SUITE: ours.Trainer(own, case.optimizer, device, num_classes, precisions[SUITE], compile_model),
    }


def small_batches(name: str, dataset: Dataset, img_size: int, batch_size: int, device: torch.device):
    """Training batches of small images with random crop and flip, for the trainer of that side."""
    split, mean, std = dataset.train, dataset.mean, dataset.std
    if name == SUITE:
        return ours.resident_batches(dataset, img_size, batch_size, device)
    if name == TIMM:
        return baseline.timm_loader(split, img_size, batch_size, mean, std, device)
    transform = baseline.small_transform(dataset.side, img_size, mean, std)
    return baseline.train_loader(baseline.SmallImages(split, transform), batch_size, device)


def epochs(name: str, batches: Any, device: torch.device) -> Callable[[int], Iterable]:
    """A function from the number of an epoch to its batches on the device."""
    return batches.epoch if name == SUITE else lambda epoch: baseline.on_device(batches, device)
