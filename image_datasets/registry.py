"""Data sets by name. `locate` looks at the disk without heavy imports; `load_dataset` reads."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from image_datasets.dataset import Dataset, LocatedDataset, Wanted
from utils import BadRequest, shorten, suggestion


class Entry(NamedTuple):
    """What is known of a data set, or of a form of data sets, before it is located.

    Attributes:
        module: defines locate(Wanted) -> LocatedDataset and, unless the images are files (see layout.py),
            load(LocatedDataset, workers) -> Dataset.
        num_classes, side, in_chans: None if they depend on the folder, or if images differ in size.
        is_form: ``NAME/PLACE`` is short for the form NAME with the path PLACE.
        takes: attributes of `Wanted` with an effect, of those that few data sets take.
    """

    module: str
    description: str
    num_classes: int | None = None
    side: int | None = None
    in_chans: int | None = None
    is_form: bool = False
    takes: tuple[str, ...] = ()


TABLE = ("image_column", "label_column", "arguments")
DATASETS = {
    "cifar10": Entry("cifar", "60,000 images of 32 px, 10 classes (Krizhevsky 2009)", 10, 32, 3),
    "cifar100": Entry("cifar", "60,000 images of 32 px, 100 classes (Krizhevsky 2009)", 100, 32, 3),
    "csv": Entry("csv_list", "csv/FILE: a list of image files with their classes", is_form=True, takes=TABLE),
    "digits": Entry("digits", "1,797 handwritten digits of 8 px, from scikit-learn; no download", 10, 8, 1),
    "folder": Entry("folder", "any train/<class>/..., with optional val/ and test/"),
    "hf": Entry("hugging_face", "hf/NAME or hf/FOLDER: Hugging Face datasets, Parquet", is_form=True, takes=TABLE),
    "imagenet100": Entry("imagenet100", "train.X1, train.X2, ..., val.X and Labels.json, the shards as distributed"),
    "imagenet1k": Entry("folder", "ILSVRC 2012 as train/<wnid>/... and val/<wnid>/...", 1000, None, 3),
    "npz": Entry("npz_arrays", "npz/FILE: arrays of images and labels, as MedMNIST's", is_form=True),
    "tiny-imagenet": Entry("folder", "tiny-imagenet-200 as distributed, 64 px, 200 classes", 200, 64, 3),
    "torchvision": Entry("torchvision_sets", "torchvision/NAME: its classification data sets", takes=("arguments",)),
    "webdataset": Entry("tar_shards", "webdataset/FOLDER: tar shards", is_form=True),
}
FLAGS = {"image_column": "--image-column", "label_column": "--label-column", "arguments": "--dataset-arg"}


def list_datasets() -> dict[str, str]:
    """Descriptions by name."""
    return {name: entry.description for name, entry in DATASETS.items()}


def is_form(name: str) -> bool:
    """Whether the name is that of a form of data sets, whose path says which one is meant."""
    return name in DATASETS and DATASETS[name].is_form


def split_place(name: str) -> tuple[str, str | None]:
    """Splits ``csv/FILE`` and the like into (name of the form, path); of other names the path is None."""
    form, slash, place = name.partition("/")
    if is_form(form) and slash:
        return form, place or None
    return name, None


def check_name(name: str) -> None:
    """Raises BadRequest, with a suggestion, if `name` is not a data set."""
    form, _, rest = name.partition("/")
    if name not in DATASETS and form not in DATASETS:
        known = ", ".join(f"{key}/..." if is_form(key) or key == "torchvision" else key for key in DATASETS)
        raise BadRequest(f"unknown data set {name!r}.{suggestion(name, DATASETS)} Known: {known}")
    if form == "torchvision":
        from image_datasets import torchvision_sets

        torchvision_sets.check_name(rest)
    elif rest:
        raise BadRequest(f"unknown data set {name!r}: {form} takes no name; --datapath names its folder")


def dimensions(wanted: Wanted) -> tuple[int, int | None, int]:
    """Returns (classes, side of the images in pixels, channels); side is None if the images have no common one.

    Data sets with fixed dimensions need no folder. If one is given, it must hold the data set.

    Raises BadRequest as `locate` does.
    """
    check_name(wanted.name)
    entry = _entry(wanted.name)
    if entry.num_classes is not None and wanted.classes is None:
        if wanted.path is not None:
            locate(wanted)
        return entry.num_classes, entry.side, entry.in_chans or 3
    found = locate(wanted)
    if not found.has_files:
        dataset = load_dataset(found)
        return len(dataset.class_names), dataset.side, dataset.in_chans
    layout = found.layout
    return len(layout.class_names), layout.side or layout.streamed_side, 1 if layout.grey else 3


def locate_dataset(
    name: str, path: str | None = None, download: bool = False, verify: bool = True, **more: Any
) -> LocatedDataset:
    """`locate` of these attributes of `Wanted`."""
    return locate(Wanted(name, path, download, verify, **more))


def locate(wanted: Wanted) -> LocatedDataset:
    """Checks that a data set is there and laid out as expected. Reads no more than a few headers, or an index.

    Raises BadRequest for an unknown name, for data that is missing or laid out otherwise, and for a flag that has no
    effect on it.
    """
    check_name(wanted.name)
    entry = _entry(wanted.name)
    for key, flag in FLAGS.items():
        if getattr(wanted, key) and key not in entry.takes:
            raise BadRequest(f"{flag} has no effect with --dataset {wanted.name}")
    found: LocatedDataset = _module(wanted.name).locate(wanted)
    if wanted.classes is None:
        return found
    if not found.has_files:
        return dataclasses.replace(found, classes=wanted.classes)
    names = resolve_classes(wanted.classes, found.layout.class_names, found.layout.wnids, wanted.name)
    layout = found.layout.with_classes(names)
    empty = [part for part, (paths, _) in layout.splits.items() if not paths]
    if empty:
        raise BadRequest(f"--classes: the {empty[0]} split has no image of these classes")
    return dataclasses.replace(found, layout=layout)


def load_dataset(located: LocatedDataset, workers: int = 0) -> Dataset:
    """Reads a located data set. `workers` threads read image files, and decode those that are kept in memory."""
    if located.has_files:
        from image_datasets import loading

        return loading.load(located, workers)
    dataset = _module(located.name).load(located, workers)
    if located.classes is None:
        return dataset
    names = resolve_classes(located.classes, dataset.class_names, dataset.wnids, dataset.name)
    part = dataset.with_classes(names)
    for name, split in (("train", part.train), ("val", part.val), ("test", part.test)):
        if split is not None and not len(split) and len(dataset.train):
            raise BadRequest(f"--classes: the {name} split has no image of these classes")
    return part


def resolve_classes(
    asked: Sequence[str], class_names: Sequence[str], wnids: Sequence[str] | None, dataset: str
) -> list[str]:
    """The names of the asked classes, in the data set's order. A class may be asked for by its WordNet id.

    Raises BadRequest for an unknown class, one that is named twice, and fewer than two.
    """
    by_wnid = dict(zip(wnids or (), class_names, strict=bool(wnids)))
    named = [by_wnid.get(name, name) for name in asked]
    for name in named:
        if name not in class_names:
            raise BadRequest(f"--classes: {dataset} has no class {name!r}.{suggestion(name, class_names)}"
                             f" It has {shorten(class_names)}")  # fmt: skip
        if named.count(name) > 1:
            raise BadRequest(f"--classes: {name!r} is named twice")
    if len(named) < 2:
        raise BadRequest(f"--classes {named[0]}: at least two classes are needed")
    return [name for name in class_names if name in set(named)]


def _entry(name: str) -> Entry:
    return DATASETS[name.partition("/")[0]]


def _module(name: str):
    return importlib.import_module(f"image_datasets.{_entry(name).module}")
