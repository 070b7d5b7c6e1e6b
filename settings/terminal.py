"""Output of the scripts: width of --help, readers that are gone, last line and exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

from records.log import last_line

WIDTH = 110  # columns of --help, unless the terminal is narrower


def help_width() -> int:
    """Returns the columns for --help: two less than the terminal's, at most WIDTH. WIDTH without a terminal."""
    if not sys.stdout.isatty():
        return WIDTH
    return min(WIDTH, shutil.get_terminal_size((WIDTH + 2, 24)).columns - 2)


@contextlib.contextmanager
def without_readers() -> Iterator[None]:
    """Within the block, output is dropped once nobody reads stdout or stderr (`| head`, a closed terminal).

    The work continues.
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
    """A text stream that drops its output once the reader is gone."""

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
            os.dup2(nowhere, self._stream.fileno())  # buffered output goes there too
            os.close(nowhere)


def run_script(main) -> int:
    """Runs a script's `main()` and returns its exit status.

    0, 1 (a run failed), 2 (bad request), 130 (Ctrl-C), or that of a run that stopped early (training/stopping.py).
    Errors are printed as one line; those that are bugs are raised.
    """
    with without_readers():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError):  # file names may hold characters that the encoding lacks
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
