"""Speed of the input: small images, resizing, mixing, JPEG files. `python -m benchmarks.input --help`."""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import (
    SUITE,
    TIMM,
    USUAL,
    Bench,
    How,
    RealImages,
    locate_images,
    read,
    script,
)
from benchmarks.timing import Repeated, images_per_second, milliseconds
from settings.flag import flag, same_flag
from settings.flag_types import COUNT
from utils import BadRequest

if TYPE_CHECKING:
    import torch

    from image_datasets.dataset import Dataset

DESCRIPTION = """Images per second of the input: Pillow, torchvision's transforms and a DataLoader of 2 workers, and
timm's loader, against the suite's batches. Setting up, to the first batch, is measured apart."""

# fmt: off


@dataclass(frozen=True, kw_only=True)
class Request(How):
    """Flags of this benchmark."""

    batch_size: int = flag("images in a batch", 128, check=COUNT, metavar="N")
    img_size: int = flag("side of the images that are resized, mixed and decoded", 224, check=COUNT, metavar="PX")
    images: int = flag("small images in the set", 50_000, check=COUNT, metavar="N")
    data: str | None = same_flag(RealImages, "data")


# fmt: on
QUICK = {"images": 256, "batch_size": 8, "img_size": 48}
FILES = 128  # synthetic JPEG files: more than a batch, few enough for the disk cache
SIDE = 32


def main(argv: list[str] | None = None) -> int:
    request = read(argv, DESCRIPTION, Request, QUICK)
    found = locate_images(request.data)
    if request.batch_size % 2:
        raise BadRequest(f"--batch-size {request.batch_size}: timm's Mixup needs an even number")
    if request.images < request.batch_size:
        raise BadRequest(f"--images {request.images}: is less than one batch of {request.batch_size}")
    from benchmarks import data, hardware, implementations, ours

    real = None if found is None else data.from_folder(found, request.images)
    small = real if real is not None and real.side is not None else data.small_images(request.images, SIDE)
    if len(small.train) < request.batch_size:
        raise BadRequest(f"--data {request.data}: has fewer training images than one batch of {request.batch_size}")
    bench, device = implementations.start("input", request)
    bench.ceilings["copy"] = hardware.copy_rate(device, request.seconds, request.repeats, request.quick)
    if real is not None:
        print(f"{'small images' if real is small else 'JPEG files'}: {len(real.train):,} from {request.data}")
    with ours.machine_errors_as_run_failed(), tempfile.TemporaryDirectory() as folder:
        for img_size in dict.fromkeys((small.side, request.img_size)):
            small_images(bench, request, small, img_size, device)
        for kind in ("cutmix", "mixup"):
            mixing(bench, request, kind, device)
        if real is None or real.side is not None:
            large = data.jpeg_files(Path(folder), 4 if request.quick else FILES)
        else:
            large = real
        image_files(bench, request, large, Path(folder), device)
    return bench.finish()


def small_images(bench: Bench, request: Request, dataset: Dataset, img_size: int, device: torch.device) -> None:
    """Adds a row for random crop, flip, resizing if `img_size` differs from the images', and normalisation."""
    from benchmarks import baseline, hardware, implementations

    synchronize = hardware.synchronizer(device)
    resized = img_size != dataset.side

    def make(name: str):
        batches = implementations.small_batches(name, dataset, img_size, request.batch_size, device)
        return implementations.epochs(name, batches, device)

    def first_batch(name: str) -> float:
        began = time.perf_counter()
        batches = iter(make(name)(0))  # kept alive while the clock runs: deleting it stops the workers
        next(batches)
        synchronize()
        return time.perf_counter() - began

    sides = {}
    for name in (USUAL, TIMM, SUITE):
        workers = 0 if name == SUITE else baseline.WORKERS
        sides[name] = functools.partial(images_per_second, make(name), request.seconds, synchronize, workers)
    moved = 3 * (dataset.side**2 + 4 * img_size**2)  # bytes: read as uint8, written as float32
    limits = {SUITE: (bench.ceilings["copy"]["high"] / moved, "copy")}
    size = f"{dataset.side} -> {img_size} px: crop, flip, resize" if resized else f"{dataset.side} px: crop, flip"
    bench.compare(
        f"{size}, normalise; batch {request.batch_size}", "images/s", sides, higher_is_better=True, limits=limits
    )
    if not resized:
        sides = {name: functools.partial(first_batch, name) for name in sides}
        bench.compare(f"setting up for {len(dataset.train):,} such images, to the first batch", "s", sides)


def mixing(bench: Bench, request: Request, kind: str, device: torch.device) -> None:
    """Adds a row for CutMix or MixUp of one batch, in place, by timm and the suite, each in its own memory format."""
    import torch

    from benchmarks import baseline, hardware
    from benchmarks.data import CLASSES
    from data_transform import Mix

    mixes = {TIMM: baseline.timm_mixup(kind, CLASSES), SUITE: Mix(kind, CLASSES, 1.0, 0.8, 1.0)}
    formats = {TIMM: torch.contiguous_format, SUITE: torch.channels_last}
    targets = torch.randint(CLASSES, (request.batch_size,), device=device)
    plain = torch.randn(request.batch_size, 3, request.img_size, request.img_size, device=device)

    def side(name: str) -> Repeated:
        images = plain.clone(memory_format=formats[name])

        def work(count: int) -> None:
            for _ in range(count):
                mixes[name](images, targets)

        return Repeated(work, request.seconds, hardware.synchronizer(device), milliseconds)

    limits = {}
    if kind == "mixup":  # reads and writes every pixel; CutMix only a random box
        limits = dict.fromkeys(mixes, (1e3 * 2 * 4 * plain.numel() / bench.ceilings["copy"]["high"], "copy"))
    what = f"{kind} of {request.batch_size} images of {request.img_size} px"
    bench.compare(what, "ms", {name: side(name) for name in mixes}, limits=limits)


def image_files(bench: Bench, request: Request, dataset: Dataset, folder: Path, device: torch.device) -> None:
    """Adds rows for decoding, random resized crop, flip and normalisation in this process.

    The rate is per second of processor time: per core, whatever the number of threads, and little disturbed by other
    processes. The suite reads the files, and resized copies that it makes in `folder`.
    """
    import torch

    from benchmarks import baseline, hardware, implementations, ours
    from image_datasets import resized
    from image_datasets.resized.making import Form, complete

    batch_size = min(request.batch_size, len(dataset.train), 32)
    transform = baseline.large_transform(request.img_size, dataset.mean, dataset.std)
    files = baseline.ImageFiles(dataset.train, transform)
    theirs = implementations.epochs(USUAL, baseline.train_loader(files, batch_size, device, workers=0), device)

    def side(epochs: Callable[[int], Iterable]) -> float:
        torch.set_num_threads(1)
        try:
            return images_per_second(epochs, request.seconds, hardware.synchronizer(device), clock=time.process_time)
        finally:
            torch.set_num_threads(baseline.THREADS)

    for kind in (None, *resized.KINDS):
        split = dataset.train
        if kind is not None:
            form = Form(kind, resized.short_side(request.img_size), 3, split.reading)
            copies = complete(folder / kind, form, "", split.paths, baseline.WORKERS, skip_bad=False)
            split = replace(split, copies=copies)
        images = replace(dataset, train=split)
        streamed = ours.streamed_batches(images, request.img_size, batch_size, device, workers=0)
        what = (
            f"JPEG: random resized crop {request.img_size}, flip, normalise{f'; {kind} copy' if kind else ''}; per core"
        )
        sides = {USUAL: functools.partial(side, theirs), SUITE: functools.partial(side, streamed.epoch)}
        bench.compare(what, "images/s", sides, higher_is_better=True)


if __name__ == "__main__":
    sys.exit(script(main))
