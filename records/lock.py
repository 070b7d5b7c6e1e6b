"""One process for one run directory: a second one is refused while the first lives."""

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
    """Holds `folder`, which is made if need be, for the time of the block.

    Where there are no locks (see `utils.take_lock`) the block runs without.

    Raises BadRequest, naming the process, where another one holds the folder, or where it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / NAME).open("a+", encoding="utf-8")
    except OSError as error:
        raise BadRequest(f"{folder}: cannot be written ({error.strerror})") from None
    with file:
        if take_lock(file) is False:
            raise BadRequest(f"{folder}: {_name(file)} is at work on this run; wait for it, stop it, or choose another"
                             " --run-name") from None  # fmt: skip
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def holder(folder: Path) -> str | None:
    """The other process that holds `folder`, as `process N on HOST`; None where there is none. Not for a process that
    holds it itself, which would let go of it."""
    try:
        with (folder / NAME).open("r+", encoding="utf-8") as file:
            return _name(file) if take_lock(file) is False else None
    except OSError:
        return None


def _name(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "another process"
