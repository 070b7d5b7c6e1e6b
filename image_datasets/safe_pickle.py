"""Reads pickles of arrays, lists, dicts, strings and numbers. Refuses a pickle that names anything else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from utils import BadRequest

# Names in NumPy's pickles of arrays, scalars and dtypes, under its old and new module names.
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}


def _latin1_bytes(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 writes bytes
            return _latin1_bytes
        if (module, name) in ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def load(path: Path) -> Any:
    """Reads a pickle. Raises BadRequest, naming the file, if it is damaged or holds more than plain data."""
    try:
        with path.open("rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise almost anything
        raise BadRequest(f"{path}: not a pickle of arrays and plain values ({error})") from None
