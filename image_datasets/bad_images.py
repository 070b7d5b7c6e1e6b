"""Unreadable image files, in a run that continues without them (`--on-bad-image skip`).

Such a file keeps its place in its split: the order of an epoch, the batches and all draws of the augmentation stay the
same. It is dropped from its batch only at the end.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from utils import BadRequest, write_text

Report = Callable[[str, str], None]  # takes the path of an unreadable file, and the reason


class BadImage(BadRequest):
    """A file that cannot be read as an image."""

    def __init__(self, path: str, reason: str):
        super().__init__(f"{path}: cannot be read as an image ({reason})")
        self.path, self.reason = path, reason

    def __reduce__(self):
        return BadImage, (self.path, self.reason)


class BadImages:
    """The unreadable files of a run, each once per split.

    They are also listed in a file once `write_to` names it, so a resumed run knows those of all its epochs.
    """

    def __init__(self):
        self.found: dict[tuple[str, str], str] = {}
        self.file: Path | None = None
        self.is_main_process = True

    def add(self, split: str, path: str, reason: str) -> None:
        """Records a file of a split, unless it is known."""
        if (split, path) in self.found:
            return
        self.found[split, path] = reason
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as list_:
                list_.write(self._line((split, path)))

    def of(self, split: str) -> Report:
        """Returns the function that records files of a split, "train", "val" or "test"."""
        return functools.partial(self.add, split)

    def write_to(self, file: Path, is_main_process: bool = True) -> None:
        """Lists the files in `file` from now on, keeping the entries it already has.

        Args:
            is_main_process: every process appends to the file; this one also sorts it.
        """
        self.file, self.is_main_process = file, is_main_process
        self._write()

    def finish(self) -> dict[str, int]:
        """Sorts the list. Returns the number of files of each split."""
        self._write()
        counts = Counter(split for split, _ in self.found)
        return {split: counts[split] for split in ("train", "val", "test")}

    def _write(self) -> None:
        if self.file is not None:
            self.found = {**_read(self.file), **self.found}
            if self.found and self.is_main_process:
                write_text(self.file, "".join(self._line(key) for key in sorted(self.found)))

    def _line(self, key: tuple[str, str]) -> str:
        """A line of JSON, which any name fits in, whatever its characters."""
        split, path = key
        return json.dumps({"split": split, "path": path, "reason": self.found[key]}) + "\n"


def unreadable(file: Path, split: str) -> list[str]:
    """Paths of a split in a run's list of unreadable files."""
    return [path for name, path in _read(file) if name == split]


def _read(file: Path) -> dict[tuple[str, str], str]:
    """Reads a list. Ignores a line that a killed process left unfinished."""
    found = {}
    for line in file.read_bytes().splitlines() if file.is_file() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            found[str(entry["split"]), str(entry["path"])] = str(entry["reason"])
    return found
