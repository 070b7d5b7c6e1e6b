"""What --dry-run estimates: its arithmetic, and its measurement of a few steps of the run itself."""

import json

import pytest

import study
from commands import dry_run
from experiments import estimate


def test_a_run_is_its_start_its_epochs_and_the_test_images():
    found = {"step_seconds": 0.5, "step_images": 10, "eval_seconds": 0.01, "start_seconds": 7.0,
             "train_images": 100, "val_images": 50, "test_images": 200}  # fmt: skip
    assert estimate.seconds(found, epochs=3, share=1.0) == pytest.approx((5.5, 7 + 3 * 5.5 + 2))
    assert estimate.seconds(found, epochs=3, share=0.5) == pytest.approx((3.0, 7 + 3 * 3.0 + 2))


@pytest.mark.slow
def test_the_measurement_is_of_the_run_and_writes_nothing(workdir, capsys):
    flags = "--dataset digits --model resnet20 --batch-size 16 --accumulate 2 --train-fraction 0.5 --ema 0.9"
    assert dry_run.main(["main.py", *flags.split(), "--wandb", "disabled"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    # 1,797 digits: a fifth for testing, a tenth of the rest for validation (of both weights), half of the remainder.
    assert (found["train_images"], found["val_images"], found["test_images"]) == (649, 2 * 145, 359)
    assert found["step_images"] == 32 and found["peak_memory"] > 10**8
    assert 0 < found["step_seconds"] < found["measuring_seconds"] and 0 < found["eval_seconds"] < found["step_seconds"]
    assert list(workdir.iterdir()) == []


def test_the_dry_run_adds_up_what_is_left_to_do_and_names_what_cannot_be_measured(cli, workdir, monkeypatch):
    (workdir / "s.toml").write_text(
        "seeds = [0, 1]\nfractions = [0.5, 1.0]\n[base]\ndataset = 'digits'\nepochs = 2\n"
        "[variants.good]\nmodel = 'resnet20'\n[variants.bad]\nmodel = 'resnet18'\n"
    )
    asked, memory = [], [2_000_000_000]

    def stand_in(plan, run):
        asked.append(run.name)
        if run.variant == "bad":
            return "main.py: failed: not enough memory"
        return {"step_seconds": 0.1, "step_images": 10, "eval_seconds": 0.01, "start_seconds": 2.0, "train_images": 500,
                "val_images": 100, "test_images": 300, "peak_memory": memory[0]}  # fmt: skip

    monkeypatch.setattr(estimate, "_measure", stand_in)
    result = cli("s.toml --dry-run", script=study)
    assert asked == ["good-f0.5-seed0", "bad-f0.5-seed0"]  # each variant once
    rows = [line.split() for line in result.out.splitlines() if line.startswith("good")]
    # A fraction of 0.5: 5 + 1 s an epoch, 2 + 2 * 6 + 3 s a run; of 1: 10 + 1 s and 2 + 2 * 11 + 3 s.
    assert rows == [["good", "0.5", "100", "6", "s", "17", "s", "2.00", "GB", "2"],
                    ["good", "1", "100", "11", "s", "27", "s", "2.00", "GB", "2"]]  # fmt: skip
    assert "cannot be measured: main.py: failed: not enough memory" in result.out and result.status == 1
    assert "at least 88 s for all of these" in result.out and "left out: " in result.out
    assert [path.name for path in workdir.iterdir()] == ["s.toml"]
    memory[0] = None  # as on Windows
    lines = cli("s.toml --dry-run", script=study).out.splitlines()
    assert "good 0.5 100 6 s 17 s unknown 2" in [" ".join(line.split()) for line in lines]
