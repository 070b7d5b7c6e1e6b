"""Images inside larger files, such as a tar shard. Everything that reads an image takes its path, or such a member."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO, Protocol

NO_STAMP = (-1, -1)  # of files that cannot be opened


class Container(Protocol):
    """A larger file, or several, with images inside. It travels to worker processes by pickle."""

    def read(self, place: Any) -> bytes:
        """The encoded image at `place`. Raises OSError or ValueError if it cannot be read."""

    def stamp(self, place: Any) -> tuple[int, int]:
        """Two numbers that change with the content at `place`, see `stamp`."""


class Member(str):
    """The name of an image inside a larger file: a path as if that file were a folder.

    Attributes:
        container: the larger file.
        place: where the image is in it.
    """

    __slots__ = ("container", "place")
    container: Container
    place: Any

    def __new__(cls, name: str, container: Container, place: Any) -> Member:
        member = super().__new__(cls, name)
        member.container, member.place = container, place
        return member

    def __reduce__(self) -> tuple[type[Member], tuple[str, Container, Any]]:
        return Member, (str(self), self.container, self.place)


def open_binary(path: str) -> BinaryIO:
    """Opens the encoded image at a path for reading. Raises OSError or ValueError."""
    return io.BytesIO(path.container.read(path.place)) if isinstance(path, Member) else open(path, "rb")  # noqa: PTH123


def for_pillow(path: str) -> str | BinaryIO:
    """What `PIL.Image.open` takes for an image. Raises OSError or ValueError."""
    return open_binary(path) if isinstance(path, Member) else path


def content(path: str) -> bytes:
    """The bytes of an encoded image. Raises OSError or ValueError."""
    return path.container.read(path.place) if isinstance(path, Member) else Path(path).read_bytes()


def stamp(path: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds, or whatever a container has instead.

    Raises OSError if the file is gone.
    """
    if isinstance(path, Member):
        return path.container.stamp(path.place)
    state = os.stat(path)  # noqa: PTH116 (Path costs more than the call)
    return state.st_size, state.st_mtime_ns
