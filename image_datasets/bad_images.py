"""Image files that cannot be read, in a run that goes on without them (`--on-bad-image skip`).

Such a file keeps its place among the images of its split: the order of an epoch, the batches and every draw of the
augmentation are those of the split with it, and it alone is left out of its batch at the end.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from utils import BadRequest, write_text

Report = Callable[[str, str], None]  # takes the path of a file that cannot be read, and why


class BadImage(BadRequest):
    """A file that cannot be read as an image."""

    def __init__(self, path: str, reason: str):
        super().__init__(f"{path}: cannot be read as an image ({reason})")
        self.path, self.reason = path, reason

    def __reduce__(self):
        return BadImage, (self.path, self.reason)


class BadImages:
    """The files that a run could not read: each once for each split that it is in, listed in a file from when there is
    a place for it, so that a run that is resumed knows those of all its epochs."""

    def __init__(self):
        self.found: dict[tuple[str, str], str] = {}
        self.file: Path | None = None
        self.is_main_process = True

    def add(self, split: str, path: str, reason: str) -> None:
        if (split, path) in self.found:
            return
        self.found[split, path] = reason
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as list_:
                list_.write(self._line((split, path)))

    def of(self, split: str) -> Report:
        """What reports the files of a split, "train", "val" or "test"."""
        return functools.partial(self.add, split)

    def write_to(self, file: Path, is_main_process: bool = True) -> None:
        """From now on they are listed in `file`, those too that it holds already.

        Args:
            is_main_process: of several processes, all of which add to the file, one puts it in order.
        """
        self.file, self.is_main_process = file, is_main_process
        self._write()

    def finish(self) -> dict[str, int]:
        """Puts the list in order. Returns how many there are of each split."""
        self._write()
        counts = Counter(split for split, _ in self.found)
        return {split: counts[split] for split in ("train", "val", "test")}

    def _write(self) -> None:
        if self.file is not None:
            self.found = {**_read(self.file), **self.found}
            if self.found and self.is_main_process:
                write_text(self.file, "".join(self._line(key) for key in sorted(self.found)))

    def _line(self, key: tuple[str, str]) -> str:
        """JSON, in which no name, whatever characters it has, breaks a line or is no text."""
        split, path = key
        return json.dumps({"split": split, "path": path, "reason": self.found[key]}) + "\n"


def unreadable(file: Path, split: str) -> list[str]:
    """The files of a split in a run's list of those that could not be read."""
    return [path for name, path in _read(file) if name == split]


def _read(file: Path) -> dict[tuple[str, str], str]:
    """What a list holds; the line that a process was writing when it was killed counts as none."""
    found = {}
    for line in file.read_bytes().splitlines() if file.is_file() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            found[str(entry["split"]), str(entry["path"])] = str(entry["reason"])
    return found
