"""Speed of the input: small images, resizing, mixing, JPEG files. `python -m benchmarks.input --help`."""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from benchmarks.common import (
    DATA,
    SUITE,
    TIMM,
    USUAL,
    Bench,
    read,
    script,
)
from benchmarks.timing import Repeated, images_per_second, milliseconds
from settings.flag_types import COUNT
from settings.flags import Flag
from utils import BadRequest

if TYPE_CHECKING:
    import torch

    from image_datasets.registry import Dataset

DESCRIPTION = """Images per second of the input: Pillow, torchvision's transforms and a DataLoader of 2 workers, and
timm's loader, against the suite's batches. Setting up, to the first batch, is measured apart."""
FLAGS = [
    Flag("batch-size", "images in a batch", default=128, check=COUNT, metavar="N"),
    Flag("img-size", "side of the images that are resized, mixed and decoded", default=224, check=COUNT, metavar="PX"),
    Flag("images", "small images in the set", default=50_000, check=COUNT, metavar="N"),
    DATA,
]
QUICK = {"images": 256, "batch_size": 8, "img_size": 48}
FILES = 128  # synthetic JPEG files: more than a batch, few enough for the disk cache
SIDE = 32


def main(argv: list[str] | None = None) -> int:
    s = read(argv, DESCRIPTION, FLAGS, QUICK)
    if s.batch_size % 2:
        raise BadRequest(f"--batch-size {s.batch_size}: timm's Mixup needs an even number")
    if s.images < s.batch_size:
        raise BadRequest(f"--images {s.images}: is less than one batch of {s.batch_size}")
    from benchmarks import data, hardware, implementations, ours

    real = None if s.found is None else data.from_folder(s.found, s.images)
    small = real if real is not None and real.side is not None else data.small_images(s.images, SIDE)
    if len(small.train) < s.batch_size:
        raise BadRequest(f"--data {s.data}: has fewer training images than one batch of {s.batch_size}")
    bench, device = implementations.start("input", s)
    bench.ceilings["copy"] = hardware.copy_rate(device, s.seconds, s.repeats, s.quick)
    if real is not None:
        print(f"{'small images' if real is small else 'JPEG files'}: {len(real.train):,} from {s.data}")
    with ours.machine_errors_as_run_failed(), tempfile.TemporaryDirectory() as folder:
        for img_size in dict.fromkeys((small.side, s.img_size)):
            small_images(bench, s, small, img_size, device)
        for kind in ("cutmix", "mixup"):
            mixing(bench, s, kind, device)
        if real is None or real.side is not None:
            large = data.jpeg_files(Path(folder), 4 if s.quick else FILES)
        else:
            large = real
        image_files(bench, s, large, Path(folder), device)
    return bench.finish()


def small_images(bench: Bench, s: SimpleNamespace, dataset: Dataset, img_size: int, device: torch.device) -> None:
    """Random crop, flip, where `img_size` is another than the images' resizing, normalisation."""
    from benchmarks import baseline, hardware, implementations

    synchronize = hardware.synchronizer(device)
    resized = img_size != dataset.side

    def make(name: str):
        batches = implementations.small_batches(name, dataset, img_size, s.batch_size, device)
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
        sides[name] = functools.partial(images_per_second, make(name), s.seconds, synchronize, workers)
    moved = 3 * (dataset.side**2 + 4 * img_size**2)  # bytes: read as uint8, written as float32
    limits = {SUITE: (bench.ceilings["copy"]["high"] / moved, "copy")}
    size = f"{dataset.side} -> {img_size} px: crop, flip, resize" if resized else f"{dataset.side} px: crop, flip"
    bench.compare(f"{size}, normalise; batch {s.batch_size}", "images/s", sides, higher_is_better=True, limits=limits)
    if not resized:
        sides = {name: functools.partial(first_batch, name) for name in sides}
        bench.compare(f"setting up for {len(dataset.train):,} such images, to the first batch", "s", sides)


def mixing(bench: Bench, s: SimpleNamespace, kind: str, device: torch.device) -> None:
    """CutMix or MixUp of one batch, in place, by timm's Mixup and by the suite's Mix, each in its own memory format."""
    import torch

    from benchmarks import baseline, hardware
    from benchmarks.data import CLASSES
    from data_transform import Mix

    mixes = {TIMM: baseline.timm_mixup(kind, CLASSES), SUITE: Mix(kind, CLASSES, 1.0, 0.8, 1.0)}
    formats = {TIMM: torch.contiguous_format, SUITE: torch.channels_last}
    targets = torch.randint(CLASSES, (s.batch_size,), device=device)
    plain = torch.randn(s.batch_size, 3, s.img_size, s.img_size, device=device)

    def side(name: str) -> Repeated:
        images = plain.clone(memory_format=formats[name])

        def work(count: int) -> None:
            for _ in range(count):
                mixes[name](images, targets)

        return Repeated(work, s.seconds, hardware.synchronizer(device), milliseconds)

    limits = {}
    if kind == "mixup":  # reads and writes every pixel; CutMix only a random box
        limits = dict.fromkeys(mixes, (1e3 * 2 * 4 * plain.numel() / bench.ceilings["copy"]["high"], "copy"))
    what = f"{kind} of {s.batch_size} images of {s.img_size} px"
    bench.compare(what, "ms", {name: side(name) for name in mixes}, limits=limits)


def image_files(bench: Bench, s: SimpleNamespace, dataset: Dataset, folder: Path, device: torch.device) -> None:
    """Decode, random resized crop, flip, normalise in this process, per second of processor time: a rate per core that
    other processes disturb little, however many threads a way uses. The suite reads the files, and the copies that it
    makes of them in `folder`."""
    import torch

    from benchmarks import baseline, hardware, implementations, ours
    from image_datasets import resized
    from image_datasets.copying import complete
    from image_datasets.registry import Found

    batch_size = min(s.batch_size, len(dataset.train), 32)
    transform = baseline.large_transform(s.img_size, dataset.mean, dataset.std)
    files = baseline.ImageFiles(dataset.train, transform)
    theirs = implementations.epochs(USUAL, baseline.train_loader(files, batch_size, device, workers=0), device)

    def side(epochs: Callable[[int], Iterable]) -> float:
        torch.set_num_threads(1)
        try:
            return images_per_second(epochs, s.seconds, hardware.synchronizer(device), clock=time.process_time)
        finally:
            torch.set_num_threads(baseline.THREADS)

    for kind in (None, *resized.KINDS):
        split = dataset.train
        if kind is not None:
            short = resized.short_side(s.img_size)
            found = Found("folder", None)
            copies = complete(folder / kind, kind, short, 3, "", split.paths, baseline.WORKERS, found)
            split = replace(split, copies=copies)
        images = replace(dataset, train=split)
        streamed = ours.streamed_batches(images, s.img_size, batch_size, device, workers=0)
        what = f"JPEG: random resized crop {s.img_size}, flip, normalise{f'; {kind} copy' if kind else ''}; per core"
        sides = {USUAL: functools.partial(side, theirs), SUITE: functools.partial(side, streamed.epoch)}
        bench.compare(what, "images/s", sides, higher_is_better=True)


if __name__ == "__main__":
    sys.exit(script(main))
