"""Images for the benchmarks: synthetic, or from a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import image_datasets
from image_datasets.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset, LocatedDataset
from image_datasets.splits import Split

CLASSES = 100


def small_images(count: int, side: int, num_classes: int = CLASSES) -> Dataset:
    """Images of random pixels, which cost as much to crop, resize and train on as any others."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return _dataset(Split(rng.integers(0, num_classes, count), images), side, num_classes)


def jpeg_files(folder: Path, count: int, width: int = 500, height: int = 375) -> Dataset:
    """JPEG files of the most common size in ImageNet, about 100 kB each.

    They show smooth shapes with some noise, as the cost of decoding depends on the detail.
    """
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        shapes = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        pixels = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = pixels + rng.normal(0, 8, pixels.shape)
        path = folder / f"{i}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(str(path))
    return _dataset(Split(np.arange(count) % CLASSES, paths=paths), None, CLASSES)


def from_folder(found: LocatedDataset, most: int) -> Dataset:
    """The data set that --data names, in colour, with at most `most` training images, evenly spread over the list."""
    dataset = image_datasets.load_dataset(found, workers=2).with_channels(3)
    if len(dataset.train) > most:
        dataset.train = dataset.train.subset(np.linspace(0, len(dataset.train) - 1, most).astype(int))
    return dataset


def _dataset(split: Split, side: int | None, num_classes: int) -> Dataset:
    names = [f"class{i}" for i in range(num_classes)]
    return Dataset("made up", names, IMAGENET_MEAN, IMAGENET_STD, side, train=split, test=split)
