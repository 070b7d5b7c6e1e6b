"""Calls of the host in a training step; on CUDA also kernels and waits. `python -m benchmarks.calls --help`."""

from __future__ import annotations

import collections
import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import How, read, script
from settings.flag import flag
from settings.flag_types import COUNT, one_of
from utils import write_json

if TYPE_CHECKING:
    import torch

    from analysis.speed import SteadyTrainer
    from image_datasets.batches import ResidentTrainBatches

DESCRIPTION = """Calls that the host makes in a training step, with and without the step's batch: where batches are
small they bound a GPU, at about 7 microseconds each. Views do not count. On CUDA it also prints kernels, the time they
take, and where a step waits for the device, which should be nowhere."""

# fmt: off


@dataclass(frozen=True, kw_only=True)
class Request(How):
    """Flags of this benchmark."""

    batch_size: int = flag("images in a batch", 512, check=COUNT, metavar="N")
    precision: str = flag("fp32 or bf16", "bf16", check=one_of("fp32", "bf16"), metavar="KIND")


# fmt: on


@dataclass(frozen=True)
class Step:
    """A kind of step: model, optimiser, and augmentation of images of 32 px."""

    model: str
    optimizer: str
    augment: dict[str, Any]
    mix: str = "none"

    @property
    def title(self) -> str:
        augmented = [self.augment.get("crop", ""), self.augment.get("policy", "")]
        augmented += ["erasing"] if "erasing" in self.augment else []
        return " + ".join(
            word for word in (self.model, self.optimizer, *augmented, self.mix) if word not in ("", "none")
        )


PAD = {"crop": "pad", "padding": 4, "flip": True}
RANDOM = {"policy": "randaugment", "erasing": 0.25}
STEPS = [
    Step("airbench94", "muon-sgd", {**PAD, "padding": 2}),
    Step("resnet9", "muon-sgd", {**PAD, "padding": 2}),
    Step("resnet18", "sgd", PAD, "cutmix"),
    Step("resnet50", "sgd", {**PAD, "erasing": 0.25}, "cutmix"),
    Step("mobilenet_v2", "sgd", PAD),
    Step("vit_tiny", "adamw", {"crop": "resized", "flip": True, **RANDOM}, "cutmix+mixup"),
]
QUICK_STEPS = [Step("resnet20", "sgd", {**PAD, **RANDOM}, "cutmix")]


def main(argv: list[str] | None = None) -> int:
    request = read(argv, DESCRIPTION, Request, {"batch_size": 16})
    from benchmarks import hardware, ours

    device = ours.set_up(request.device)
    facts = hardware.facts(device)
    print(f"benchmarks.calls; torch {facts['versions']['torch']}, {facts['gpu'] or facts['cpu']}, batches of"
          f" {request.batch_size}, {request.precision}")  # fmt: skip
    rows = []
    with ours.machine_errors_as_run_failed():
        for step in QUICK_STEPS if request.quick else STEPS:
            rows.append({"step": step.title, **look_at(step, request, device)})
            print(_line(rows[-1]), flush=True)
    if request.json is not None:
        write_json(
            Path(request.json), {"benchmark": "calls", "settings": vars(request), "machine": facts, "rows": rows}
        )
    return 0


def look_at(step: Step, request: Request, device: torch.device) -> dict[str, Any]:
    """Returns "calls" of a step, "of_the_batch" of them, the "most_frequent" ones, and what a CUDA device tells."""
    trainer, batches = _prepare(step, request, device)
    steps = len(batches.sizes)
    trainer.train(batches)  # allocates, chooses algorithms
    batch = _counted(lambda: list(batches.epoch(0)))
    whole = _counted(lambda: trainer.train(batches))
    found: dict[str, Any] = {
        "calls": whole.total() / steps,
        "of_the_batch": batch.total() / steps,
        "most_frequent": {name: count / steps for name, count in whole.most_common(6)},
    }
    return found | (_cuda(lambda: trainer.train(batches), steps) if device.type == "cuda" else {})


def _prepare(step: Step, request: Request, device: torch.device) -> tuple[SteadyTrainer, ResidentTrainBatches]:
    """The suite's trainer and four batches of random images. Layers are torch's own, as on a GPU."""
    import models
    from benchmarks import data, ours
    from data_transform import Augment
    from image_datasets.batches import ResidentTrainBatches
    from models.fast_layers import use_plain_layers
    from training.devices import input_dtype

    model = use_plain_layers(models.create_model(step.model, data.CLASSES, 32, 3))
    trainer = ours.Trainer(model, step.optimizer, device, data.CLASSES, request.precision, False, step.mix)
    images = data.small_images(4 * request.batch_size, 32)
    dtype = input_dtype(device, request.precision)
    return trainer, ResidentTrainBatches(
        images.train, Augment(**step.augment), 32, images.mean, images.std, device, request.batch_size, 0, dtype=dtype
    )


def _counted(work: Callable[[], Any]) -> collections.Counter[str]:
    """The calls of operators that `work` makes, by name, views excepted."""
    from torch.utils._python_dispatch import TorchDispatchMode

    counts: collections.Counter[str] = collections.Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if not func.is_view:
                counts[str(func)] += 1
            return func(*args, **(kwargs or {}))

    with Count():
        work()
    return counts


def _cuda(work: Callable[[], Any], steps: int) -> dict[str, Any]:
    """Milliseconds and kernels of a step, how long the kernels take, and the lines of code that wait for the device."""
    import torch

    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    with _waits() as caught:
        work()
    with torch.profiler.profile() as profile:
        work()
        torch.cuda.synchronize()
    kernels = [
        event
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]
    return {
        "milliseconds": 1000 * seconds / steps,
        "kernels": len(kernels) / steps,
        "kernel_milliseconds": sum(event.time_range.elapsed_us() for event in kernels) / 1000 / steps,
        "waits": dict(collections.Counter(f"{Path(each.filename).name}:{each.lineno}" for each in caught)),
    }


@contextlib.contextmanager
def _waits() -> Iterator[list[warnings.WarningMessage]]:
    """Collects torch's warnings about waiting for the device."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode("default")
        caught[:] = [each for each in caught if "synchronizing" in str(each.message)]


def _line(row: dict[str, Any]) -> str:
    frequent = ", ".join(f"{name.removeprefix('aten.')} {count:.0f}" for name, count in row["most_frequent"].items())
    line = (
        f"{row['step']}: {row['calls']:.0f} calls a step, {row['of_the_batch']:.0f} of them for its batch ({frequent})"
    )
    if "kernels" not in row:
        return line
    waits = ", ".join(f"{place} {count}" for place, count in row["waits"].items()) or "none"
    busy = f"{row['kernels']:.0f} kernels in {row['kernel_milliseconds']:.2f} ms"
    return f"{line}; {row['milliseconds']:.2f} ms, {busy}, waits in four steps and the epoch's end: {waits}"


if __name__ == "__main__":
    sys.exit(script(main))
