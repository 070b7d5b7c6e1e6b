"""What is known of each image file: a hash of its content, its size in pixels, whether it is grey.

Every file is read once. The facts are kept beside the data, or where that cannot be written in the user's cache folder,
and hold as long as a file's size and time do.
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

from utils import in_utf8, replacing, thread_pool

FILE, VERSION = ".image-facts.npz", 1
UNREADABLE, GREY, COLOUR = 0, 1, 2
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
# digest: BLAKE2b of the whole file. kind: by the header alone; the rest of the file may be damaged all the same.
FACTS = np.dtype([("digest", "<u8", 2), ("bytes", "<i8"), ("width", "<u4"), ("height", "<u4"), ("kind", "u1")])
GONE = np.zeros((), FACTS)  # of a file that cannot be read at all


def file_facts(root: Path, paths: Sequence[str], workers: int) -> np.ndarray:
    """The facts (N,), of dtype FACTS, of files below `root`.

    Args:
        workers: threads, as reading and hashing let go of the interpreter lock.
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
    present = [i for i in range(len(paths)) if is_known(facts[i])]  # of others it is not known for how long
    _write(root, [names[i] for i in present], stamps[present], facts[present])
    return facts


def array_facts(images: np.ndarray) -> np.ndarray:
    """The facts (N,) of images that came in memory, uint8 (N, H, W, C): of their pixels."""
    facts = np.zeros(len(images), FACTS)
    digests = b"".join(hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest() for image in images)
    facts["digest"] = np.frombuffer(digests, "<u8").reshape(-1, 2)
    facts["height"], facts["width"] = images.shape[1:3]
    facts["kind"] = GREY if images.shape[3] == 1 else COLOUR
    return facts


def is_known(facts: np.ndarray) -> np.ndarray:
    """Whether a file, or each of some, could be read, so that its content is known."""
    return facts["digest"].any(-1)


def hexadecimal(digests: np.ndarray) -> list[str]:
    """Digests (N, 2) as text."""
    data = np.ascontiguousarray(digests, "<u8").tobytes().hex()
    return [data[i : i + 32] for i in range(0, len(data), 32)]


def _stamp(path: str) -> tuple[int, int]:
    try:
        state = os.stat(path)  # noqa: PTH116 (Path costs more than the call)
    except OSError:
        return -1, -1
    return state.st_size, state.st_mtime_ns


def _look(path: str) -> np.void:
    found = GONE.copy()
    try:
        data = Path(path).read_bytes()
    except OSError:
        return found
    found["digest"] = np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), "<u8")
    found["bytes"] = len(data)
    from PIL import Image

    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:  # its plugins raise many kinds
        found["width"], found["height"] = image.size
        found["kind"] = GREY if image.mode in GREY_MODES else COLOUR
    return found


def _places(root: Path) -> list[Path]:
    """Where the facts may be kept, the best place first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "image-facts")  # noqa: PTH111
    name = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=8).hexdigest()
    return [root / FILE, cache / f"{name}.npz"]


def _read(root: Path) -> dict[tuple[str, int, int], np.void]:
    """Facts by name, size and time of the file, from every place that has some."""
    known: dict[tuple[str, int, int], np.void] = {}
    for place in _places(root):
        # Not there, damaged, or of another version: numpy and zipfile raise many kinds.
        with contextlib.suppress(Exception), np.load(place, allow_pickle=False) as file:
            names = file["names"].tobytes().decode("utf-8", "surrogateescape").split("\0")
            stamps, facts = file["stamps"], file["facts"]
            if int(file["version"]) == VERSION and facts.dtype == FACTS and len(names) == len(stamps) == len(facts):
                known.update(zip(zip(names, *stamps.T.tolist(), strict=True), facts, strict=True))
    return known


def _write(root: Path, names: list[str], stamps: np.ndarray, facts: np.ndarray) -> None:
    text = np.frombuffer("\0".join(names).encode("utf-8", "surrogateescape"), np.uint8)
    for place in _places(root):
        try:
            if place.parent != root:
                place.parent.mkdir(parents=True, exist_ok=True)
            with replacing(place) as temporary, temporary.open("wb") as file:
                np.savez(file, version=VERSION, names=text, stamps=stamps, facts=facts)
            return
        except OSError:  # read-only, or full: the next run looks again
            continue
