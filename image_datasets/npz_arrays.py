"""Arrays of images and labels in one .npz file, as MedMNIST and Keras publish them."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from image_datasets.dataset import Dataset, LocatedDataset, Wanted
from image_datasets.folder import refuse_fetching
from utils import BadRequest, shorten

if TYPE_CHECKING:
    import numpy as np

PARTS = ("train", "val", "test")
# Names of the images and labels of a split. The last form has no splits.
FORMS = (("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("images", "labels"))
NAMES = "class_names"  # an array of texts, which may be there


class Layout(NamedTuple):
    """The file, and the names of its arrays of images and labels by split."""

    file: Path
    arrays: dict[str, tuple[str, str]]


def locate(wanted: Wanted) -> LocatedDataset:
    """See `registry.locate`."""
    if wanted.path is None:
        raise BadRequest("--dataset npz: which file? write --dataset npz/FILE")
    refuse_fetching(wanted, "the file has none that is published")
    file = Path(wanted.path)
    if not file.is_file():
        raise BadRequest(f"{file}: no such file")
    try:
        with zipfile.ZipFile(file) as archive:
            there = {Path(name).stem for name in archive.namelist() if name.endswith(".npy")}
    except (OSError, zipfile.BadZipFile) as error:
        raise BadRequest(f"{file}: damaged, or no .npz file ({error})") from None
    for images, labels in FORMS:
        parts = PARTS if "{}" in images else ("train",)
        found = {part: (images.format(part), labels.format(part)) for part in parts}
        found = {part: pair for part, pair in found.items() if there >= {*pair}}
        if "train" in found or (found and not wanted.with_train):
            return LocatedDataset(wanted.name, Layout(file, found), has_val={"val", "test"} <= found.keys())
    raise BadRequest(f"{file}: has neither train_images and train_labels, as MedMNIST, nor x_train and y_train, nor"
                     f" images and labels, but {shorten(sorted(there))}")  # fmt: skip


def load(located: LocatedDataset, workers: int) -> Dataset:
    """See `registry.load_dataset`."""
    import numpy as np

    from image_datasets import arrays

    file, names = located.layout
    try:
        with np.load(file, allow_pickle=False) as content:
            parts = {part: (content[images], content[labels]) for part, (images, labels) in names.items()}
            class_names = [str(name) for name in content[NAMES]] if NAMES in content else None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise BadRequest(f"{file}: cannot be read ({error})") from None
    for part, (images, labels) in parts.items():
        images = arrays.checked_images(f"{file}: {names[part][0]}", images)
        parts[part] = images, _labels(f"{file}: {names[part][1]}", labels, len(images))
    found, used, notes = arrays.used_classes(parts, str(file), class_names)
    parts = {part: (images, np.searchsorted(used, labels)) for part, (images, labels) in parts.items()}
    if len({images.shape[1:] for images, _ in parts.values()}) > 1:
        raise BadRequest(f"{file}: the images of its splits have different shapes")
    return arrays.load(located, arrays.Arrays(found, parts, notes=tuple(notes)))


def _labels(source: str, labels: np.ndarray, count: int) -> np.ndarray:
    """Class indices (N,). Raises BadRequest, beginning with `source`, for anything else."""
    shape = labels.shape
    if labels.ndim == 2 and shape[1] > 1:
        raise BadRequest(f"{source}: has {shape[1]} labels for each image; the suite learns one class of each image")
    labels = labels.reshape(-1)
    if labels.dtype.kind not in "iu" or len(labels) != count:
        raise BadRequest(f"{source}: is no class index for each of {count:,} images ({labels.dtype}, {shape})")
    return labels
