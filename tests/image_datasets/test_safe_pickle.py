"""Pickles of plain data are read; a pickle that names anything else is refused and not run."""

from __future__ import annotations

import builtins
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from image_datasets import safe_pickle
from utils import BadRequest


class Calls:
    """Its pickle calls `function` when it is read carelessly."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def same(a, b) -> bool:
    if isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in b)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_values_are_read_whatever_the_protocol(protocol, tmp_path):
    content = {
        "data": np.arange(256, dtype=np.uint8).reshape(16, 16),
        "columns": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        "labels": [1, 2, 3],
        "name": "apple é",
        "share": 0.5,
        "number": np.int64(7),
        "nothing": None,
        "flag": True,
        "pair": (1, "b"),
    }
    path = tmp_path / "data"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert same(safe_pickle.load(path), content)


def test_a_pickle_as_python_2_wrote_it_is_read(tmp_path):
    """As in the published CIFAR files: text as bytes, and an array's bytes as a Python 2 string."""
    array = np.array([[1, 200, 255]], dtype=np.uint8)
    state = b"(I1\n(I1\nI3\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x01\\xc8\\xff'\ntb"
    pickled = b"(dS'data'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR" + state + b"s."
    (tmp_path / "data").write_bytes(pickled)
    assert same(pickle.loads(pickled, encoding="latin1"), {"data": array})  # the bytes above are right
    assert same(safe_pickle.load(tmp_path / "data"), {"data": array})


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_with_code_is_refused_and_does_not_run(protocol, tmp_path):
    path, marker = tmp_path / "data", tmp_path / "ran"
    for payload in (
        Calls(os.mkdir, str(marker)),
        Calls(eval, f"__import__('os').mkdir({str(marker)!r})"),
        Calls(getattr(builtins, "exec"), f"import os; os.mkdir({str(marker)!r})"),  # noqa: B009
    ):
        content = pickle.dumps({"data": [1, payload]}, protocol=protocol)
        pickle.loads(content)
        assert marker.is_dir()  # the payload works
        marker.rmdir()
        path.write_bytes(content)
        with pytest.raises(BadRequest, match=r"data: not a pickle of arrays and plain values \(it names "):
            safe_pickle.load(path)
        assert not marker.exists()


def test_code_inside_an_array_of_objects_is_refused_and_does_not_run(tmp_path):
    path, marker = tmp_path / "data", tmp_path / "ran"
    array = np.empty(1, dtype=object)
    array[0] = Calls(os.mkdir, str(marker))
    path.write_bytes(pickle.dumps(array))
    with pytest.raises(BadRequest, match="it names"):
        safe_pickle.load(path)
    assert not marker.exists()


def test_other_objects_are_refused_by_name(tmp_path):
    path = tmp_path / "data"
    for value, name in ((Path("a"), "pathlib"), (np.random.default_rng(0), "numpy.random"), (len, "builtins.len")):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(BadRequest, match=f"it names {name}"):
            safe_pickle.load(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x05", pickle.dumps(np.arange(1000))[:200]])
def test_a_damaged_pickle_is_refused_naming_the_file(content, tmp_path):
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(BadRequest, match="data_batch_1: not a pickle"):
        safe_pickle.load(path)


def test_a_missing_file_is_refused_naming_it(tmp_path):
    with pytest.raises(BadRequest, match="gone"):
        safe_pickle.load(tmp_path / "gone")
