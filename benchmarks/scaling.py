"""Growth of cost with the number of images and of classes. `python -m benchmarks.scaling --help`."""

from __future__ import annotations

import functools
import gc
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import Bench, How, read, script
from benchmarks.timing import Repeated, images_per_second
from settings.flag import flag
from settings.flag_types import COUNT

if TYPE_CHECKING:
    import torch

    from image_datasets.dataset import Dataset

DESCRIPTION = """The suite with itself: some images or classes against ten times as many. What is shown counts per image
or per class, so that 1 in the column "times better" means that cost grows in proportion, and more that it grows less.
Memory is that of Python and NumPy, by tracemalloc, while an epoch over image files is drawn."""

# fmt: off


@dataclass(frozen=True, kw_only=True)
class Request(How):
    """Flags of this benchmark."""

    images: int = flag("small images in the smaller set", 5000, check=COUNT, metavar="N")
    files: int = flag("image files in the smaller set", 2000, check=COUNT, metavar="N")
    classes: int = flag("the smaller number of classes", 100, check=COUNT, metavar="N")
    batch_size: int = flag("images in a batch", 128, check=COUNT, metavar="N")


# fmt: on
QUICK = {"images": 64, "files": 32, "classes": 10, "batch_size": 8}
PREDICTIONS = 10_000  # scored at once
SIDE = 32


def main(argv: list[str] | None = None) -> int:
    request = read(argv, DESCRIPTION, Request, QUICK)
    from benchmarks import implementations

    bench, device = implementations.start("scaling", request)
    resident(bench, request, device)
    with tempfile.TemporaryDirectory() as folder:
        streamed(bench, request, Path(folder), device)
    classes(bench, request)
    return bench.finish()


def _sizes(count: int, noun: str) -> dict[str, int]:
    return {f"{n:,} {noun}": n for n in (count, 10 * count)}


def resident(bench: Bench, request: Request, device: torch.device) -> None:
    from benchmarks import data, hardware, ours

    sides = {}
    for name, count in _sizes(request.images, "images").items():
        batches = ours.resident_batches(data.small_images(count, SIDE), SIDE, request.batch_size, device)
        sides[name] = functools.partial(
            images_per_second, batches.epoch, request.seconds, hardware.synchronizer(device)
        )
    bench.compare(f"{SIDE} px images kept on the device: making batches", "images/s", sides, higher_is_better=True)


def streamed(bench: Bench, request: Request, folder: Path, device: torch.device) -> None:
    """Adds rows for image files: time and memory from reading the folder to the first batch, and rate of batches."""
    from benchmarks import hardware

    roots = {name: link_files(folder / str(n), n) for name, n in _sizes(request.files, "files").items()}
    counts = _sizes(request.files, "files")

    def start(name: str) -> float:
        began = time.perf_counter()
        next(_epoch(roots[name], request.batch_size, device)(0))
        return 1e6 * (time.perf_counter() - began) / counts[name]

    def memory(name: str) -> float:
        gc.collect()
        tracemalloc.start()
        try:
            epoch = _epoch(roots[name], request.batch_size, device)(0)
            next(epoch)
            return tracemalloc.get_traced_memory()[0] / counts[name]
        finally:
            tracemalloc.stop()

    def rate(name: str) -> Callable[[], float]:
        epoch = _epoch(roots[name], request.batch_size, device)
        return lambda: images_per_second(epoch, request.seconds, hardware.synchronizer(device))

    bench.compare("image files: starting, to the first batch", "us an image", _each(start, counts))
    bench.compare("image files: memory", "bytes an image", _each(memory, counts))
    sides = {name: rate(name) for name in counts}
    bench.compare("image files: making batches", "images/s", sides, higher_is_better=True)


def _each(measure: Callable[[str], float], names) -> dict[str, Callable[[], float]]:
    return {name: functools.partial(measure, name) for name in names}


def link_files(root: Path, count: int) -> Path:
    """Makes a folder data set of `count` hard links to one small JPEG file, with names like ImageNet's. Returns it."""
    from PIL import Image

    root.mkdir()
    picture = root / "picture.jpg"
    Image.effect_noise((80, 72), 40).convert("RGB").save(picture)
    folders = [root / "train" / f"n{10_000_000 + i}" for i in range(10)]
    for folder in folders:
        folder.mkdir(parents=True)
    for i in range(count):
        folder = folders[i % 10]
        os.link(picture, folder / f"{folder.name}_{i}.JPEG")
    return root


def _epoch(root: Path, batch_size: int, device: torch.device):
    """A function from the number of an epoch to its batches, streamed from the data set in `root`."""
    import image_datasets
    from benchmarks import ours

    found = image_datasets.locate_dataset("folder", str(root), download=False, verify=True)
    dataset: Dataset = image_datasets.load_dataset(found)
    return ours.streamed_batches(dataset, SIDE, batch_size, device, workers=0).epoch


def classes(bench: Bench, request: Request) -> None:
    """Adds a row for the report on the predictions of a split."""
    import torch

    from training.metrics import report

    def side(count: int) -> Repeated:
        images = 10 * count if request.quick else PREDICTIONS
        logits, targets = torch.randn(images, count), torch.arange(images) % count
        names = [f"class{i}" for i in range(count)]

        def work(times: int) -> None:
            for _ in range(times):
                report(logits, targets, names)

        return Repeated(work, request.seconds, lambda: None, lambda seconds: 1e6 * seconds / count)

    sides = {name: side(count) for name, count in _sizes(request.classes, "classes").items()}
    bench.compare("scoring a split's answers", "us a class", sides)


if __name__ == "__main__":
    sys.exit(script(main))
