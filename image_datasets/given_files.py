"""Image files that a command line names: files, folders and patterns."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Sequence
from pathlib import Path

from image_datasets.discovery import LeftOut, images_in
from utils import BadRequest, in_utf8


def find_given(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns (image files, notes on what was left out).

    Args:
        paths: a file is taken whatever its name is. A folder is searched at any depth, see `images_in`. A pattern
            such as `*.jpg` or `photos/**/*.png` means what a shell makes of it.

    The files keep the order of `paths`; those of a folder or of a pattern are ordered by name. Each file is taken once.
    Raises BadRequest for a path that leads to no file.
    """
    found: dict[str, str] = {}  # by name without links to folders
    left_out = LeftOut()
    resolve = functools.cache(os.path.realpath)
    for path in paths:
        files = _files_of(path, left_out)
        if not files:
            raise BadRequest(f"{path}: {_why_none(path)}")
        for file in files:
            folder, name = os.path.split(file)
            found.setdefault(os.path.join(resolve(folder), name), file)  # noqa: PTH118
    return list(found.values()), left_out.notes()


def _files_of(path: str, left_out: LeftOut) -> list[str]:
    matches = [path] if Path(path).exists() else sorted(glob.glob(path, recursive=True), key=in_utf8)  # noqa: PTH207
    files = []
    for match in matches:
        if Path(match).is_dir():
            files += images_in([match], left_out)
        elif Path(match).is_file():
            files.append(match)
        elif match != path:  # a broken link, a pipe or a device
            left_out.no_image[Path(match).suffix.lower() or "no ending"] += 1
    return files


def _why_none(path: str) -> str:
    if Path(path).is_dir():
        return "a folder without images"
    return "no file matches this pattern" if glob.has_magic(path) else "no such image file or folder"
