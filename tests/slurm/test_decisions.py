"""Where signals go, and what happens to a job when its training ends.

Small scripts, which end as each test needs, replace the training.
"""

from __future__ import annotations

import time

from slurm_cluster import cluster, sbatch  # noqa: F401 (fixtures)

# Notes each call in calls-RANK-TASK. The second call succeeds; each test adds what the first one does.
START = """\
import os, signal, sys, time
from pathlib import Path

rank = os.environ.get("RANK", "0")
name = sys.argv[len(sys.argv) - sys.argv[::-1].index("--run-name")] if "--run-name" in sys.argv else "study/run"
folder = Path("runs", name)
folder.mkdir(parents=True, exist_ok=True)
calls = Path(f"calls-{rank}-{os.environ.get('SLURM_ARRAY_TASK_ID')}")
with calls.open("a") as file:
    print(os.environ.get("WORLD_SIZE", "1"), *sys.argv[1:], file=file)
if len(calls.read_text().splitlines()) > 1:
    sys.exit(0)


def saved(number=None, frame=None):
    (folder / "last.pth").touch()
    sys.exit(128 + (number or signal.SIGTERM))


"""
LISTENS = """\
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, saved)
Path(f"listening-{rank}").touch()
time.sleep(600)
"""


def script(folder, text: str, name: str = "script.py") -> str:
    (folder / name).write_text(START + text)
    return name


def calls(job, rank: int = 0, task: int | None = None) -> list[str]:
    file = job.folder / f"calls-{rank}-{task}"
    return file.read_text().splitlines() if file.is_file() else []


def test_a_job_goes_back_into_the_queue_ahead_of_its_time_limit(sbatch):
    job = sbatch("--time=60", "slurm/train.sbatch", script(sbatch.folder, LISTENS), "--lr", "1")
    job.wait_for_file("listening-0")
    job.command("scontrol", "update", f"JobId={job.name}", "TimeLimit=3")
    job.wait_for_requeue(1)
    assert "stopped with status 138 and saved" in job.log
    job.wait("COMPLETED", restarts=1)
    assert calls(job) == [f"1 --lr 1 --run-name train-{job.name} --resume auto"] * 2


def test_of_an_array_only_the_task_that_was_stopped_runs_again(sbatch):
    name = script(sbatch.folder, "os.environ['SLURM_ARRAY_TASK_ID'] == '1' and saved()")
    job = sbatch("--array=0-1", "slurm/train.sbatch", name, "--run_name=y")
    first, last = job.task(0), job.task(1)
    last.wait_for_requeue(1)
    last.wait("COMPLETED", restarts=1)
    first.wait("COMPLETED")
    assert calls(job, task=0) == ["1 --run_name=y --seed 0 --run-name y-seed0 --resume auto"]
    assert calls(job, task=1) == ["1 --run_name=y --seed 1 --run-name y-seed1 --resume auto"] * 2


def test_a_cancelled_job_saves_and_stays_cancelled(sbatch):
    job = sbatch("slurm/train.sbatch", script(sbatch.folder, LISTENS), "--run-name", "x")
    job.wait_for_file("listening-0")
    job.command("scancel", job.name)
    job.wait("CANCELLED")
    assert (job.folder / "runs/x/last.pth").exists() and "stopped by SLURM" in job.log
    time.sleep(1)
    job.wait("CANCELLED")
    assert len(calls(job)) == 1


def test_a_failure_is_the_job_s_and_it_is_not_repeated(sbatch):
    """Nor is a job that was stopped before its first checkpoint: it would be stopped there forever."""
    for status, line in ((1, "sys.exit(1)"), (2, "sys.exit(2)"), (138, "os.kill(os.getpid(), signal.SIGUSR1)")):
        job = sbatch("slurm/train.sbatch", script(sbatch.folder, line, f"leaves{status}.py"), "--run-name", "x")
        job.wait("FAILED")
        assert job.status == status
        assert ("before there was a checkpoint" in job.log) == (status == 138)
        (job.folder / "calls-0-None").unlink()


def test_processes_on_several_nodes_are_told_and_waited_for(sbatch):
    """Two nodes with two GPUs each: four processes. The first to leave must not kill the one that is still saving."""
    slow = "signal.signal(15, signal.SIG_DFL), time.sleep(2) if rank == '0' else os._exit(138)"
    name = script(sbatch.folder, LISTENS.replace("saved)", f"lambda *_: ({slow}, saved(signal.SIGUSR1)))"))
    job = sbatch("--nodes=2", "--gpus-per-node=2", "slurm/train.sbatch", name, "--run-name", "x")
    for rank in range(4):
        job.wait_for_file(f"listening-{rank}")
    job.command("scancel", "--signal=USR1", job.name)
    job.wait_for_requeue(1)
    assert (job.folder / "runs/x/last.pth").exists()
    job.wait("COMPLETED", restarts=1)
    assert [calls(job, rank) for rank in range(4)] == [["4 --run-name x --resume auto"] * 2] * 4


def test_one_process_that_fails_ends_the_job_with_its_status(sbatch):
    name = script(sbatch.folder, "signal.signal(15, signal.SIG_DFL)\nsys.exit(2) if rank == '1' else time.sleep(600)")
    job = sbatch("--gpus-per-node=2", "slurm/train.sbatch", name, "--run-name", "x")
    job.wait("FAILED")
    assert job.status == 2


def test_the_tasks_of_an_array_share_a_study(sbatch):
    script(sbatch.folder, "os.environ['SLURM_ARRAY_TASK_ID'] == '6' and saved()", "study.py")
    job = sbatch("--array=2-6:2", "slurm/study.sbatch", "studies/x.toml")
    job.task(6).wait_for_requeue(1)
    for part, (task, restarts) in enumerate({2: 0, 4: 0, 6: 1}.items()):
        job.task(task).wait("COMPLETED", restarts)
        assert calls(job, task=task) == [f"1 studies/x.toml --shard {part}/3"] * (1 + restarts)


def test_an_array_with_gaps_is_refused(sbatch):
    script(sbatch.folder, "", "study.py")
    job = sbatch("--array=0,3", "slurm/study.sbatch", "studies/x.toml").task(3)
    job.wait("FAILED")
    assert job.status == 2 and "--array must be a range" in job.log and not calls(job, task=3)
