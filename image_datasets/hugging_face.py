"""Image classification sets of Hugging Face `datasets`: a folder or a file of Parquet, or a name of the hub.

The library keeps the rows as Arrow files, which are mapped into memory and read at random. No code of a data set is
ever run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_datasets import hugging_face_columns as columns
from image_datasets.class_names import name_numbers
from image_datasets.dataset import LocatedDataset, Wanted
from image_datasets.discovery import SPLITS
from image_datasets.folder import refuse_fetching
from image_datasets.layout import located
from image_datasets.members import Member
from utils import BadRequest, shorten

if TYPE_CHECKING:
    import datasets

READERS = ("parquet", "arrow", "cache")  # the library's own; others of its readers unpickle files, or read no images
ARGUMENTS = ("name", "revision")
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True, eq=False)
class Rows:
    """A `members.Container`; a place is the number of a row.

    Attributes:
        table: a `datasets.Dataset` in Arrow format, of the images' column alone.
        mark: a number that changes with the files of the table.
    """

    table: Any
    mark: int

    def read(self, place: int) -> bytes:
        """See `members.Container`."""
        value = self.table[place].column(0)[0].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise ValueError("its row holds no image")
        return data

    def stamp(self, place: int) -> tuple[int, int]:
        """See `members.Container`."""
        return self.mark, place


def locate(wanted: Wanted) -> LocatedDataset:
    """See `registry.locate`."""
    if wanted.path is None:
        raise BadRequest("--dataset hf needs a place: hf/FOLDER, or hf/NAME of the Hugging Face hub")
    unknown = sorted(wanted.arguments.keys() - set(ARGUMENTS))
    if unknown:
        raise BadRequest(f"--dataset-arg {unknown[0]}: --dataset hf takes only {' and '.join(ARGUMENTS)}")
    if importlib.util.find_spec("datasets") is None:
        raise BadRequest(
            f"--dataset hf needs a package that is not installed for {sys.executable}: pip install datasets"
        )
    root, tables = _load(wanted)
    used, notes = _used_splits(wanted, tables)
    features = next(iter(used.values()))[1].features
    image, image_notes = columns.image_column(features, wanted.image_column)
    label, label_notes = columns.label_column(features, wanted.label_column, image)
    labels, label_losses = _labels(wanted, used, label)
    names, name_notes = _class_names(wanted, features[label], labels)
    index = {key: i for i, key in enumerate(names)}
    splits = {}
    for part, found in labels.items():
        name, table = used[part]
        unknown = sorted(set(found) - index.keys())
        if unknown:
            given = getattr(features[label], "names", None)
            classes = shorten(given[key] if given else key for key in unknown)
            raise BadRequest(f"hf/{wanted.path}: its {name} split has classes that train lacks: {classes}")
        splits[part] = _paths(root, name, table, image), [index[key] for key in found]
    notes = [*notes, *image_notes, *label_notes, *label_losses, *name_notes]
    return located(wanted, root, list(names.values()), splits, notes)


# -------------------------------------------------------------------------------------------------------- the library


def _load(wanted: Wanted) -> tuple[Path, dict[str, datasets.Dataset]]:
    """Returns (folder that names of images are relative to, tables by name of the split).

    Only a name of the hub with --download is looked for in the network. Raises BadRequest for whatever the library
    raises.
    """
    path = Path(str(wanted.path))
    local = path.exists()
    if local:
        refuse_fetching(wanted, "its files have no checksum")
        if "revision" in wanted.arguments:
            raise BadRequest("--dataset-arg revision has no effect on a folder; it is for names of the hub")
    elif not HUB_NAME.fullmatch(str(wanted.path)):
        raise BadRequest(f"--dataset hf/{wanted.path}: no such folder or file")
    elif not wanted.verify:
        raise BadRequest("--no-verify-checksum has no effect with --dataset hf: its files have no published checksum")
    import datasets

    datasets.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        with contextlib.nullcontext() if wanted.download else _offline():
            return _load_local(path, wanted) if local else _load_named(wanted)
    except BadRequest:
        raise
    except Exception as error:  # of the library, of Arrow, and of the network
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        fetch = "" if local or wanted.download else "; only the cache was searched, --download fetches it"
        raise BadRequest(f"--dataset hf/{wanted.path}: cannot be loaded ({reason}){fetch}") from None


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Within the block the library does not use the network."""
    import huggingface_hub.constants
    from datasets import config

    modules: tuple[Any, ...] = (config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _load_local(path: Path, wanted: Wanted) -> tuple[Path, dict[str, datasets.Dataset]]:
    import datasets

    place = os.path.abspath(path)  # noqa: PTH100 (a bare name such as csv would be a reader of the library)
    if path.is_file():
        if path.suffix.lower() != ".parquet":
            raise BadRequest(f"{path}: is no .parquet file")
        tables = datasets.load_dataset("parquet", data_files={"train": place})
        return path.parent, dict(tables)
    if (path / "dataset_dict.json").is_file():
        return path, dict(datasets.load_from_disk(place))
    if (path / "state.json").is_file():
        return path, {"train": datasets.load_from_disk(place)}
    return path, _build(place, wanted)[1]


def _load_named(wanted: Wanted) -> tuple[Path, dict[str, datasets.Dataset]]:
    builder, tables = _build(str(wanted.path), wanted)
    revision = wanted.arguments.get("revision")
    if revision is not None and builder.hash not in (str(revision), _commit(str(wanted.path), str(revision))):
        raise BadRequest(f"--dataset-arg revision={revision}: the cache of hf/{wanted.path} holds another one,"
                         f" {builder.hash}; --download fetches it")  # fmt: skip
    return Path(builder.cache_dir), tables


def _commit(name: str, revision: str) -> str | None:
    """The commit that a branch or tag was when it was last fetched."""
    from huggingface_hub.constants import HF_HUB_CACHE

    file = Path(HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}", "refs", revision)
    return file.read_text().strip() if file.is_file() else None


def _build(place: str, wanted: Wanted) -> tuple[datasets.DatasetBuilder, dict[str, datasets.Dataset]]:
    """Returns (builder, tables). The library copies Parquet to Arrow files in its cache, once."""
    import datasets

    name, revision = (None if (value := wanted.arguments.get(key)) is None else str(value) for key in ARGUMENTS)
    names = datasets.get_dataset_config_names(place, revision=revision)
    if name is None and len(names) > 1:
        raise BadRequest(f"--dataset hf/{wanted.path}: has several configurations; --dataset-arg name=NAME chooses one"
                         f" of {shorten(names, 20)}")  # fmt: skip
    builder = datasets.load_dataset_builder(place, name=name, revision=revision)
    reader = next(cls.__module__.rpartition(".")[2] for cls in type(builder).__mro__ if "packaged" in cls.__module__)
    if reader not in READERS:
        advice = "--dataset folder reads folders of images, --dataset webdataset tar shards"
        raise BadRequest(f"--dataset hf/{wanted.path}: holds no Parquet, but data for the reader {reader!r}; {advice}")
    builder.download_and_prepare()
    tables = builder.as_dataset()
    return builder, dict(tables)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ the rows


def _used_splits(
    wanted: Wanted, tables: dict[str, datasets.Dataset]
) -> tuple[dict[str, tuple[str, datasets.Dataset]], list[str]]:
    """Returns ((name, table) of each split in the order of SPLITS, notes)."""
    used = {}
    for part, words in SPLITS.items():
        names = [name for name in tables if name.lower() in words]
        if len(names) > 1:
            raise BadRequest(f"hf/{wanted.path}: has both {names[0]} and {names[1]}, and one {part} split is needed")
        if names:
            used[part] = names[0], tables[names[0]]
    others = [name for name in tables if name not in {name for name, _ in used.values()}]
    if not used or ("train" not in used and wanted.with_train):
        raise BadRequest(f"hf/{wanted.path}: has no train split, but {shorten(tables) or 'no split at all'}")
    first = next(iter(used.values()))[1]
    for name, table in used.values():
        if table.features != first.features:
            raise BadRequest(f"hf/{wanted.path}: its {name} split has other columns than the first")
    return used, [f"splits that are not used: {shorten(others)}"] if others else []


def _labels(
    wanted: Wanted, used: dict[str, tuple[str, datasets.Dataset]], column: str
) -> tuple[dict[str, list[int | str]], list[str]]:
    """Returns (classes of the rows of each split, notes), without splits whose rows have none.

    Raises BadRequest if some rows of a split have no class.
    """
    labels, notes = {}, []
    for part, (name, table) in used.items():
        found = table.select_columns([column]).with_format("arrow")[:].column(0).to_pylist()
        missing = [row for row, value in enumerate(found) if value in columns.UNLABELLED]
        if missing and len(missing) == len(found) and part != "train":
            notes.append(f"left out: {name}, whose {len(found):,} images have no class")
            continue
        if missing:
            raise BadRequest(f"hf/{wanted.path}: {len(missing):,} rows of its {name} split have no class in column"
                             f" {column}, row {missing[0]} for example")  # fmt: skip
        labels[part] = [unicodedata.normalize("NFC", value) if isinstance(value, str) else value for value in found]
    if not labels:
        raise BadRequest(f"hf/{wanted.path}: no image has a class in column {column}")
    return labels, notes


def _class_names(
    wanted: Wanted, feature: Any, labels: dict[str, list[int | str]]
) -> tuple[dict[int | str, str], list[str]]:
    """Returns (names of the classes in their order, by what the column holds; notes)."""
    given = getattr(feature, "names", None)
    for key in set().union(*labels.values()):
        if isinstance(key, int) and not 0 <= key < (len(given) if given else key + 1):
            raise BadRequest(f"hf/{wanted.path}: has an image of class {key}, which is no number of a class")
    with_train = "train" in labels
    keys = set(labels["train"]) if with_train else set().union(*labels.values())
    names: dict[Any, str]
    if any(isinstance(key, str) for key in keys):
        names, notes = {key: key for key in sorted(map(str, keys))}, []
    else:
        names, notes = name_numbers([int(key) for key in keys], given, with_train)
    if len(names) < 2:
        raise BadRequest(f"hf/{wanted.path}: holds images of {shorten(names.values()) or 'no class'} only;"
                         " at least two classes are needed")  # fmt: skip
    return names, notes


def _paths(root: Path, name: str, table: datasets.Dataset, column: str) -> list[str]:
    """Names of the images of a split: a `Member` for those in the table, a file for those that it only names."""
    import pyarrow as pa
    import pyarrow.compute as pc

    images = table.select_columns([column]).with_format("arrow")
    rows = Rows(images, _mark(table))
    values = images[:].column(0)
    if not pa.types.is_struct(values.type):
        return [Member(f"{root}/{name}/{row:06}", rows, row) for row in range(len(values))]
    files = pc.struct_field(values, "path").to_pylist() if "path" in [field.name for field in values.type] else None
    inside = pc.is_valid(pc.struct_field(values, "bytes")).to_pylist()
    paths: list[str] = []
    for row, there in enumerate(inside):
        file = files[row] if files else None
        if there or not file:
            base = f"-{os.path.basename(file)}" if file else ""  # noqa: PTH119
            paths.append(Member(f"{root}/{name}/{row:06}{base}", rows, row))
        else:
            paths.append(os.path.join(root, file))  # noqa: PTH118
    return paths


def _mark(table: datasets.Dataset) -> int:
    """A number that changes with the content of a table, by its fingerprint and the sizes and times of its files."""
    state = [table._fingerprint]
    for file in table.cache_files:
        found = os.stat(file["filename"])  # noqa: PTH116
        state.append(f"{found.st_size} {found.st_mtime_ns}")
    return int.from_bytes(hashlib.blake2b("\n".join(state).encode(), digest_size=8).digest(), "big") >> 1
