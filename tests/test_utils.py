"""Seeds, messages, and atomic writing of files."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from records.log import last_line
from utils import (
    BadRequest,
    RunFailed,
    Stopped,
    derive_seed,
    human,
    noting_signals,
    read_json,
    replacing,
    shorten,
    suggestion,
    write_json,
    write_text,
)

REPO = Path(__file__).resolve().parent.parent


def test_a_seed_fits_a_torch_generator_and_depends_on_every_part():
    parts = [(), (0,), (1,), ("1",), (0, "augment", 1, 2), (0, "augment", 2, 1), ("ab", "c"), ("a", "bc"), ("abc",)]
    seeds = [derive_seed(*part) for part in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [derive_seed(*part) for part in parts]


def test_neighbouring_steps_get_seeds_that_differ_in_every_bit_about_half_the_time():
    seeds = [derive_seed(0, "augment", 0, step) for step in range(2000)]
    for bit in range(63):
        share = sum(a >> bit & 1 != b >> bit & 1 for a, b in itertools.pairwise(seeds)) / 1999
        assert 0.42 < share < 0.58, bit


def test_a_seed_is_the_same_in_another_process():
    code = "from utils import derive_seed; print(derive_seed(3, 'order', 7))"
    env = {**os.environ, "PYTHONHASHSEED": "12345"}
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO, env=env, capture_output=True, text=True, check=True)
    assert int(result.stdout) == derive_seed(3, "order", 7)


def test_a_typo_gets_a_suggestion_and_another_word_gets_none():
    known = ["resnet18", "vgg16", "cifar100"]
    assert suggestion("cifer100", known) == " Did you mean cifar100?"
    assert suggestion("transformer", known) == ""
    assert suggestion("vgg17", iter(known)) == " Did you mean vgg16?"


def test_long_lists_are_shortened_with_the_number_left_out():
    assert shorten([1, 2, 3]) == "1, 2, 3"
    assert shorten(range(9), most=2) == "0, 1, ... (7 more)"
    assert shorten([]) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 "), (999, "999 "), (1000, "1.00 k"), (12_345_678, "12.35 M"), (1.8e9, "1.80 G"), (3e12, "3.00 T")],
)
def test_large_numbers_are_shown_with_a_unit_prefix(value, text):
    assert human(value) == text


def test_a_file_is_replaced_only_when_its_new_content_is_complete(tmp_path):
    path = tmp_path / "last.pth"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("killed while writing")
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
        reader = path.open()
    with reader:
        assert reader.read() == "old"  # a reader of the old file still has all of it
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pth"]


def test_a_written_file_has_the_permissions_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "é")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
    assert (tmp_path / "a.txt").read_bytes() == "é".encode()


def test_json_is_strict_where_values_are_not_finite(tmp_path):
    path = tmp_path / "summary.json"
    value = {"loss": math.nan, "per_class": [1.5, math.inf, (-math.inf, 2)], 3: Path("runs/a"), "best": None}
    write_json(path, value)

    def refuse(name: str):
        raise AssertionError(f"{name} is no JSON")

    stored = json.loads(path.read_text(), parse_constant=refuse)
    assert stored == {"loss": None, "per_class": [1.5, None, [None, 2]], "3": "runs/a", "best": None}
    assert read_json(path) == stored


def test_reading_json_names_the_file_that_is_missing_or_damaged(tmp_path):
    with pytest.raises(BadRequest, match=r"gone\.json: no such file"):
        read_json(tmp_path / "gone.json")
    for content in (b'{"a": 1', b"\xff\xfe\x00", b""):
        (tmp_path / "broken.json").write_bytes(content)
        with pytest.raises(BadRequest, match=r"broken\.json: cannot be read as JSON"):
            read_json(tmp_path / "broken.json")
    with pytest.raises(BadRequest, match="cannot be read"):
        read_json(tmp_path)


def test_the_last_line_of_a_script_is_one(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/main.py"])
    for separator in ("\n", "\r", "\x1c", "\x85", "\u2028"):
        text, status = last_line(BadRequest(f"--model a{separator}b: unknown"))
        assert (text, status) == ("main.py: error: --model a b: unknown", 2)
    assert last_line(RunFailed("x")) == ("main.py: failed: x", 1)
    assert last_line(Stopped("saved", 143)) == ("main.py: saved", 143)
    assert last_line(KeyError("a bug")) is None


def test_a_signal_is_noted_once_within_its_window_and_an_ignored_one_stays_ignored():
    noted, before = [], signal.getsignal(signal.SIGUSR1)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with noting_signals(noted.append, repeat_seconds=60, stay_ignored=[signal.SIGHUP]):
            for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM):
                signal.raise_signal(number)
        with noting_signals(noted.append, repeat_seconds=-1):
            for number in (signal.SIGHUP, signal.SIGUSR1):
                signal.raise_signal(number)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, hangup)
    assert noted == [signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) == before
