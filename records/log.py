"""The lines that a run prints: on the terminal, and in log.txt of its run directory."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils import BadRequest, RunFailed, Stopped, is_main_process, package_at_fault


class Log:
    """log.txt of a run: its printed lines, over all attempts. Lines are held back until the file is known.

    Every line is written at once and whole. One that cannot be written is dropped: a log must not stop a run.
    """

    def __init__(self):
        self.waiting: list[str] = []
        self.file: int | None = None
        self.torn = False  # whether the file ends in an unfinished line

    def open(self, path: Path, attempt: dict[str, Any]) -> None:
        """Appends to `path` from now on, beginning with the attempt's time and command."""
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
        """Writes a line, or holds it back while there is no file."""
        if self.file is None:
            self.waiting.append(text)
            return
        data = b"\n" * self.torn + f"{text}\n".encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):
            self.torn = os.write(self.file, data) < len(data)

    def close(self) -> None:
        """Closes the file, if there is one."""
        if self.file is not None:
            with contextlib.suppress(OSError):
                os.close(self.file)


_logs: list[Log] = []  # of the active runs: a student's, then that of the teacher it trains first


@contextlib.contextmanager
def logged() -> Iterator[None]:
    """Within the block `say` also writes to the log of a run, at the path given to `open_log`.

    An exception that leaves the block is logged, too.
    """
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
    """Makes `path` the log of the active run.

    Args:
        attempt: see `run_directory.this_attempt`.
    """
    if _logs:
        _logs[-1].open(path, attempt)


def say(text: str = "") -> None:
    """Prints a line, without tearing a progress bar, and logs it. Only the main process does."""
    if not is_main_process():
        return
    if _logs:
        _logs[-1].write(text)
    from tqdm import tqdm

    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def say_in_log(text: str) -> None:
    """Logs a line without printing it. Only the main process does."""
    if is_main_process() and _logs:
        _logs[-1].write(text)


def last_line(error: BaseException) -> tuple[str, int] | None:
    """Returns (last line of a script, exit status) for an exception that is not a bug, or None for a bug."""
    if isinstance(error, BadRequest):
        text, status = f"error: {error}", 2
    elif isinstance(error, Stopped):
        text, status = str(error), error.status
    elif isinstance(error, (RunFailed, OSError)):
        text, status = f"failed: {error}", 1
    elif isinstance(error, KeyboardInterrupt):
        text, status = "stopped", 130
    elif package := package_at_fault(error):
        text, status = f"failed: {package}", 1
    else:
        return None
    return " ".join(f"{Path(sys.argv[0]).name}: {text}".splitlines()), status
