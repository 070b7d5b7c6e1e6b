"""The classification data sets of torchvision, by the names of their classes there (``torchvision/FashionMNIST``).

torchvision reads them, splits them and fetches them. Sets of image files are then read like any others; sets that come
as arrays are kept in memory.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from image_datasets.dataset import Dataset, LocatedDataset, Wanted
from image_datasets.layout import located
from utils import BadRequest, require, shorten, suggestion

# Values of the argument `split` for each of our splits: the first that a data set knows.
SPLIT_VALUES = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}
OURS = {"root", "train", "download", "transform", "target_transform", "transforms", "loader", "is_valid_file"}
NOT_MIRRORED = {"EMNIST", "GTSRB", "KMNIST", "MNIST", "Omniglot", "QMNIST", "RenderedSST2", "SEMEION", "SVHN", "USPS"}


class Part(NamedTuple):
    """A split as torchvision reads it.

    Attributes:
        images: paths of the files, or images as arrays.
        labels: class indices.
    """

    images: list[Any]
    labels: list[int]


def names() -> list[str]:
    """torchvision's names of its data sets."""
    require("torch")
    require("torchvision")
    from torchvision import datasets

    return [name for name in datasets.__all__ if _is_dataset(getattr(datasets, name))]


def _is_dataset(value: Any) -> bool:
    from torchvision.datasets import DatasetFolder, VisionDataset

    return (
        inspect.isclass(value)
        and issubclass(value, VisionDataset)
        and value not in (VisionDataset, DatasetFolder)
        and "root" in _parameters(value)
    )


def _parameters(build: type) -> set[str]:
    """Names of the arguments of a constructor, with those that it hands to its base class as keywords."""
    found: set[str] = set()
    for cls in build.__mro__:
        if "__init__" in vars(cls):
            parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
            found |= {parameter.name for parameter in parameters}
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
                break
    return found


def check_name(name: str) -> None:
    """Raises BadRequest, with a suggestion, if torchvision has no such data set."""
    if not name:
        raise BadRequest("--dataset torchvision: which of its data sets? write --dataset torchvision/NAME")
    known = names()
    if name not in known:
        hint = suggestion(name, known) or next((f" Did you mean {k}?" for k in known if k.lower() == name.lower()), "")
        raise BadRequest(f"torchvision has no data set {name!r}.{hint} It has {shorten(known, 12)}")


def locate(wanted: Wanted) -> LocatedDataset:
    """See `registry.locate`. Fetches what is missing with --download; torchvision verifies its checksums."""
    from image_datasets.arrays import Arrays, checked_images, used_classes

    name = wanted.name.partition("/")[2]
    if wanted.path is None:
        raise BadRequest(f"--dataset {wanted.name} needs --datapath: the folder that holds (or gets) the data set")
    if not wanted.verify:
        raise BadRequest(f"--no-verify-checksum has no effect with --dataset {wanted.name}: torchvision decides")
    datasets = _build(wanted, name)
    notes: list[str] = []
    parts = {}
    for part, dataset in datasets.items():
        items = _items(dataset, f"{wanted.name}, {part}")
        if items is None:
            notes.append(f"the {part} split has no labels, and is left out")
        else:
            parts[part] = items
    if "train" not in parts and wanted.with_train:
        raise BadRequest(f"{wanted.name}: has no labelled training images")
    first = next(iter(datasets.values()))
    labels = {label for _, found in parts.values() for label in found}
    known = _class_names(first)
    known = None if known is None or max(labels, default=0) >= len(known) else known
    class_names, used, more = used_classes(parts, wanted.name, known)
    notes += more
    wnids = getattr(first, "wnids", None)
    wnids = [wnids[label] for label in used] if wnids else None
    index = {label: i for i, label in enumerate(used)}
    parts = {part: (images, [index[label] for label in labels]) for part, (images, labels) in parts.items()}
    flip = name not in NOT_MIRRORED
    if isinstance(next(iter(parts.values()))[0][0], str):
        return located(wanted, Path(wanted.path), class_names, parts, notes, wnids=wnids, flip=flip)
    import numpy as np

    arrays = {
        part: (checked_images(f"{wanted.name}, {part}", np.stack(images)), np.array(labels))
        for part, (images, labels) in parts.items()
    }
    layout = Arrays(class_names, arrays, flip, tuple(notes), wnids)
    return LocatedDataset(wanted.name, layout, has_val={"val", "test"} <= arrays.keys())


def load(located: LocatedDataset, workers: int) -> Dataset:
    """See `registry.load_dataset`."""
    from image_datasets import arrays

    return arrays.load(located, located.layout)


def _build(wanted: Wanted, name: str) -> dict[str, Any]:
    """torchvision's data set of each split that it has."""
    from torchvision import datasets

    build = getattr(datasets, name)
    takes = _parameters(build)
    arguments = dict(wanted.arguments)
    unknown = sorted(arguments.keys() - takes | arguments.keys() & OURS)
    if unknown:
        raise BadRequest(f"--dataset-arg {unknown[0]}: {wanted.name} takes no such argument")
    if wanted.download and "download" not in takes:
        raise BadRequest(f"--download has no effect with --dataset {wanted.name}: torchvision cannot fetch it")

    def make(**more: Any) -> Any:
        return _make(wanted, build, "download" in takes, {**arguments, **more})

    if "train" in takes:
        return {"train": make(train=True), "test": make(train=False)}
    if "split" not in takes or "split" in arguments:
        return {"train": make()}
    found: dict[str, Any] = {}
    for part, values in SPLIT_VALUES.items():
        for value in values:
            with contextlib.suppress(_NoSuchSplit):
                found[part] = make(split=value)
                break
    if "train" not in found:
        raise BadRequest(f"{wanted.name}: --dataset-arg split=NAME chooses its training images"
                         f" ({inspect.signature(build)})")  # fmt: skip
    return found


class _NoSuchSplit(BadRequest):
    """The data set has no split of that name."""


def _make(wanted: Wanted, build: Callable[..., Any], can_fetch: bool, arguments: dict[str, Any]) -> Any:
    """Builds a data set of torchvision, and fetches it if it is not there and --download is given."""
    try:
        return build(wanted.path, **({"download": False} if can_fetch else {}), **arguments)
    except MemoryError:
        raise
    except (ValueError, TypeError) as error:
        kind = _NoSuchSplit if "argument split" in str(error) else BadRequest
        raise kind(f"{wanted.name}: {_line(error)}; --dataset-arg NAME=VALUE sets arguments") from None
    except ImportError as error:
        raise BadRequest(f"{wanted.name} needs a package: {_line(error)}") from None
    except Exception as error:  # each data set has errors of its own for files that are missing or damaged
        if not wanted.download:
            advice = "; --download fetches it" if can_fetch else ""
            raise BadRequest(f"--datapath {wanted.path}: {wanted.name} is not there, or damaged"
                             f" ({_line(error)}){advice}") from None  # fmt: skip
    try:
        return build(wanted.path, download=True, **arguments)
    except Exception as error:
        raise BadRequest(f"{wanted.name} cannot be downloaded ({_line(error)}); put its files into {wanted.path} where"
                         " there is a network") from None  # fmt: skip


def _line(error: Exception) -> str:
    """The message in one line, without torchvision's advice on its own arguments."""
    text = re.sub(r"\.? You (can|may) use download=True.*", "", " ".join(str(error).split()))
    return text[:200] or type(error).__name__


def _items(dataset: Any, source: str) -> Part | None:
    """The images of a split with their labels; None if they have none. Decodes no files.

    Raises BadRequest, beginning with `source`, if an item is not an image and a class index.
    """
    import numpy as np
    from PIL import Image
    from torchvision.datasets import DatasetFolder

    if isinstance(dataset, DatasetFolder):
        return Part([str(path) for path, _ in dataset.samples], [int(label) for _, label in dataset.samples])
    images, labels = [], []
    with _opened_files() as opened:
        for i in range(len(dataset)):
            opened.clear()
            try:
                item = dataset[i]
            except Exception as error:
                raise BadRequest(f"{source}: item {i} cannot be read ({_line(error)})") from None
            if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], Image.Image)):
                raise BadRequest(f"{source}: is no classification data set; its items are not an image and a class")
            image, label = item
            if label is None:
                return None
            if not isinstance(label, (int, np.integer)):
                raise BadRequest(f"{source}: is no classification data set; a label is {label!r:.60}")
            labels.append(int(label))
            images.append(opened[-1] if opened else _pixels(image))
    return Part(images, labels)


def _pixels(image: Any) -> Any:
    import numpy as np

    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


@contextlib.contextmanager
def _opened_files() -> Iterator[list[str]]:
    """Within the block, Pillow opens no image file, but adds its path to the list.

    Thus a data set of torchvision tells the file of an item, whatever it calls its list of files.
    """
    from PIL import Image

    opened: list[str] = []
    blank, open_image = Image.new("RGB", (1, 1)), Image.open

    def note(file: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(str(file if isinstance(file, (str, Path)) else file.name))
        return blank.copy()

    Image.open = note
    try:
        yield opened
    finally:
        Image.open = open_image


def _class_names(dataset: Any) -> list[str] | None:
    """Names of the labels 0, 1, ..., the first synonym of each; None if torchvision knows none."""
    known = getattr(dataset, "classes", None)
    if not isinstance(known, (list, tuple)) or not known:
        return None
    return [str(name[0] if isinstance(name, (list, tuple)) else name) for name in known]
