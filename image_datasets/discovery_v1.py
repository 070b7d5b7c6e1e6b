"""Finds image files by --data-rules 1, for older runs: by extension alone, hidden files included."""

from __future__ import annotations

import os
from pathlib import Path

from image_datasets.discovery import Files, FoundImages, check_classes, tiny_imagenet_val
from image_datasets.image_files import EXTENSIONS
from utils import BadRequest, in_utf8, readable, shorten

NOTE = "files are found and read by the rules of earlier versions (--data-rules 1)"


def find_images(name: str, root: Path) -> FoundImages:
    """As `discovery.find_images`."""
    if not (root / "train").is_dir():
        raise BadRequest(f"--datapath {root}: has no folder train/ with one folder of images per class")
    class_names = sorted(_class_folders(root / "train"))
    check_classes(root / "train", class_names)
    splits = {"train": _scan(root / "train", class_names, images="images" if name == "tiny-imagenet" else "")}
    if name == "tiny-imagenet":
        splits["test"] = tiny_imagenet_val(root / "val", class_names)
    else:
        for part in ("val",) if name == "imagenet1k" else ("val", "test"):
            if (root / part).is_dir():
                splits[part] = _scan(root / part, class_names, allow_empty=True)
    if name == "imagenet1k" and "val" not in splits:
        raise BadRequest(f"--datapath {root}: has no val/ with one folder of images per class")
    return FoundImages(class_names, splits, [NOTE])


def _class_folders(folder: Path) -> dict[str, str]:
    """Folder name of each class. The two differ if the folder's name is not UTF-8 (see `utils.readable`)."""
    return {readable(entry.name): entry.name for entry in os.scandir(folder) if entry.is_dir()}


def _scan(folder: Path, class_names: list[str], images: str = "", allow_empty: bool = False) -> Files:
    """Sorted image files and their class indices. Raises BadRequest for an unknown class, or one without images."""
    present = _class_folders(folder)
    if not present:
        raise BadRequest(f"{folder}: has no class folders (images must lie in {folder}/<class>/)")
    unknown = sorted(present.keys() - set(class_names))
    if unknown:
        raise BadRequest(f"{folder}: has classes that train/ lacks: {shorten(unknown)}")
    paths, labels = [], []
    for label, name in enumerate(class_names):
        if name not in present and allow_empty:
            continue
        files = []
        for where, folders, names in os.walk(folder / present.get(name, name) / images):
            folders.sort()
            files += [os.path.join(where, file) for file in names if file.lower().endswith(EXTENSIONS)]  # noqa: PTH118
        if not files:
            raise BadRequest(f"{folder / name}: a class folder without images ({', '.join(EXTENSIONS)})")
        files.sort(key=in_utf8)
        paths += files
        labels += [label] * len(files)
    if not paths:
        raise BadRequest(f"{folder}: has no images ({', '.join(EXTENSIONS)})")
    return paths, labels
