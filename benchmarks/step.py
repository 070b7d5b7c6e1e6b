"""Speed of a training step on a ready batch. `python -m benchmarks.step --help`."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import cases
from benchmarks.cases import CaseFlags
from benchmarks.common import SUITE, TIMM, USUAL, Bench, read, script
from benchmarks.timing import Repeated, milliseconds
from settings.flag import flag

if TYPE_CHECKING:
    import torch

DESCRIPTION = """One training step on a batch that lies ready: float32, contiguous, the optimiser's default and .item()
every step, and timm's step (channels-last, autocast), against the suite's loop. The optimiser's part is shown apart."""

# fmt: off


@dataclass(frozen=True, kw_only=True)
class Request(CaseFlags):
    """Flags of this benchmark."""

    compile: bool = flag("compile the model, in the suite's way and in timm's", False)


# fmt: on


def main(argv: list[str] | None = None) -> int:
    request = read(argv, DESCRIPTION, Request, {"batch_size": 4})
    from benchmarks import implementations

    return implementations.over_cases("step", request, compare_steps)


def compare_steps(
    bench: Bench, request: Request, case: cases.Case, device: torch.device, precisions: dict[str, str]
) -> None:
    """Adds two rows: whole steps, and the optimiser alone."""
    import torch

    from analysis.speed import ReadyBatches
    from benchmarks import hardware, implementations
    from benchmarks.data import CLASSES
    from benchmarks.work import work_of
    from training.devices import input_dtype

    trainers = implementations.trainers(case, CLASSES, device, precisions, request.compile)
    images = torch.randn(case.batch, 3, case.img_size, case.img_size, device=device)
    targets = torch.randint(CLASSES, (case.batch,), device=device)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    dtype = input_dtype(device, precisions[SUITE])
    batches = {
        USUAL: lambda count: itertools.repeat((images, targets), count),
        TIMM: lambda count: itertools.repeat((channels_last, targets), count),
        SUITE: lambda count: ReadyBatches(channels_last.to(dtype), targets, count),
    }

    def steps(name: str) -> Callable[[int], None]:
        return lambda count: trainers[name].train(batches[name](count))

    def optimizer_steps(name: str) -> Callable[[int], None]:
        for parameter in trainers[name].model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-6)

        def work(count: int) -> None:
            for _ in range(count):
                trainers[name].optimizer.step()

        return work

    synchronize = hardware.synchronizer(device)
    work = work_of(case, CLASSES, training=True)
    limits = implementations.limits(bench, precisions, device, work, lambda seconds: 1000 * seconds * case.batch)
    for title, steps_of, reachable in (
        (case.title, steps, limits),
        (f"{case.title}: {case.optimizer} alone", optimizer_steps, {}),
    ):
        sides = {name: Repeated(steps_of(name), request.seconds, synchronize, milliseconds) for name in trainers}
        bench.compare(title, "ms a step", sides, limits=reachable)


if __name__ == "__main__":
    sys.exit(script(main))
