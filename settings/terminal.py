"""The output of scripts: its width, readers that leave, and the last line with the exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

from records.log import last_line

WIDTH = 110  # columns of --help, if the terminal has as many


def help_width() -> int:
    """Columns for --help: those of the terminal, at most WIDTH; without a terminal always WIDTH."""
    if not sys.stdout.isatty():
        return WIDTH
    return min(WIDTH, shutil.get_terminal_size((WIDTH + 2, 24)).columns - 2)


@contextlib.contextmanager
def without_readers() -> Iterator[None]:
    """Keeps the block working when stdout or stderr lose their reader (`| head`, a closed terminal).

    Later output is dropped.
    """
    streams = sys.stdout, sys.stderr
    with contextlib.ExitStack() as closing:
        nowhere = closing.enter_context(open(os.devnull, "w"))  # noqa: PTH123
        sys.stdout, sys.stderr = (nowhere if stream is None else _Output(stream) for stream in streams)
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError):  # Python itself reports a full disk
                    stream.flush()
            sys.stdout, sys.stderr = streams


class _Output:
    """A text stream that drops its output if there is no reader."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # the buffered output goes there, too
            os.close(nowhere)


def run_script(main: Callable[[], int | None]) -> int:
    """Runs a script's `main()`, prints a failure as one line, and returns the exit status.

    0: done, 1: a run failed, 2: a bad request. A run that stops early has its own, see training/stopping.py.
    """
    with without_readers():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError):  # names of files may hold what an encoding lacks
                stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
        try:
            status = main() or 0
            sys.stdout.flush()
            return status
        except (Exception, KeyboardInterrupt) as error:
            told = last_line(error)
            if told is None:
                raise
            text, status = told
            print("\n" * isinstance(error, KeyboardInterrupt) + text, file=sys.stderr)
            return status
