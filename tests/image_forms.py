"""One small set of images, written in every form that the suite reads, by the library that people write it with."""

from __future__ import annotations

import csv
import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = ["cat", "dog", "owl"]
COUNTS = {"train": 12, "val": 3, "test": 4}  # images of each class


def images(side: int = 16, chans: int = 3, **counts: int) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Pairs of class index and pixels by split, class by class. A bright patch is the class."""
    rng = np.random.default_rng(0)
    found = {}
    for part, count in (counts or COUNTS).items():
        found[part] = []
        for label in range(len(NAMES)):
            for _ in range(count):
                pixels = rng.integers(0, 120, (side, side, chans), dtype=np.uint8)
                pixels[: side // 2, label * side // 4 : (label + 1) * side // 4] += 120
                found[part].append((label, pixels.squeeze()))
    return found


def encode(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def folder(root: Path, content: dict) -> str:
    for part, pairs in content.items():
        for i, (label, pixels) in enumerate(pairs):
            file = root / part / NAMES[label] / f"{i:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode(pixels))
    return f"folder --datapath {root}"


def csv_list(root: Path, content: dict) -> str:
    folder(root, content)
    with (root / "list.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["path", "label", "split"])
        for part, pairs in content.items():
            for i, (label, _) in enumerate(pairs):
                lines.writerow([f"{part}/{NAMES[label]}/{i:03}.png", NAMES[label], part])
    return f"csv/{root}/list.csv"


def npz(root: Path, content: dict) -> str:
    """As MedMNIST: labels are a column."""
    arrays = {}
    for part, pairs in content.items():
        arrays[f"{part}_images"] = np.stack([pixels for _, pixels in pairs])
        arrays[f"{part}_labels"] = np.array([[label] for label, _ in pairs])
    root.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(root / "set.npz", **arrays)
    return f"npz/{root}/set.npz"


def mnist(root: Path, content: dict) -> str:
    """As published: gzipped IDX files of grey images, which torchvision reads. It has no validation split."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        pixels = np.stack([pixels for _, pixels in content[part]])
        labels = np.array([label for label, _ in content[part]], np.uint8)
        for name, array in ((f"{prefix}-images-idx3-ubyte", pixels), (f"{prefix}-labels-idx1-ubyte", labels)):
            head = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
            (raw / name).write_bytes(head + array.tobytes())
            with gzip.open(raw / f"{name}.gz", "wb") as file:
                file.write(head + array.tobytes())
    return f"torchvision/MNIST --datapath {root}"


def hugging_face(root: Path, content: dict) -> str:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    (root / "data").mkdir(parents=True)
    for part, pairs in content.items():
        rows = {"image": [{"bytes": encode(pixels), "path": None} for _, pixels in pairs],
                "label": [label for label, _ in pairs]}  # fmt: skip
        name = {"val": "validation"}.get(part, part)
        datasets.Dataset.from_dict(rows, features).to_parquet(str(root / "data" / f"{name}-00000-of-00001.parquet"))
    return f"hf/{root}"


def webdataset(root: Path, content: dict) -> str:
    library = pytest.importorskip("webdataset")
    root.mkdir(parents=True, exist_ok=True)
    for part, pairs in content.items():
        with library.ShardWriter(str(root / f"{part}-%06d.tar"), maxcount=10, verbose=0) as shards:
            for i, (label, pixels) in enumerate(pairs):
                shards.write({"__key__": f"{i:06}", "png": encode(pixels), "cls": NAMES[label]})
    return f"webdataset/{root}"


FORMS = {"csv": csv_list, "npz": npz, "hf": hugging_face, "webdataset": webdataset}
