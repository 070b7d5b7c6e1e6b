"""One process for one run directory: a second one is refused while the first lives."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

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
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise BadRequest(f"{folder}: {holder} is at work on this run; wait for it, stop it, or choose another"
                             " --run-name") from None  # fmt: skip
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
