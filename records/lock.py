"""The lock of a run directory: one process at a time works on a run."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from utils import BadRequest, take_lock

NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks `folder`, creating it if needed, for the duration of the block.

    Without support for locks (see `utils.take_lock`) the block runs unlocked.

    Raises BadRequest if another process, which it names, holds the lock, or if the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / NAME).open("a+", encoding="utf-8")
    except OSError as error:
        raise BadRequest(f"{folder}: cannot be written ({error.strerror})") from None
    with file:
        if take_lock(file) is False:
            raise BadRequest(f"{folder}: {_holder_of(file)} is at work on this run; wait for it, stop it, or choose"
                             " another --run-name") from None  # fmt: skip
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def holder(folder: Path) -> str | None:
    """The other process that holds `folder`, as `process N on HOST`, or None.

    Must not be called by the holder: closing the file would release its lock.
    """
    try:
        with (folder / NAME).open("r+", encoding="utf-8") as file:
            return _holder_of(file) if take_lock(file) is False else None
    except OSError:
        return None


def _holder_of(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "another process"
