"""Time of an epoch of small images, end to end. `python -m benchmarks.epoch --help`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks import cases
from benchmarks.cases import CaseFlags
from benchmarks.common import Bench, How, RealImages, locate_images, read, script
from settings.flag import flag, same_flag
from settings.flag_types import COUNT
from utils import BadRequest

if TYPE_CHECKING:
    import torch

    from image_datasets.dataset import Dataset

DESCRIPTION = """One epoch with random crop and flip: Pillow, a DataLoader of 2 workers and a float32 loop, and timm's
loader and step, against the suite's batches and loop. What the batches alone take is shown apart."""

# fmt: off


@dataclass(frozen=True, kw_only=True)
class Request(How):
    """Flags of this benchmark."""

    model: list[str] = same_flag(CaseFlags, "model", default=("resnet18",))
    batch_size: int = same_flag(CaseFlags, "batch_size", default=128)
    images: int = flag("images in the epoch", 5000, check=COUNT, metavar="N")
    optimizer: str = same_flag(CaseFlags, "optimizer", default="sgd")
    precision: str = same_flag(CaseFlags, "precision")
    data: str | None = same_flag(RealImages, "data")


# fmt: on
QUICK = {"model": ["resnet20"], "images": 16, "batch_size": 4}
SIDE = 32


def main(argv: list[str] | None = None) -> int:
    request = read(argv, DESCRIPTION, Request, QUICK)
    found = locate_images(request.data)
    if request.images < request.batch_size:
        raise BadRequest(f"--images {request.images}: is less than one batch of {request.batch_size}")
    from benchmarks import data, implementations, ours

    dataset = data.small_images(request.images, SIDE, 10) if found is None else data.from_folder(found, request.images)
    if dataset.side is None:
        raise BadRequest(f"--data {request.data}: its images are not equally small")
    if len(dataset.train) < request.batch_size:
        raise BadRequest(f"--data {request.data}: has fewer training images than one batch of {request.batch_size}")
    bench, device = implementations.start("epoch", request)
    images = f"{len(dataset.train):,} images of {dataset.side} px"
    print(f"{images}; the suite's way and timm's in {request.precision} precision")
    with ours.machine_errors_as_run_failed():
        for name in request.model:
            case = cases.Case(name, dataset.side, request.optimizer, batch_size=request.batch_size)
            compare_epochs(bench, case, dataset, device, implementations.precisions_of(bench, request, case, device))
    return bench.finish()


def compare_epochs(
    bench: Bench, case: cases.Case, dataset: Dataset, device: torch.device, precisions: dict[str, str]
) -> None:
    """Adds two rows: the whole epoch, with making its batches, and its batches without training."""
    import numpy as np

    from benchmarks import hardware, implementations
    from benchmarks.work import work_of

    num_classes = len(dataset.class_names)
    trainers = implementations.trainers(case, num_classes, device, precisions)
    few = replace(dataset, train=dataset.train.subset(np.arange(min(2 * case.batch, len(dataset.train)))))
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

    work, images = work_of(case, num_classes, training=True), len(dataset.train)
    limits = implementations.limits(bench, precisions, device, work, lambda seconds: seconds * images)
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
