"""Which run directories the words of a command line select, and what a study says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from simulated import write_run

from comparison.selection import select
from utils import BadRequest

STUDY = {"name": "s", "runs": [{"name": "a", "variant": "v", "seed": 0, "fraction": None, "flags": {}}]}


@pytest.mark.parametrize(
    ("content", "needle"),
    [
        ({**STUDY, "variant": []}, "unknown key 'variant'. Did you mean variants"),
        ({"name": "s"}, "has no 'runs'"),
        ({**STUDY, "runs": []}, "'runs' is no list of runs"),
        ({**STUDY, "runs": [{"name": "a", "variant": "v", "sed": 0}]}, "runs[0]: unknown key 'sed'. Did you mean seed"),
        ({**STUDY, "runs": [{"name": "a"}]}, "runs[0]: has no 'variant'"),
        ({**STUDY, "runs": STUDY["runs"] * 2}, "runs[1]: 'name' 'a' is there twice"),
        ({**STUDY, "published": {"x": {"top1": 80}}}, "published.x: has no 'source'"),
        ({**STUDY, "published": {"x": {"source": "y", "top": 80}}}, "published.x: unknown key 'top'. Did you mean top"),
        ({**STUDY, "published": {"x": {"source": "y", "top1": 180}}}, "'top1' is 180, not a number from 0 to 100"),
        ({**STUDY, "published": {"x": {"source": "y", "metrics": {"top1": 80}}}}, "'top1' is 80, not a number from"),
        ({**STUDY, "published": {"x": {"source": "y", "metrics": {"acc": 0.8}}}}, "metrics: unknown key 'acc'"),
    ],
)  # fmt: skip
def test_a_wrong_study_is_refused_with_the_key(tmp_path, content, needle):
    write_run(tmp_path / "a")
    (tmp_path / "study.json").write_text(json.dumps(content))
    with pytest.raises(BadRequest) as error:
        select([str(tmp_path)])
    assert needle in str(error.value) and str(tmp_path / "study.json") in str(error.value)


def test_a_study_tells_what_is_missing(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", seed=1)
    (tmp_path / "b/summary.json").unlink()
    runs = [{"name": name, "variant": "v"} for name in "abc"]
    (tmp_path / "study.json").write_text(json.dumps({"name": "s", "runs": runs}))
    found = select([str(tmp_path)])
    assert found.runs == {tmp_path / "a": "v"} and found.name == "s" and found.folder == tmp_path
    assert found.missing == ["b is not finished, and is left out.", "c has not begun, and is left out."]
    (tmp_path / "a/summary.json").unlink()
    with pytest.raises(BadRequest, match=r"no finished run found \(a is not finished"):
        select([str(tmp_path)])


def test_a_study_is_found_by_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs/quick/a")
    for name, text in (("quick.toml", "seeds = [0]"), ("other.toml", 'name = "quick"'), ("wrong.toml", "name = 3"),
                       ("bad.toml", "name ="), ("unknown.toml", "")):  # fmt: skip
        Path(name).write_text(text)
    for name in ("quick.toml", "other.toml"):
        assert list(select([name]).runs) == [Path("runs/quick/a")]
    for name, needle in (
        ("wrong.toml", "'name' is 3"),
        ("bad.toml", "cannot be read as TOML"),
        ("unknown.toml", "no run found: there is no runs/unknown; study.py unknown.toml makes"),
    ):
        with pytest.raises(BadRequest, match=needle):
            select([name])


def test_loose_runs_are_reported_beside_each_other(tmp_path, monkeypatch):
    for name in ("x/a", "x/b", "y/c"):
        write_run(tmp_path / name)
    assert select([str(tmp_path / "x/a"), str(tmp_path / "x/b")]).folder == tmp_path / "x"
    assert select([str(tmp_path / "x"), str(tmp_path / "y/c")]).folder == tmp_path
    monkeypatch.chdir(tmp_path)
    assert select(["x/a"]).folder == Path("x")
    (tmp_path / "note.txt").write_text("")
    for word, needle in (("nowhere", "no such run directory or study"), ("note.txt", "is neither a run directory nor")):
        with pytest.raises(BadRequest, match=needle):
            select(["x/a", word])


def test_a_run_that_is_named_twice_is_one(tmp_path):
    first = write_run(tmp_path / "a")
    assert list(select([str(first), f"{first}/", f"{tmp_path}/a/../a"]).runs) == [first]
