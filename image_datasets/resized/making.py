"""Makes resized copies: only those that are missing, judged by name, size and time of the source files.

A process that is killed at any moment leaves what it has finished. Two processes that want the same copies take turns.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from image_datasets.decode import read_pixels
from image_datasets.file_loader import identity, leave_signals_to_main_process
from image_datasets.members import NO_STAMP, stamp
from image_datasets.reading import OLDEST, Reading
from image_datasets.resized import tiles
from image_datasets.resized.place import KINDS
from image_datasets.resized.store import RECORD, Copies, scan, seal
from utils import BadRequest, RunFailed, human, shorten, take_lock, thread_pool

VERSION = 1  # of the content of copies: a new number makes all of them anew
COMMIT_BYTES, COMMIT_SECONDS = 1 << 25, 2.0  # the most that a killed process loses
LOADED = 8  # images that a worker hands over at once


@dataclass(frozen=True)
class Form:
    """The form of the copies in a folder.

    Attributes:
        kind: one of KINDS.
        side: short side in pixels of the copies of larger images.
        chans: 1 for grey, 3 for colour.
        reading: rules for reading the files.
    """

    kind: str
    side: int
    chans: int
    reading: Reading

    def __str__(self) -> str:
        """Part of the key of every copy: another text makes all of them anew."""
        rules = f" {self.reading}" if self.reading.rules > OLDEST else ""
        return f"{VERSION} {KINDS[self.kind]} {tiles.TILE} {self.side} {self.chans}{rules}"


def complete(place: Path, form: Form, root: str, paths: list[str], workers: int, skip_bad: bool) -> Copies:
    """Makes the copies that `place` lacks of the images `paths`, files below the folder `root`, and returns all.

    Args:
        workers: processes that decode and encode.
        skip_bad: leave unreadable images without copy.

    Raises BadRequest for unreadable images, after making all other copies, and RunFailed if the disk is full.
    """
    keys = _keys(str(form), root, paths, workers, skip_bad)
    files, known, entries = scan(place)
    at = _find(keys, known)
    made = broken = 0
    if (at < 0).any():
        with _locked(place) as alone:
            if alone:
                _clean(place)
            missing = np.flatnonzero(_find(keys, scan(place)[1]) < 0)  # another process may have made some meanwhile
            broken = _copy(place, form, [paths[i] for i in missing], keys[missing], workers, skip_bad)
        made = len(missing) - broken
        files, known, entries = scan(place)
        at = _find(keys, known)
        if (at < 0).sum() > broken:
            raise RunFailed(f"{place}: {(at < 0).sum() - broken:,} copies cannot be read after they were written")
    own = np.zeros(len(paths), entries.dtype)
    own[at >= 0] = entries[at[at >= 0]]
    copies = Copies(form.kind, form.chans, files, own)
    others = len(entries) - (len(paths) - broken)  # of changed or deleted files, or of other runs
    _say(f"copy          {f'{made:,} of {len(paths):,}' if made or broken else f'all {len(paths):,}'} training images"
         f" {'were copied to' if made else 'are in'} {place} ({KINDS[form.kind]}, short side {form.side} px,"
         f" {human(int(copies.entries['size'].sum(dtype=np.int64)))}B)"
         f"{f'; {broken:,} cannot be read and have no copy' if broken else ''}"
         f"{f'; {others:,} more are there that this run does not need' if others > 0 else ''}")  # fmt: skip
    return copies


def _say(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def _keys(form: str, root: str, paths: list[str], workers: int, skip_bad: bool) -> np.ndarray:
    """Keys of the copies, uint64 (N, 2): digests of each file's name below `root`, size, time and of the form."""
    result = np.empty((len(paths), 2), "<u8")

    def fill(start: int) -> None:
        for i in range(start, min(start + 1024, len(paths))):
            try:
                size, time_ns = stamp(paths[i])
            except OSError:
                if not skip_bad:
                    raise
                size, time_ns = NO_STAMP  # reading it will report the error
            text = f"{form}\0{paths[i].removeprefix(root)}\0{size}\0{time_ns}"
            digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).digest()
            result[i] = np.frombuffer(digest, "<u8")

    try:
        with thread_pool(workers) as pool:  # threads mostly wait for the disk or a server
            pool.map(fill, range(0, len(paths), 1024), chunksize=1)
    except OSError as error:
        raise BadRequest(f"{error.filename}: cannot be read ({error.strerror})") from None
    return result


def _find(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Index of the last occurrence of each of `keys` (N, 2) in `known` (M, 2), int64 (N,); -1 if there is none."""
    if not len(known):
        return np.full(len(keys), -1)
    order = np.argsort(known[:, 0], kind="stable")
    at = order[np.searchsorted(known[order, 0], keys[:, 0], side="right") - 1]
    return np.where((known[at] == keys).all(1), at, -1)


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[bool]:
    """Waits until no other process makes copies there. Yields False if the file system has no locks."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = (place / "lock").open("wb")
    except OSError as error:
        raise BadRequest(f"{place}: the copy is not complete, and cannot be written ({error.strerror});"
                         " --cache-dir PATH names another folder") from None  # fmt: skip
    with lock:
        locked = take_lock(lock)
        if locked is False:
            _say(f"copy          another process is at work in {place}; waiting for it")
            locked = take_lock(lock, wait=True)
        yield bool(locked)


def _clean(place: Path) -> None:
    """Deletes files that a killed process left without a finished copy."""
    for data in place.glob("[0-9]*.data"):
        index = data.with_suffix(".index")
        if not index.is_file() or index.stat().st_size < RECORD.itemsize:
            data.unlink()
            index.unlink(missing_ok=True)


def _copy(place: Path, form: Form, paths: list[str], keys: np.ndarray, workers: int, skip_bad: bool) -> int:
    """Makes copies. Returns the number of unreadable images with `skip_bad`; otherwise raises BadRequest at the end."""
    from tqdm import tqdm

    if not paths:
        return 0
    loader = DataLoader(_Sources(paths, form), LOADED, num_workers=min(workers, len(paths)), collate_fn=identity,
                        worker_init_fn=leave_signals_to_main_process)  # fmt: skip
    broken = []
    with (
        _Writer(place, len(paths)) as writer,
        tqdm(total=len(paths), desc="copying images", unit="img", leave=False, disable=not sys.stderr.isatty()) as bar,
    ):
        for key, made in zip(keys, itertools.chain.from_iterable(loader), strict=True):
            bar.update()
            if isinstance(made, str):
                broken.append(made)
                bar.write(" ".join(made.splitlines()), file=sys.stdout)
            else:
                writer.add(key, *made)
    if broken and not skip_bad:
        names = shorten((reason.partition(": cannot")[0] for reason in broken), 3)
        raise BadRequest(f"{len(broken)} of {len(paths):,} images are broken: {names}; repair or delete them"
                         " (the others are copied)")  # fmt: skip
    return len(broken)


class _Sources(torch.utils.data.Dataset):
    """The copy of each image: (content, height, width, checksum), or the reason why there is none."""

    def __init__(self, paths: list[str], form: Form):
        self.paths, self.form = paths, form

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[bytes, int, int, int] | str:
        try:
            pixels = read_resized(self.paths[i], self.form)
        except BadRequest as error:
            return str(error)
        try:
            content = tiles.encode(pixels) if self.form.kind == "jpeg" else pixels.tobytes()
        except (OSError, ValueError) as error:
            return f"{self.paths[i]}: cannot be copied as {KINDS[self.form.kind]} ({error})"
        return content, *pixels.shape[:2], zlib.crc32(content)


def read_resized(path: str, form: Form) -> np.ndarray:
    """Reads an image as uint8 (H, W, C), its short side shrunk to at most `form.side` with antialiasing."""
    from torchvision.transforms.v2 import functional

    image = read_pixels(path, form.chans, form.reading)
    if min(functional.get_size(image)) > form.side:
        image = functional.resize(image, [form.side], antialias=True)
    if not isinstance(image, torch.Tensor):
        image = functional.pil_to_tensor(image)
    return image.permute(1, 2, 0).contiguous().numpy()


class _Writer:
    """Writes a new pair of files in `place`. A record is written once its copy is on disk.

    Args:
        expected: number of images, to estimate the room they need.
    """

    def __init__(self, place: Path, expected: int):
        self.place, self.expected, self.count = place, expected, 0
        self.records: list[tuple] = []
        self.size = self.committed = 0
        self.committed_at = time.monotonic()

    def __enter__(self) -> _Writer:
        with self._os_errors_as_run_failed():
            last = max((int(file.stem) for file in self.place.glob("[0-9]*.*")), default=0)
            for number in itertools.count(last + 1):
                with contextlib.suppress(FileExistsError):
                    self.data = (self.place / f"{number:06d}.data").open("xb")
                    break
            self.index = Path(self.data.name).with_suffix(".index").open("xb")
        return self

    def add(self, key: np.ndarray, content: bytes, height: int, width: int, crc: int) -> None:
        """Adds a copy of an image of this size in pixels. Raises RunFailed if it cannot be written."""
        self.records.append((key, self.size, len(content), height, width, crc, 0))
        self.size += len(content)
        with self._os_errors_as_run_failed():
            self.data.write(content)
            if self.size - self.committed > COMMIT_BYTES or time.monotonic() - self.committed_at > COMMIT_SECONDS:
                self._commit()

    def _commit(self) -> None:
        self.data.flush()
        os.fsync(self.data.fileno())
        records = np.array(self.records, RECORD)
        records["check"] = seal(records)
        self.index.write(records.tobytes())
        self.index.flush()
        os.fsync(self.index.fileno())
        self.count += len(records)
        self.committed, self.committed_at, self.records = self.size, time.monotonic(), []

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if self.records and not isinstance(error, RunFailed):
                with self._os_errors_as_run_failed():
                    self._commit()
        finally:
            for file in (self.data, self.index):
                with contextlib.suppress(OSError):  # if there is no room for buffered bytes
                    file.close()
            if not self.count:
                Path(self.data.name).unlink()
                Path(self.index.name).unlink()
            elif self.committed < self.size:
                os.truncate(self.data.name, self.committed)

    @contextlib.contextmanager
    def _os_errors_as_run_failed(self) -> Iterator[None]:
        """Turns an OSError into RunFailed: a line that says what is written and how much room the rest needs."""
        try:
            yield
        except OSError as error:
            free = shutil.disk_usage(self.place).free
            done = self.count + len(self.records)
            needed = f"about {human(self.size / done * (self.expected - self.count))}B" if done else "more room"
            hint = "; --cache-dir PATH names another folder" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise RunFailed(f"{self.place}: {error.strerror}: {self.count:,} of {self.expected:,} images are copied and"
                            f" kept, the others need {needed}, {human(free)}B are free{hint}") from None  # fmt: skip
