"""Speed of evaluation. `python -m benchmarks.inference --help`."""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import cases
from benchmarks.cases import CaseFlags
from benchmarks.common import SUITE, USUAL, Bench, How, read, script
from benchmarks.timing import Repeated
from settings.flag import same_flag

if TYPE_CHECKING:
    import torch

DESCRIPTION = """Images per second of evaluation: float32, contiguous and .item() every batch, with batches that lie
ready, against the suite's, which normalises its batches of bytes each time as it does after every epoch."""

# fmt: off


@dataclass(frozen=True, kw_only=True)
class Request(How):
    """Flags of this benchmark."""

    model: list[str] | None = same_flag(CaseFlags, "model")
    batch_size: int | None = same_flag(CaseFlags, "batch_size")
    img_size: int | None = same_flag(CaseFlags, "img_size")
    precision: str = same_flag(CaseFlags, "precision")


# fmt: on


def main(argv: list[str] | None = None) -> int:
    request = read(argv, DESCRIPTION, Request, {"batch_size": 4})
    from benchmarks import implementations

    return implementations.over_cases("inference", request, compare_evaluations)


def compare_evaluations(
    bench: Bench, request: Request, case: cases.Case, device: torch.device, precisions: dict[str, str]
) -> None:
    """Adds one row; both sides have the same weights."""
    import torch

    from benchmarks import baseline, data, hardware, implementations, ours
    from benchmarks.work import work_of
    from image_datasets.batches import EvalBatches
    from models.fast_layers import use_plain_layers
    from training.evaluation import evaluate

    plain = use_plain_layers(implementations.make_model(case, data.CLASSES)).to(device).eval()
    own = implementations.make_model(case, data.CLASSES).to(device, memory_format=torch.channels_last).eval()
    dataset = data.small_images(case.batch, case.img_size)
    batches = EvalBatches(dataset.test, case.img_size, dataset.mean, dataset.std, device, case.batch)
    images, targets = next(iter(batches))
    ready = (images.contiguous(), targets)

    works = {
        USUAL: lambda count: baseline.evaluate(plain, itertools.repeat(ready, count), device),
        SUITE: lambda count: evaluate(own, ours.RepeatedBatches(batches, count), data.CLASSES, precisions[SUITE]),
    }
    synchronize = hardware.synchronizer(device)
    sides = {
        name: Repeated(evaluations, request.seconds, synchronize, lambda seconds: case.batch / seconds)
        for name, evaluations in works.items()
    }
    work = work_of(case, data.CLASSES, training=False)
    used = {name: precisions[name] for name in works}
    limits = implementations.limits(bench, used, device, work, lambda seconds: 1 / seconds)
    bench.compare(case.title, "images/s", sides, higher_is_better=True, limits=limits)


if __name__ == "__main__":
    sys.exit(script(main))
