"""What a run says: on the terminal, and in log.txt of its run directory."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils import is_main_process, last_line


class Log:
    """log.txt of a run: what was said, over all of its attempts. Lines wait until its directory is known.

    A line is in the file, whole, as soon as it is written. One that cannot be written is left out: no run stops for it.
    """

    def __init__(self):
        self.waiting: list[str] = []
        self.file: int | None = None
        self.torn = False  # whether the file ends within a line

    def open(self, path: Path, attempt: dict[str, Any]) -> None:
        """Goes on with `path`, under the attempt's time and command."""
        with contextlib.suppress(OSError):
            self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            if os.fstat(self.file).st_size:
                with path.open("rb") as file:
                    file.seek(-1, os.SEEK_END)
                    self.torn = file.read() != b"\n"
                self.write()
            self.write(f"# {attempt['time']} $ {attempt['command']}")
            for line in self.waiting:
                self.write(line)

    def write(self, text: str = "") -> None:
        if self.file is None:
            self.waiting.append(text)
            return
        data = b"\n" * self.torn + f"{text}\n".encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):
            self.torn = os.write(self.file, data) < len(data)

    def close(self) -> None:
        if self.file is not None:
            with contextlib.suppress(OSError):
                os.close(self.file)


_logs: list[Log] = []  # of the runs that are at work: a student's, and that of the teacher which it trains first


@contextlib.contextmanager
def logged() -> Iterator[None]:
    """Within the block `say` also writes to the log of a run, which `open_log` names; so does an exception that ends
    it."""
    log = Log()
    _logs.append(log)
    try:
        yield
    except BaseException as error:
        told = last_line(error)
        log.write(told[0] if told else traceback.format_exc().rstrip())
        raise
    finally:
        _logs.remove(log)
        log.close()


def open_log(path: Path, attempt: dict[str, Any]) -> None:
    """The log of the run that is at work is this file.

    Args:
        attempt: see `run_directory.this_attempt`.
    """
    if _logs:
        _logs[-1].open(path, attempt)


def say(text: str = "") -> None:
    """A line in the run's log.txt, and on the terminal, where it does not tear a progress bar; of several processes the
    first one speaks."""
    if not is_main_process():
        return
    if _logs:
        _logs[-1].write(text)
    from tqdm import tqdm

    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
