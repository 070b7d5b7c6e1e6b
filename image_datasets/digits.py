"""The UCI handwritten digits, from scikit-learn: 1,797 grey images of 8x8 pixels, 43 writers, 10 classes."""

from __future__ import annotations

from image_datasets.dataset import Dataset, LocatedDataset, Wanted
from utils import BadRequest, require


def locate(wanted: Wanted) -> LocatedDataset:
    """See `registry.locate`."""
    useless = {"--datapath": wanted.path is not None, "--download": wanted.download,
               "--no-verify-checksum": not wanted.verify}  # fmt: skip
    for flag, given in useless.items():
        if given:
            raise BadRequest(f"{flag} has no effect with --dataset digits: its images come with scikit-learn")
    require("sklearn")
    return LocatedDataset(wanted.name, layout=None)


def load(located: LocatedDataset, workers: int) -> Dataset:
    """See `registry.load_dataset`."""
    import numpy as np
    from sklearn.datasets import load_digits

    from image_datasets.facts import array_facts
    from image_datasets.splits import Split, split_test

    data = load_digits()
    images = (data.images * (255 / 16)).round().astype(np.uint8)[..., None]  # stored as 0 to 16
    class_names = [str(digit) for digit in range(10)]
    train, test = split_test(Split(data.target.astype(np.int64), images, facts=array_facts(images)), class_names)
    pixels = train.images / 255  # without channel_statistics: compare.py reads digits where torch is not installed
    return Dataset(
        name="digits",
        class_names=class_names,
        mean=(float(pixels.mean()),),
        std=(float(pixels.std()),),
        side=8,
        train=train,
        test=test,
        flip=False,
        notes=["digits has no test split of its own: a fixed, stratified fifth of it is held out as one"],
    )
