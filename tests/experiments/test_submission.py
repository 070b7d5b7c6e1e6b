"""Runs as jobs of submitit, with its local executor; SLURM would run the same jobs."""

import os
import signal
import time

import pytest
from fake_training import Studies

from experiments import plan, study_file, submission
from utils import BadRequest


@pytest.fixture
def studies(tmp_path):
    return Studies(tmp_path)


def child_of(process: int | str) -> int:
    return int(os.popen(f"pgrep -P {process}").read())


@pytest.mark.parametrize("who", ["the scheduler", "the run itself"])
def test_a_job_whose_time_is_over_saves_and_is_queued_again(studies, who):
    """Whichever of the two notices the time limit first."""
    studies.write(a="model = 'vgg13'", b="model = 'resnet18'")
    status, out, err = studies.run("--launcher", "submitit-local")
    assert status == 0 and "submitted     2 runs as job" in out, err
    studies.await_note("a-seed0 begins")
    jobs = studies.folder / "runs/s/jobs"
    for name in {file.name.split("_")[0] for file in jobs.glob("*_submitted.pkl")}:
        if "a-seed0" in (jobs / f"{name}_submitted.pkl").read_bytes().decode("latin-1"):
            job = child_of(name)
            if who == "the scheduler":
                os.kill(job, signal.SIGUSR2)
            else:
                os.kill(child_of(job), signal.SIGTERM)
    studies.await_note("a-seed0 ends")
    studies.await_note("b-seed0 ends")
    assert [line for line in studies.notes() if line.startswith("a-")] == [
        "a-seed0 begins with nothing, None threads",
        f"a-seed0 signal {int(signal.SIGTERM)}",
        "a-seed0 saved",
        "a-seed0 begins with a checkpoint, None threads",
        "a-seed0 ends",
    ]
    status, out, _ = studies.run("--launcher", "submitit-local")
    assert status == 0 and "2 finished" in out and "nothing to submit" in out


def test_a_failed_job_says_so(studies):
    studies.write(bad="model = 'vgg11'")
    assert studies.run("--launcher", "submitit-local")[0] == 0
    jobs = studies.folder / "runs/s/jobs"
    deadline = time.monotonic() + 60
    while not (found := "".join(file.read_text() for file in jobs.glob("*.err"))).count("RunFailed: "):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    assert "bad-seed0: exit status 1: main.py: failed: no memory; see " in found


@pytest.fixture
def planned(studies):
    studies.write(a="model = 'resnet20'", b="model = 'resnet18'")
    found = plan.make_plan(study_file.read_study(studies.folder / "s.toml"), str(studies.folder / "runs"))
    return found, [(run, plan.NEW) for run in found.runs]


def test_slurm_is_asked_for_an_array_with_these_parameters(planned, studies, monkeypatch):
    tools = studies.folder / "bin"
    tools.mkdir()
    for name, text in (("srun", ""), ("sbatch", 'cp "$1" "$0.got"; echo "Submitted batch job 42"')):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", "")
    said = submission.submit(*planned, "slurm", 1, {"partition": "gpu", "time": "240", "gpus_per_node": "1"})
    assert said == f"submitted     2 runs as array 42; logs in {studies.folder}/runs/s/logs"
    script = (tools / "sbatch.got").read_text()
    for line in (
        "--array=0-1%1",
        "--time=240",
        "--partition=gpu",
        "--gpus-per-node=1",
        "--job-name=s",
        "--signal=USR2@90",
    ):
        assert f"#SBATCH {line}\n" in script, script
    with pytest.raises(BadRequest, match="--slurm: Unavailable parameter"):
        submission.submit(*planned, "slurm", None, {"partitoin": "gpu"})


def test_without_slurm_it_is_refused(planned, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadRequest, match="there is no SLURM here"):
        submission.submit(*planned, "slurm", None, {})
