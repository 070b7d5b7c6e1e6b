"""Data sets of image files: any folder of class folders, ImageNet-1k, Tiny ImageNet.

Sets whose images are all equally small are decoded once and kept as one array; others are read while training.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from image_datasets.bad_images import BadImage
from image_datasets.dataset import Dataset, LocatedDataset, statistics_for
from image_datasets.discovery import LeftOut, class_folders, find_splits, images_in, unused
from image_datasets.orientation import of_file, of_image, turned
from image_datasets.pixels import by_meaning
from image_datasets.reading import CURRENT, OLDEST, Reading
from utils import BadRequest, in_utf8, readable, shorten, thread_pool

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
SMALL = 64  # px: sets of images up to this side are kept in memory
KEPT = 224  # px: sets of squares of one size up to this side keep it, unless more is asked for
LOOKED_AT = 256  # files that are opened before the data are read
TOGETHER = 32  # small images that a thread decodes without a pause
OLD_RULES = "files are found and read by the rules of earlier versions (--data-rules 1)"
DIFFERING = f"its images differ in size, so they are streamed and resized, to {KEPT} px unless --img-size says"
SLIMMEST = 1000  # times a side may be the other: of a line of pixels resizing would make more than memory holds
# Pillow's remarks on images that are refused below, on transparency, and on metadata that nothing depends on.
warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")
warnings.filterwarnings("ignore", "Palette images with Transparency")
warnings.filterwarnings("ignore", "Corrupt EXIF data")


@dataclass(frozen=True)
class Layout:
    """File names and class indices of each split that the folder has."""

    root: Path
    class_names: list[str]
    splits: dict[str, tuple[list[str], list[int]]]
    side: int | None  # of the images, where the first of each class are equal, square and small
    grey: bool
    streamed_side: int | None = None  # of those looked at, where they are equal, square and not small
    notes: tuple[str, ...] = ()

    def with_splits(self, splits: dict[str, tuple[list[str], list[int]]], class_names: list[str]) -> Layout:
        return replace(self, splits=splits, class_names=class_names)


def check_root(name: str, path: str | None, download: bool, verify: bool, holds: str) -> Path:
    """The folder of a data set of image files. Raises BadRequest where it is not given, not there, or given with flags
    that have no effect on such sets.

    Args:
        holds: what must lie in it, for the message.
    """
    if path is None:
        raise BadRequest(f"--dataset {name} needs --datapath: the folder that holds {holds}")
    if download:
        raise BadRequest(f"--download has no effect with --dataset {name}: it cannot be fetched, only read")
    if not verify:
        raise BadRequest(f"--no-verify-checksum has no effect with --dataset {name}: image files have no checksum")
    if not Path(path).is_dir():
        raise BadRequest(f"--datapath {path}: no such folder")
    return Path(path)


def locate(
    name: str, path: str | None, download: bool, verify: bool, skip_bad: bool, reading: Reading
) -> LocatedDataset:
    root = check_root(name, path, download, verify, "train/")
    class_names, splits, notes = (_find_as_before if reading.rules == OLDEST else _find)(name, root)
    side, grey = peek(splits["train"], skip_bad, reading)
    layout = Layout(root, class_names, splits, side, grey, common_side(splits, side, reading), tuple(notes))
    has_val = name == "folder" and "val" in splits and "test" in splits
    return LocatedDataset(name, layout, has_val=has_val, skip_bad=skip_bad, reading=reading)


FoundFiles = tuple[list[str], dict[str, tuple[list[str], list[int]]], list[str]]  # classes, splits, notes


def _find(name: str, root: Path) -> FoundFiles:
    """The classes and image files of each split, and what a user should know of how they were found."""
    left_out = LeftOut()
    folders = find_splits(root)
    if "train" not in folders:
        raise BadRequest(f"--datapath {root}: has no folder train/ with one folder of images per class")
    wanted = {"imagenet1k": ("train", "val"), "tiny-imagenet": ("train",)}.get(name, tuple(folders))
    if name == "imagenet1k" and "val" not in folders:
        raise BadRequest(f"--datapath {root}: has no val/ with one folder of images per class")
    found = {part: class_folders(folders[part], left_out) for part in wanted}
    class_names = sorted(found["train"])
    _check_classes(folders["train"], class_names)
    splits = {}
    for part in wanted:
        if not found[part]:
            raise BadRequest(f"{folders[part]}: has no class folders (images must lie in {folders[part]}/<class>/)")
        unknown = sorted(found[part].keys() - set(class_names))
        if unknown:
            raise BadRequest(f"{folders[part]}: has classes that train/ lacks: {shorten(unknown)}")
        paths, labels = [], []
        for label, class_name in enumerate(class_names):
            if class_name not in found[part] and part != "train":
                continue
            inside = found[part][class_name]
            if name == "tiny-imagenet":
                inside = [str(Path(folder, "images")) for folder in inside if Path(folder, "images").is_dir()]
            files = images_in(inside, left_out)
            if not files:
                raise BadRequest(f"{folders[part] / class_name}: a class folder without images")
            paths += files
            labels += [label] * len(files)
        splits[part] = paths, labels
    if name == "tiny-imagenet":
        splits["test"] = _tiny_imagenet_val(root / "val", class_names)
    beside = unused(root, list(folders.values())) if name == "folder" else []
    return class_names, splits, [*left_out.notes(), *beside]


def _check_classes(folder: Path, class_names: list[str]) -> None:
    if len(class_names) < 2:
        found = f"only one class folder, {class_names[0]}/" if class_names else "no class folders"
        raise BadRequest(f"{folder}: has {found}; images must lie in train/<class>/, of at least two classes")


def _find_as_before(name: str, root: Path) -> FoundFiles:
    """By the rules of version 1, which runs keep that were made by them."""
    if not (root / "train").is_dir():
        raise BadRequest(f"--datapath {root}: has no folder train/ with one folder of images per class")
    class_names = sorted(_class_folders(root / "train"))
    _check_classes(root / "train", class_names)
    splits = {"train": _scan(root / "train", class_names, images="images" if name == "tiny-imagenet" else "")}
    if name == "tiny-imagenet":
        splits["test"] = _tiny_imagenet_val(root / "val", class_names)
    else:
        for part in ("val",) if name == "imagenet1k" else ("val", "test"):
            if (root / part).is_dir():
                splits[part] = _scan(root / part, class_names, allow_empty=True)
    if name == "imagenet1k" and "val" not in splits:
        raise BadRequest(f"--datapath {root}: has no val/ with one folder of images per class")
    return class_names, splits, [OLD_RULES]


def load(found: LocatedDataset, workers: int) -> Dataset:
    import numpy as np

    from image_datasets.splits import Split, split_test

    layout: Layout = found.layout
    grey, side, streamed_side = layout.grey, layout.side, layout.streamed_side
    splits, notes = {}, list(layout.notes)
    facts: dict[str, np.ndarray | None] = dict.fromkeys(layout.splits)
    if found.reading.rules > OLDEST:
        from image_datasets.facts import look_at

        paths = [path for files, _ in layout.splits.values() for path in files]
        ends = np.cumsum([len(files) for files, _ in layout.splits.values()])[:-1]
        facts = dict(zip(layout.splits, np.split(look_at(layout.root, paths, workers), ends), strict=True))
        grey, side, streamed_side = _judge(np.concatenate(list(facts.values())), notes)
        if layout.side is not None and side is None:
            notes.append(DIFFERING)
    chans = 1 if grey else 3
    for part, (paths, labels) in layout.splits.items():
        images, reasons = (None, None) if side is None else _decode_all(paths, side, chans, workers, found)
        if images is None and side is not None:
            side = None
            notes.append(DIFFERING)
        splits[part] = Split(
            np.asarray(labels, dtype=np.int64), images, paths, None, reasons, found.reading, facts[part]
        )
    if side is None:
        splits = {part: replace(split, images=None, reasons=None) for part, split in splits.items()}
    train = splits["train"]
    test_name = "test"
    if "test" in splits:
        test = splits["test"]
        if found.name == "tiny-imagenet":
            test_name = "val"
            notes.append("tiny-imagenet's test labels are not published: its val/ is what is reported on")
    elif "val" in splits:
        test, test_name = splits["val"], "val"
        notes.append("there is no test/: val/ is what is reported on")
    else:
        train, test = split_test(train, layout.class_names)
        notes.append(
            "there is neither test/ nor val/: a fixed, stratified fifth of train/ is held out as the test split"
        )
    mean, std = statistics_for(chans)
    if train.images is not None:
        mean, std = channel_statistics(train.readable_images())
    return Dataset(
        name=found.name,
        class_names=layout.class_names,
        mean=mean,
        std=std,
        side=side,
        streamed_side=None if side is not None else streamed_side,
        train=train,
        val=splits["val"] if found.has_val else None,
        test=test,
        test_name=test_name,
        notes=notes,
    )


def _judge(facts, notes: list[str]) -> tuple[bool, int | None, int | None]:
    """(whether all images are grey, the side of all where they are equal, square and small, the same where they are not
    small but up to 224 px), from all files' headers. Adds a mixture of grey and colour to `notes`."""
    import numpy as np

    from image_datasets.facts import COLOUR, GREY

    seen = facts[facts["kind"] > 0]
    grey, colour = (int((seen["kind"] == kind).sum()) for kind in (GREY, COLOUR))
    if grey and colour:
        notes.append(f"grey images: {grey:,} of {grey + colour:,}; all are read in colour")
    sizes = np.unique(seen[["width", "height"]]).tolist()
    width, height = sizes[0] if len(sizes) == 1 else (0, 1)
    square = width if width == height else None
    return (
        grey > 0 and not colour,
        square if square and square <= SMALL else None,
        square if square and SMALL < square <= KEPT else None,
    )


def channel_statistics(images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images (N, H, W, C), for pixel values in [0, 1]."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(images)  # torch counts bytes as they are, NumPy turns each into 8 bytes first
    counts = [torch.bincount(pixels[..., c].flatten(), minlength=256).numpy() for c in range(images.shape[-1])]
    values = np.arange(256) / 255
    means = [float((count * values).sum() / count.sum()) for count in counts]
    variances = [
        float((count * (values - mean) ** 2).sum() / count.sum()) for count, mean in zip(counts, means, strict=True)
    ]
    return tuple(means), tuple(max(variance, 1e-12) ** 0.5 for variance in variances)


def _class_folders(folder: Path) -> dict[str, str]:
    """By name of the class the name of its folder, which differ where that is not UTF-8 (see `utils.readable`)."""
    return {readable(entry.name): entry.name for entry in os.scandir(folder) if entry.is_dir()}


def _scan(folder: Path, class_names: list[str], images: str = "", allow_empty: bool = False):
    """Sorted image files and their class indices. Raises BadRequest for a class that is unknown or has no image."""
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


def _tiny_imagenet_val(folder: Path, class_names: list[str]):
    """val/images/*.JPEG, their classes in val/val_annotations.txt: file name, WNID and a box, tab-separated."""
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


def peek(split: tuple[list[str], list[int]], skip_bad: bool, reading: Reading = CURRENT) -> tuple[int | None, bool]:
    """(side, grey): the common side of the first image of each class, None where it differs or is above 64 px.

    Args:
        skip_bad: take the first that can be read; else BadRequest where one cannot.
    """
    sizes, grey, seen = set(), True, set()
    for path, label in zip(*split, strict=True):
        if label in seen:
            continue
        try:
            with _open(path, reading) as image:
                sizes.add(image.size)
                grey = grey and image.mode in ("L", "1")
        except BadImage as error:
            if not skip_bad:
                raise
            reason = error
            continue
        seen.add(label)
    if not sizes:
        raise BadRequest(f"none of the {len(split[0]):,} training images can be read; the last: {reason}")
    width, height = next(iter(sizes))
    small = len(sizes) == 1 and width == height and width <= SMALL
    return (width if small else None), grey


def common_side(splits: dict[str, tuple[list[str], list[int]]], side: int | None, reading: Reading) -> int | None:
    """The side of the images of a set that is streamed, where some hundred of them are squares of one size up to 224
    px; else None. When the data are read, all of them are looked at. Under the oldest rules nobody looks."""
    if side is not None or reading.rules == OLDEST:
        return None
    sizes = set()

    def look(path: str) -> bool:
        with contextlib.suppress(BadImage), _open(path, reading) as image:
            sizes.add(image.size)
        width, height = next(iter(sizes), (1, 1))
        return len(sizes) < 2 and width == height <= KEPT

    paths = [path for files, _ in splits.values() for path in files]
    alike = all(map(look, paths[:: max(1, len(paths) // LOOKED_AT)]))
    return next(iter(sizes))[0] if alike and sizes else None


def read_image(path: str, chans: int, reading: Reading = CURRENT):
    """The decoded image in RGB or grey, of several frames the first: by the meaning of its pixels, and upright, as
    image_datasets/pixels.py has it; under the oldest rules as Pillow's `convert` has it, and not turned. Raises
    BadImage where it is damaged, too large, or does not tell its colours."""
    with _open(path, reading) as image:
        if reading.rules == OLDEST:
            return image.convert("RGB" if chans == 3 else "L")
        how = of_image(image) if reading.turns else 1
        return turned(by_meaning(image, chans), how)


def stored_size(path: str, reading: Reading = CURRENT) -> tuple[int, int] | None:
    """(height, width) of an image, upright where it is to be turned, from its header; None where it is refused."""
    try:
        with _open(path, reading) as image:
            size = image.size
    except BadImage:
        return None
    return size if reading.turns and of_file(path) > 4 else size[::-1]


@contextlib.contextmanager
def _open(path: str, reading: Reading):
    from PIL import Image

    if reading.max_pixels > (Image.MAX_IMAGE_PIXELS or math.inf):
        Image.MAX_IMAGE_PIXELS = reading.max_pixels  # never lowered, so threads cannot disturb each other
    too_many = f"are more than --max-pixels {reading.max_pixels:,} allows"
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > reading.max_pixels:
                raise ValueError(f"{width:,} x {height:,} pixels {too_many}")
            if max(width, height) > SLIMMEST * min(width, height):
                raise ValueError(f"of {width:,} x {height:,} pixels one side is more than {SLIMMEST:,} times the other")
            yield image
    except Image.DecompressionBombError as error:
        count = re.search(r"\d+", str(error))
        raise BadImage(path, f"{int(count[0]):,} pixels {too_many}" if count else f"its pixels {too_many}") from None
    except Exception as error:  # Pillow's plugins raise many kinds on damaged files
        raise BadImage(path, str(error) or type(error).__name__) from None


def _decode_all(paths: list[str], side: int, chans: int, workers: int, found: LocatedDataset):
    """(uint8 (N, side, side, chans), why each image cannot be read), or twice None where one is of another size.

    The decoders let go of the interpreter lock, so threads do.
    """
    import numpy as np

    from image_datasets.decode import as_array, read_pixels  # it imports torch, which the checks do without

    images = np.zeros((len(paths), side, side, chans), dtype=np.uint8)
    reasons = np.full(len(paths), None)

    def decode(start: int) -> bool:
        for i in range(start, min(start + TOGETHER, len(paths))):
            try:
                pixels = as_array(read_pixels(paths[i], chans, found.reading))
            except BadImage as error:
                if not found.skip_bad:
                    raise
                reasons[i] = error.reason
                continue
            if pixels.shape != images.shape[1:]:
                return False
            images[i] = pixels
        return True

    with thread_pool(workers) as pool:
        alike = all(pool.imap(decode, range(0, len(paths), TOGETHER)))
    return (images, reasons) if alike else (None, None)
