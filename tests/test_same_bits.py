"""The script that compares two checkouts: a checkout equals itself, and every difference is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import same_bits
import torch

ROOT = Path(__file__).parent.parent


@pytest.fixture
def runs(tmp_path) -> tuple[Path, Path]:
    """Two folders with the same run, which holds nested tensors, a NaN and a negative zero."""
    run = tmp_path / "old" / "a"
    run.mkdir(parents=True)
    (run / "metrics.csv").write_text("epoch,loss\n1,0.5\n2,0.25\n")
    checkpoint = {
        "model": {"weight": torch.tensor([[1.0, float("nan")], [0.0, 2.0]]), "count": torch.tensor(3)},
        "ema": None,
        "optimizer": {"state": {0: {"momentum": torch.ones(2, dtype=torch.bfloat16)}}, "param_groups": [{"lr": 0.1}]},
        "totals": torch.zeros(2, 3),
    }
    torch.save(checkpoint, run / "best.pth")
    np.savez(run / "predictions.npz", logits=np.zeros((2, 3), np.float32), class_names=np.array(["cat", "dog"]))
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    return tmp_path / "old", tmp_path / "new"


@pytest.mark.slow
@pytest.mark.long("folders of runs are compared below, and two checkouts by --help in test_readme.py")
def test_a_checkout_is_the_same_as_itself():
    words = [sys.executable, "tests/same_bits.py", ".", str(ROOT), "--only", "digits"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["digits", "same"]), done.stderr


def test_equal_runs_have_no_difference(runs):
    assert same_bits.compare_runs(*runs) == ""


@pytest.mark.parametrize(
    ("keys", "value", "place"),
    [
        (("model", "weight"), torch.tensor([[1.0, float("nan")], [-0.0, 2.0]]), "model.weight: float32 (2, 2) bits"),
        (("model", "count"), torch.tensor(3, dtype=torch.int32), "model.count: int64 () bits"),
        (("totals",), torch.zeros(3, 2), "totals: float32 (2, 3) bits"),
        (("optimizer", "state"), {}, "optimizer.state.0.momentum: bfloat16 (2,) bits"),
        (("ema",), {"weight": torch.ones(1)}, "ema.weight: missing -> float32 (1,) bits"),
    ],
    ids=["sign-of-zero", "dtype", "shape", "missing", "added"],
)
def test_a_tensor_that_differs_is_named(runs, keys, value, place):
    path = runs[1] / "a/best.pth"
    checkpoint = torch.load(path, weights_only=True)
    part = checkpoint
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    torch.save(checkpoint, path)
    found = same_bits.compare_runs(*runs)
    assert found.startswith(f"a/best.pth: {place}"), found
    assert "(1 of " in found


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("epoch,loss\n1,0.5\n2,0.26\n", "line 3, cell 2: '0.25' -> '0.26'"),
        ("epoch,loss\n1,0.5\n", "line 3, cell 1: '2' -> ''"),
        ("epoch,loss\n1,0.5\r\n2,0.25\n", r"line 2, cell 2: '0.5' -> '0.5\r'"),
        ("epoch,loss\n1,0.5\n2,0.25\n3,0.2\n", "line 4, cell 1: '' -> '3'"),
    ],
    ids=["number", "row-missing", "line-end", "row-added"],
)
def test_a_row_of_metrics_that_differs_is_named(runs, text, place):
    (runs[1] / "a/metrics.csv").write_bytes(text.encode())
    assert same_bits.compare_runs(*runs).startswith(f"a/metrics.csv: {place}")


def test_other_or_missing_predictions_are_found(runs):
    path = runs[1] / "a/predictions.npz"
    np.savez(path, logits=np.ones((2, 3), np.float32), class_names=np.array(["cat", "dog"]))
    assert same_bits.compare_runs(*runs).startswith("a/predictions.npz: logits: float32 (2, 3) bits")
    path.unlink()
    assert "a/predictions.npz: logits" in same_bits.compare_runs(*runs)
    assert "-> missing (2 of 2 differ)" in same_bits.compare_runs(*runs)


def test_folders_without_a_run_are_not_the_same(tmp_path):
    assert same_bits.compare_runs(tmp_path / "old", tmp_path / "new") == "neither has written best.pth"


@pytest.fixture
def checkouts(tmp_path) -> dict[str, Path]:
    """Two fake checkouts. Each script in them prints one line."""
    for side in ("old", "new"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "models.py").write_text("def list_models(): return ['vit_tiny']")
        for script in same_bits.SCRIPTS:
            (tmp_path / side / script).write_text("import sys; print(sys.argv[1:])")
    return {side: tmp_path / side for side in ("old", "new")}


def test_help_that_differs_is_shown(checkouts, capsys):
    words = [*map(str, checkouts.values()), "--help-texts"]
    assert same_bits.main(words) == 0
    out = capsys.readouterr().out
    assert out.count("same\n") == len(same_bits.SCRIPTS) + 1 and "main.py --model vit_tiny --help" in out
    (checkouts["new"] / "study.py").write_text("print('other')")
    assert same_bits.main(words) == 1
    out = capsys.readouterr().out
    assert out.count("DIFFERENT") == 1 and "-['--help']\n+other" in out
    (checkouts["old"] / "models.py").write_text("def list_models(): return ['vgg11']")
    (checkouts["old"] / "main.py").write_text("import sys; sys.exit('unknown' * ('vit_tiny' in sys.argv))")
    assert same_bits.main(words) == 1
    assert "DIFFERENT: old fails with status 1: unknown" in capsys.readouterr().out


def test_a_training_that_fails_is_not_the_same(checkouts, capsys):
    (checkouts["new"] / "main.py").write_text("import sys; sys.exit('no such flag')")
    assert same_bits.main([*map(str, checkouts.values()), "--only", "digits"]) == 1
    out = capsys.readouterr().out
    assert "digits      DIFFERENT: new fails with status 1: no such flag\n" in out
    kept = Path(out.split()[-1])
    assert (kept / "images/train/class0/0.png").is_file()
    shutil.rmtree(kept)


@pytest.mark.parametrize("words", [["old", "old"], [str(ROOT), str(ROOT), "--only", "nothing"], [str(ROOT)]])
def test_bad_requests_leave_with_status_2(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        same_bits.main(words)
    assert end.value.code == 2
    assert "error:" in capsys.readouterr().err
