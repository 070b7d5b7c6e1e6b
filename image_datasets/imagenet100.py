"""ImageNet-100 as distributed: shards train.X1, train.X2, ... and val.X of <wnid>/<image>, and Labels.json.

Class indices follow the sorted WNIDs (WordNet ids, the names of the folders) of Labels.json, whichever shards hold a
class. Training files that are also in val.X, byte for byte, are left out of training.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from pathlib import Path

from image_datasets import discovery_v1
from image_datasets.dataset import LocatedDataset, Wanted
from image_datasets.discovery import Files, is_hidden, is_image
from image_datasets.folder import check_root
from image_datasets.image_files import EXTENSIONS
from image_datasets.layout import located
from image_datasets.reading import OLDEST, Reading
from utils import BadRequest, read_json, shorten, write_json

VAL, LABELS, SCAN = "val.X", "Labels.json", ".imagenet100-scan.json"
FULL = {"train": 130_000, "val": 5_000}  # images of the published data set


def locate(wanted: Wanted) -> LocatedDataset:
    """See `registry.locate`.

    Classes without a training image are left out: whoever has one of the shards has a part of the classes.
    """
    reading = wanted.reading
    root = check_root(wanted, f"train.X1, train.X2, ..., {VAL} and {LABELS}")
    names = _read_labels(root / LABELS)
    wnids = sorted(names)
    shards = sorted((entry for entry in root.glob("train.X*") if entry.is_dir()), key=_shard_number)
    if not shards and wanted.with_train:
        raise BadRequest(f"--datapath {root}: has no train.X* folders, the shards of the training images")
    if not (root / VAL).is_dir():
        raise BadRequest(f"--datapath {root}: has no {VAL}/ with one folder of images per class")
    content = _scan([*shards, root / VAL], wnids, root, reading)
    notes = [discovery_v1.NOTE] if reading.rules == OLDEST else []
    if shards:
        notes.append(f"{len(shards)} training shards are merged: {', '.join(shard.name for shard in shards)}")
    here = [wnid for wnid in wnids if any(wnid in content["files"][shard.name] for shard in shards)] or wnids
    if len(here) < 2:
        raise BadRequest(f"{root}: only one class has training images ({here[0]}); at least two are needed")
    if len(here) < len(wnids):
        notes.append(f"{len(wnids) - len(here)} of the {len(wnids)} classes of {LABELS} have no training image here,"
                     f" and are left out, also of {VAL}")  # fmt: skip
    partial = sum(any(wnid not in content["files"][shard.name] for shard in shards) for wnid in here)
    if partial and len(shards) > 1:
        notes.append(f"{partial} of {len(here)} classes live in some of the shards only")
    copies = set(content["copies"])
    if copies:
        notes.append(f"{len(copies)} training images also stand in {VAL}, and are left out of training: "
                     f"{shorten(sorted(copies), 3)}")  # fmt: skip
    splits = {"train": _split(root, [shard.name for shard in shards], content["files"], here, copies)} if shards else {}
    splits["val"] = _split(root, [VAL], content["files"], here, set())
    for part, (paths, labels) in splits.items():
        lost = [here[i] for i in sorted(set(range(len(here))) - set(labels))]
        if lost:
            where = VAL if part == "val" else "any train.X* that is not also there"
            raise BadRequest(f"{root}: {len(lost)} classes of {LABELS} have no image in {where}: {shorten(lost)}")
        if len(paths) != FULL[part]:
            notes.append(f"{len(paths):,} images in {VAL if part == 'val' else 'the training shards'};"
                         f" the full set has {FULL[part]:,}")  # fmt: skip
    class_names = [name for wnid, name in zip(wnids, _class_names(names), strict=True) if wnid in set(here)]
    return located(wanted, root, class_names, splits, notes, wnids=here, val_name=VAL)


def _read_labels(file: Path) -> dict[str, str]:
    """Names by WNID, such as {"n01440764": "tench, Tinca tinca"}. Raises BadRequest for anything else."""
    names = read_json(file)
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise BadRequest(f'{file}: is no object of names by WNID, such as {{"n01440764": "tench, Tinca tinca"}}')
    if len(names) < 2:
        raise BadRequest(f"{file}: names {len(names)} classes; at least two are needed")
    return names


def _class_names(names: dict[str, str]) -> list[str]:
    """First synonym of each class, in the order of the WNIDs; with the WNID if two classes share it."""
    first = {wnid: names[wnid].split(",")[0].strip() or wnid for wnid in sorted(names)}
    times = Counter(first.values())
    return [name if times[name] == 1 else f"{name} ({wnid})" for wnid, name in first.items()]


def _shard_number(shard: Path) -> tuple[int, str]:
    digits = re.search(r"\d+$", shard.name)
    return (int(digits[0]) if digits else 0, shard.name)


def _scan(parts: list[Path], wnids: list[str], root: Path, reading: Reading) -> dict:
    """Returns {"files": file names by part and WNID, "copies": training files, relative to root, also in val.X}.

    The result is cached in a file beside the data until a folder changes. If that cannot be written, every run scans.
    """
    folders = {}
    for part in parts:
        folders[part.name] = sorted(
            entry.name for entry in os.scandir(part) if entry.is_dir() and (_old(reading) or not is_hidden(entry.name))
        )
        unknown = sorted(set(folders[part.name]) - set(wnids))
        if unknown:
            raise BadRequest(f"{part}: has classes that {LABELS} does not name: {shorten(unknown)}")
    state = [(part.name, name, (part / name).stat().st_mtime_ns) for part in parts for name in folders[part.name]]
    rules = "" if _old(reading) else f" {reading.rules}"
    fingerprint = hashlib.sha256(f"{json.dumps(state)}{rules}".encode()).hexdigest()
    try:
        known = read_json(root / SCAN)
        if isinstance(known, dict) and known.get("fingerprint") == fingerprint:
            return known
    except BadRequest:  # none yet, or damaged
        pass
    files = {part.name: {name: _images(part / name, reading) for name in folders[part.name]} for part in parts}
    content = {"fingerprint": fingerprint, "files": files, "copies": _copies(root, files)}
    if os.access(root, os.W_OK | os.X_OK):
        write_json(root / SCAN, content)
    return content


def _old(reading: Reading) -> bool:
    return reading.rules == OLDEST


def _images(where: Path, reading: Reading) -> list[str]:
    if _old(reading):
        files = sorted(entry.name for entry in os.scandir(where) if entry.name.lower().endswith(EXTENSIONS))
    else:
        files = sorted(entry.name for entry in os.scandir(where) if not is_hidden(entry.name) and is_image(entry))
    if not files:
        raise BadRequest(f"{where}: a class folder without images ({', '.join(EXTENSIONS)})")
    return files


def _copies(root: Path, files: dict[str, dict[str, list[str]]]) -> list[str]:
    """Training files with the same bytes as a file in val.X. Only files of equal size are read."""

    def of(part: str):
        return [Path(part, wnid, name) for wnid, names in files[part].items() for name in names]

    sizes: dict[int, list[Path]] = {}
    for path in of(VAL):
        sizes.setdefault((root / path).stat().st_size, []).append(path)
    copies, digests = [], {}
    for part in files:
        for path in of(part) if part != VAL else ():
            size = (root / path).stat().st_size
            if size not in sizes:
                continue
            if size not in digests:
                digests[size] = {_digest(root / other) for other in sizes[size]}
            if _digest(root / path) in digests[size]:
                copies.append(str(path))
    return copies


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _split(root: Path, parts: list[str], files: dict, wnids: list[str], without: set[str]) -> Files:
    """Paths and class indices, class by class."""
    paths, labels = [], []
    for label, wnid in enumerate(wnids):
        for part in parts:
            for name in files[part].get(wnid, []):
                relative = str(Path(part, wnid, name))
                if relative not in without:
                    paths.append(str(root / relative))
                    labels.append(label)
    return paths, labels
