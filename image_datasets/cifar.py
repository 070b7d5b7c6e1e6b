"""CIFAR-10 and CIFAR-100 in the published Python format, read by torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from image_datasets.dataset import Dataset, LocatedDataset, Wanted
from utils import BadRequest

# Folder, archive, required files, mean and std of the 50,000 training images.
FACTS = {
    "cifar10": (
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch", "batches.meta"],
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    ),
    "cifar100": (
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        ["train", "test", "meta"],
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
    ),
}


class Layout(NamedTuple):
    """What `load` has to know.

    Attributes:
        verify: require the published checksums.
        incomplete: files are missing that the archive holds.
        download: fetch a missing or damaged archive.
    """

    root: Path
    verify: bool
    incomplete: bool
    download: bool


def locate(wanted: Wanted) -> LocatedDataset:
    """See `registry.locate`."""
    name, path = wanted.name, wanted.path
    folder, archive, files, _, _ = FACTS[name]
    if path is None:
        raise BadRequest(f"--dataset {name} needs --datapath: the folder that holds (or gets) {folder}/ or {archive}")
    root = Path(path)
    if root.name == folder and root.is_dir():
        root = root.parent
    missing = [file for file in files if not (root / folder / file).is_file()]
    if missing and not (root / archive).is_file() and not wanted.download:
        if not root.is_dir():
            raise BadRequest(f"--datapath {path}: no such folder; --download fetches {name} into it")
        what = f"{folder}/{missing[0]}" if (root / folder).is_dir() else f"neither {folder}/ nor {archive}"
        verb = "lacks" if (root / folder).is_dir() else "has"
        raise BadRequest(f"--datapath {path} {verb} {what}; --download fetches {name}")
    return LocatedDataset(name, layout=Layout(root, wanted.verify, bool(missing), wanted.download))


def load(located: LocatedDataset, workers: int) -> Dataset:
    """See `registry.load_dataset`. Raises BadRequest for files that differ from the published ones."""
    import numpy as np
    from torchvision import datasets

    from image_datasets.facts import array_facts
    from image_datasets.splits import Split

    root, verify, incomplete, download = located.layout
    reader = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[located.name]
    if incomplete or (download and verify and not _as_published(reader, root)):
        _fetch(reader, root, download)
    if verify:
        try:
            train, test = (reader(str(root), train=part) for part in (True, False))
        except RuntimeError:
            raise BadRequest(
                f"{root / reader.base_folder}: the files differ from the published {located.name} (checksum);"
                " fetch it anew with --download, or accept a re-saved copy with --no-verify-checksum"
            ) from None
        parts = [(part.data, part.targets) for part in (train, test)]
        class_names = list(train.classes)
    else:
        parts, class_names = _read_unverified(reader, root)
    splits = [
        Split(np.asarray(targets, dtype=np.int64), np.ascontiguousarray(images), facts=array_facts(images))
        for images, targets in parts
    ]
    _, _, _, mean, std = FACTS[located.name]
    return Dataset(located.name, class_names, mean, std, side=32, train=splits[0], test=splits[1])


def _as_published(reader, root: Path) -> bool:
    from torchvision.datasets.utils import check_integrity

    files = reader.train_list + reader.test_list
    return all(check_integrity(str(root / reader.base_folder / name), md5) for name, md5 in files)


def _fetch(reader, root: Path, download: bool) -> None:
    """Unpacks the archive, after downloading it if it is missing. torchvision verifies its checksum either way."""
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    archive = root / reader.filename
    if archive.is_file() and not check_integrity(str(archive), reader.tgz_md5) and not download:
        raise BadRequest(f"{archive}: differs from the published archive (checksum); --download fetches it anew")
    try:
        root.mkdir(parents=True, exist_ok=True)
        download_and_extract_archive(reader.url, str(root), filename=reader.filename, md5=reader.tgz_md5)
    except (OSError, RuntimeError) as error:
        raise BadRequest(f"{reader.url} cannot be downloaded ({error}): put {reader.filename} into {root}") from None


def _read_unverified(reader, root: Path):
    """Reads the files whatever their checksum, so through an unpickler that builds plain data only."""
    import numpy as np

    from image_datasets import safe_pickle

    folder = root / reader.base_folder
    meta_file = folder / reader.meta["filename"]
    meta = safe_pickle.load(meta_file)
    class_names = meta.get(reader.meta["key"]) if isinstance(meta, dict) else None
    if not isinstance(class_names, list) or not all(isinstance(name, str) for name in class_names):
        raise BadRequest(f"{meta_file}: has no list of names {reader.meta['key']!r}")
    parts = []
    for files in (reader.train_list, reader.test_list):
        images, targets = [], []
        for file, _ in files:
            entry = safe_pickle.load(folder / file)
            data = entry.get("data") if isinstance(entry, dict) else None
            labels = entry.get("labels", entry.get("fine_labels")) if isinstance(entry, dict) else None
            if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
                raise BadRequest(f"{folder / file}: 'data' is not an array of uint8 rows of 3,072 bytes")
            known = range(len(class_names))
            if not isinstance(labels, list) or len(labels) != len(data) or any(label not in known for label in labels):
                raise BadRequest(f"{folder / file}: labels do not match its {len(data)} images and the class names")
            images.append(data)
            targets.extend(labels)
        parts.append((np.vstack(images).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), targets))
    return parts, class_names
