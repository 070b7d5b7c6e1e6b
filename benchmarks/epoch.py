"""Time of an epoch of small images, end to end. `python -m benchmarks.epoch --help`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks import cases
from benchmarks.common import DATA, Bench, read, script
from settings.flag_types import COUNT
from settings.flags import Flag
from utils import BadRequest

if TYPE_CHECKING:
    import torch

    from image_datasets.registry import Dataset

DESCRIPTION = """One epoch with random crop and flip: Pillow, a DataLoader of 2 workers and a float32 loop, and timm's
loader and step, against the suite's batches and loop. What the batches alone take is shown apart."""
FLAGS = [
    replace(cases.MODEL, default=["resnet18"]),
    replace(cases.BATCH_SIZE, default=128),
    Flag("images", "images in the epoch", default=5000, check=COUNT, metavar="N"),
    replace(cases.OPTIMIZER, default="sgd"),
    cases.PRECISION,
    DATA,
]
QUICK = {"model": ["resnet20"], "images": 16, "batch_size": 4}
SIDE = 32


def main(argv: list[str] | None = None) -> int:
    s = read(argv, DESCRIPTION, FLAGS, QUICK)
    if s.images < s.batch_size:
        raise BadRequest(f"--images {s.images}: is less than one batch of {s.batch_size}")
    from benchmarks import data, implementations, ours

    dataset = data.small_images(s.images, SIDE, 10) if s.found is None else data.from_folder(s.found, s.images)
    if dataset.side is None:
        raise BadRequest(f"--data {s.data}: its images are not equally small")
    if len(dataset.train) < s.batch_size:
        raise BadRequest(f"--data {s.data}: has fewer training images than one batch of {s.batch_size}")
    bench, device = implementations.start("epoch", s)
    print(f"{len(dataset.train):,} images of {dataset.side} px; the suite's way and timm's in {s.precision} precision")
    with ours.machine_errors_as_run_failed():
        for name in s.model:
            case = cases.Case(name, dataset.side, s.optimizer, batch_size=s.batch_size)
            compare_epochs(bench, case, dataset, device, implementations.precision_of(bench, s, case, device))
    return bench.finish()


def compare_epochs(bench: Bench, case: cases.Case, dataset: Dataset, device: torch.device, precision: str) -> None:
    """Adds two rows: the whole epoch, with making its batches, and its batches without training."""
    import numpy as np

    from benchmarks import hardware, implementations

    num_classes = len(dataset.class_names)
    trainers = implementations.trainers(case, num_classes, device, precision)
    few = replace(dataset, train=dataset.train.subset(np.arange(min(2 * case.batch, len(dataset.train)))))
    flops = 3 * implementations.forward_flops(case, num_classes)  # backward: twice forward
    synchronize = hardware.synchronizer(device)

    def draw(name: str, batches: Any) -> None:
        for _ in implementations.epochs(name, batches, device)(0):
            pass

    def side(work: Callable[[str, Any], Any], name: str) -> Callable[[], float]:
        batches, small = (
            implementations.small_batches(name, part, case.img_size, case.batch, device) for part in (dataset, few)
        )
        return _Epoch(lambda: work(name, small), lambda: work(name, batches), synchronize)

    def train(name: str, batches: Any) -> None:
        trainers[name].train(batches)

    limits = implementations.limits(bench, tuple(trainers), precision, lambda rate: flops * len(dataset.train) / rate)
    size = f"{case.img_size} px, batch {case.batch}"
    bench.compare(f"an epoch of {case.title}", "s", {name: side(train, name) for name in trainers}, limits=limits)
    bench.compare(f"its batches alone, {size}", "s", {name: side(draw, name) for name in trainers})


class _Epoch:
    """Measures the seconds of whole epochs. The first measurement, the warm-up, takes two batches only."""

    def __init__(self, short: Callable[[], None], whole: Callable[[], None], synchronize: Callable[[], None]):
        self.short, self.whole, self.synchronize, self.warm = short, whole, synchronize, False

    def __call__(self) -> float:
        work = self.whole if self.warm else self.short
        self.warm = True
        self.synchronize()
        began = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(script(main))
