"""Finds the class folders and image files of a data set, by rules 2. Counts what it leaves out."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from image_datasets.image_files import EXTENSIONS
from utils import BadRequest, in_utf8, readable, shorten

# Messages use the first name; a data set may have one folder of each line.
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
# Left behind by systems, editors and programs, besides names that start with a dot.
LITTER = {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "lost+found",
          "__pycache__", "icon\r"}  # fmt: skip
# First bytes of formats that Pillow reads: JPEG, PNG, GIF, TIFF, JPEG 2000. `is_image` knows more.
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
              b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")  # fmt: skip

Files = tuple[list[str], list[int]]  # paths of a split's images, and their class indices


class FoundImages(NamedTuple):
    """The images below a folder.

    Attributes:
        splits: the files of each split that the folder has.
        notes: what a user should know about the search, a sentence each.
    """

    class_names: list[str]
    splits: dict[str, Files]
    notes: list[str]


@dataclass
class LeftOut:
    """What the search passed over."""

    hidden: int = 0
    no_image: Counter = field(default_factory=Counter)  # by file name extension
    spellings: list[str] = field(default_factory=list)  # classes whose folders differ in Unicode spelling

    def notes(self) -> list[str]:
        """A sentence for each kind."""
        found = []
        if self.hidden:
            found.append(f"left out: {self.hidden:,} files and folders that are hidden, or that programs leave behind")
        if self.no_image:
            kinds = shorten((f"{ending} {count:,}" for ending, count in self.no_image.most_common()), 4)
            found.append(f"left out: {self.no_image.total():,} files that are no images ({kinds})")
        if self.spellings:
            found.append(f"folders whose names differ only in how Unicode spells them are one class:"
                         f" {shorten(self.spellings)}")  # fmt: skip
        return found


def find_images(name: str, root: Path, with_train: bool = True) -> FoundImages:
    """Finds the classes and the image files of each split.

    Args:
        name: of the data set.
        with_train: refuse a folder without training images.

    Raises BadRequest, naming the folder, if something is missing or unexpected.
    """
    left_out = LeftOut()
    folders = find_splits(root)
    if "train" not in folders and (with_train or not folders or name != "folder"):
        raise BadRequest(f"--datapath {root}: has no folder train/ with one folder of images per class")
    wanted = {"imagenet1k": ("train", "val"), "tiny-imagenet": ("train",)}.get(name, tuple(folders))
    if name == "imagenet1k" and "val" not in folders:
        raise BadRequest(f"--datapath {root}: has no val/ with one folder of images per class")
    found = {part: class_folders(folders[part], left_out) for part in wanted}
    first = wanted[0]
    class_names = sorted(found[first] if first == "train" else set().union(*found.values()))
    check_classes(folders[first], class_names)
    splits = {}
    for part in wanted:
        if not found[part]:
            raise BadRequest(f"{folders[part]}: has no class folders (images must lie in {folders[part]}/<class>/)")
        unknown = sorted(found[part].keys() - set(class_names))
        if unknown:
            raise BadRequest(f"{folders[part]}: has classes that train/ lacks: {shorten(unknown)}")
        splits[part] = _split(name, folders[part], found[part], class_names, left_out, every=part == "train")
    if name == "tiny-imagenet":
        splits["test"] = tiny_imagenet_val(root / "val", class_names)
    beside = unused(root, list(folders.values())) if name == "folder" else []
    return FoundImages(class_names, splits, [*left_out.notes(), *beside])


def _split(
    name: str, folder: Path, found: dict[str, list[str]], class_names: list[str], left_out: LeftOut, every: bool
) -> Files:
    """The files of a split. Raises BadRequest for a class folder without images.

    Args:
        found: folders of each class.
        every: the split has a folder of every class.
    """
    paths, labels = [], []
    for label, class_name in enumerate(class_names):
        if class_name not in found and not every:
            continue
        inside = found[class_name]
        if name == "tiny-imagenet":
            inside = [str(Path(folder, "images")) for folder in inside if Path(folder, "images").is_dir()]
        files = images_in(inside, left_out)
        if not files:
            raise BadRequest(f"{folder / class_name}: a class folder without images")
        paths += files
        labels += [label] * len(files)
    return paths, labels


def check_classes(folder: Path, class_names: list[str]) -> None:
    """Raises BadRequest for fewer than two classes."""
    if len(class_names) < 2:
        found = f"only one class folder, {class_names[0]}/" if class_names else "no class folders"
        raise BadRequest(f"{folder}: has {found}; images must lie in train/<class>/, of at least two classes")


def tiny_imagenet_val(folder: Path, class_names: list[str]) -> Files:
    """The files val/images/*.JPEG, whose classes are in val/val_annotations.txt.

    Its lines are tab-separated: file name, WNID, bounding box. Raises BadRequest if it is missing or damaged.
    """
    annotations = folder / "val_annotations.txt"
    if not annotations.is_file():
        raise BadRequest(f"{annotations}: no such file; it names the class of each image in val/images/")
    index = {name: label for label, name in enumerate(class_names)}
    paths, labels = [], []
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), 1):
        file, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if wnid not in index:
            raise BadRequest(f"{annotations} line {number}: class {wnid!r} is not in train/")
        paths.append(str(folder / "images" / file))
        labels.append(index[wnid])
    if not paths:
        raise BadRequest(f"{annotations}: names no images")
    return paths, labels


def find_splits(root: Path) -> dict[str, Path]:
    """The folder of each split that `root` has. Raises BadRequest if a split has two."""
    found = {}
    for split, names in SPLITS.items():
        there = [root / name for name in names if (root / name).is_dir()]
        if len(there) > 1:
            raise BadRequest(f"{root}: has both {there[0].name}/ and {there[1].name}/; keep one as the {split} split")
        if there:
            found[split] = there[0]
    return found


def unused(root: Path, used: list[Path]) -> list[str]:
    """A note if folders beside the splits look like data: they hold folders of images."""
    names = []
    for entry in sorted(os.scandir(root), key=lambda entry: in_utf8(entry.name)):
        if is_hidden(entry.name) or Path(entry.path) in used or not entry.is_dir():
            continue
        classes = (inner for inner in os.scandir(entry.path) if inner.is_dir() and not is_hidden(inner.name))
        if any(is_image(file) for inner in classes for file in os.scandir(inner.path)):
            names.append(f"{readable(entry.name)}/")
    return [f"{shorten(names)} beside {used[0].name}/ looks like data and is not used"] if names else []


def class_folders(folder: Path, left_out: LeftOut) -> dict[str, list[str]]:
    """Folders of each class, links included, by class name in Unicode's composed form (NFC).

    Raises BadRequest for a broken link.
    """
    found: dict[str, list[str]] = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: in_utf8(entry.name)):
        if is_hidden(entry.name):
            left_out.hidden += 1
        elif entry.is_dir():
            found.setdefault(unicodedata.normalize("NFC", readable(entry.name)), []).append(entry.path)
        elif entry.is_symlink() and not Path(entry.path).exists():
            raise BadRequest(f"{entry.path}: is a link that leads nowhere; mend it or delete it")
    left_out.spellings += [name for name, folders in found.items() if len(folders) > 1]
    return found


def images_in(folders: list[str], left_out: LeftOut) -> list[str]:
    """Image files at any depth, recognised by extension or else by content, ordered by name.

    Links are followed; a folder that is reached twice counts once.
    """
    files: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = list(folders)
    while waiting:
        folder = waiting.pop()
        state = os.stat(folder)  # noqa: PTH116
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        for entry in os.scandir(folder):
            if is_hidden(entry.name):
                left_out.hidden += 1
            elif entry.is_dir():
                waiting.append(entry.path)
            elif is_image(entry):
                files.append(entry.path)
            else:
                left_out.no_image[Path(entry.name).suffix.lower() or "no ending"] += 1
    return sorted(files, key=in_utf8)


def is_hidden(name: str) -> bool:
    """Whether a file name is hidden, or typical of what systems and editors leave behind."""
    return name.startswith((".", "~$")) or name.endswith("~") or name.lower() in LITTER


def is_image(entry: os.DirEntry) -> bool:
    """Whether a file, or a link to one, has the extension of an image or starts like one."""
    if entry.is_dir():
        return False
    if entry.name.lower().endswith(EXTENSIONS):
        return True
    try:
        with open(entry.path, "rb") as file:  # noqa: PTH123 (Path costs more than the call)
            start = file.read(16)
    except OSError:
        return False
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    avif = start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis", b"mif1", b"heic")
    # Text may start with BM or P1 too, so look further.
    bmp = start[:2] == b"BM" and start[6:10] == b"\0\0\0\0"
    netpbm = re.match(rb"P[1-7]\s+(\d|#|WIDTH)", start) is not None
    return start.startswith(BEGINNINGS) or webp or avif or bmp or netpbm
