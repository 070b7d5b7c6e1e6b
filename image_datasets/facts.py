"""Facts of each image file: a hash of its content, its size in pixels, whether it is grey.

Every file is read once. Facts are cached beside the data, or in the user's cache folder if that is read-only. They are
valid while the file's size and modification time stay the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from image_datasets import cache_file
from image_datasets.members import NO_STAMP, content, stamp
from utils import in_utf8, thread_pool

FILE, VERSION = ".image-facts.npz", 1
UNREADABLE, GREY, COLOUR = 0, 1, 2
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
# digest: BLAKE2b of the whole file. kind: by the header alone, so the rest of the file may be damaged.
FACTS = np.dtype([("digest", "<u8", 2), ("bytes", "<i8"), ("width", "<u4"), ("height", "<u4"), ("kind", "u1")])
GONE = np.zeros((), FACTS)  # for files that cannot be opened


def file_facts(root: Path, paths: Sequence[str], workers: int) -> np.ndarray:
    """Facts of files below `root`, an array (N,) of dtype FACTS.

    Args:
        workers: threads; reading and hashing release the interpreter lock.
    """
    from tqdm import tqdm

    names = [in_utf8(os.path.relpath(path, root)) for path in paths]
    stamps = np.array([_stamp(path) for path in paths], "<i8").reshape(-1, 2)
    known = _read(root)
    facts = np.zeros(len(paths), FACTS)
    missing = []
    for i, key in enumerate(zip(names, *stamps.T.tolist(), strict=True)):
        if key in known:
            facts[i] = known[key]
        else:
            missing.append(i)
    if not missing:
        return facts
    with (
        thread_pool(workers) as pool,
        tqdm(total=len(missing), desc="reading images once", unit="img", leave=False,
             disable=not sys.stderr.isatty()) as bar,
    ):  # fmt: skip
        for i, found in zip(missing, pool.imap(_look, (paths[i] for i in missing), chunksize=16), strict=True):
            facts[i] = found
            bar.update()
    present = [i for i in range(len(paths)) if is_known(facts[i])]  # others may become readable any time
    _write(root, [names[i] for i in present], stamps[present], facts[present])
    return facts


def array_facts(images: np.ndarray) -> np.ndarray:
    """Facts (N,) of images in memory, uint8 (N, H, W, C); the digest is that of the pixels."""
    facts = np.zeros(len(images), FACTS)
    digests = b"".join(hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest() for image in images)
    facts["digest"] = np.frombuffer(digests, "<u8").reshape(-1, 2)
    facts["height"], facts["width"] = images.shape[1:3]
    facts["kind"] = GREY if images.shape[3] == 1 else COLOUR
    return facts


def is_known(facts: np.ndarray) -> np.ndarray:
    """Whether the content is known, for one or several facts: the file could be read."""
    return facts["digest"].any(-1)


def hexadecimal(digests: np.ndarray) -> list[str]:
    """Digests (N, 2) as 32 hexadecimal digits each."""
    data = np.ascontiguousarray(digests, "<u8").tobytes().hex()
    return [data[i : i + 32] for i in range(0, len(data), 32)]


def _stamp(path: str) -> tuple[int, int]:
    try:
        return stamp(path)
    except OSError:
        return NO_STAMP


def _look(path: str) -> np.void:
    found = GONE.copy()
    try:
        data = content(path)
    except (OSError, ValueError):
        return found
    found["digest"] = np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), "<u8")
    found["bytes"] = len(data)
    from PIL import Image

    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:  # Pillow's plugins raise many kinds
        found["width"], found["height"] = image.size
        found["kind"] = GREY if image.mode in GREY_MODES else COLOUR
    return found


def _read(root: Path) -> dict[tuple[str, int, int], np.void]:
    """Cached facts by name, size and time of the file, from all places."""
    known: dict[tuple[str, int, int], np.void] = {}
    for place in cache_file.places(root, FILE):
        # Missing, damaged or of another version: numpy and zipfile raise many kinds.
        with contextlib.suppress(Exception), np.load(place, allow_pickle=False) as file:
            names = cache_file.unpack(file["names"])
            stamps, facts = file["stamps"], file["facts"]
            if int(file["version"]) == VERSION and facts.dtype == FACTS and len(names) == len(stamps) == len(facts):
                known.update(zip(zip(names, *stamps.T.tolist(), strict=True), facts, strict=True))
    return known


def _write(root: Path, names: list[str], stamps: np.ndarray, facts: np.ndarray) -> None:
    cache_file.save(root, FILE, version=VERSION, names=cache_file.pack(names), stamps=stamps, facts=facts)
