"""Real trainings as jobs of a real SLURM: a disturbed one ends with the same bits as an undisturbed one."""

from __future__ import annotations

from slurm_cluster import cluster, sbatch  # noqa: F401 (fixtures)
from test_main import assert_same_run

from utils import read_json

LINE = "--dataset digits --model resnet20 --epochs 5 --batch-size 64 --checkpoint-every 10 --wandb disabled"


def test_a_job_that_is_signalled_and_preempted_ends_with_the_same_bits_as_an_array_s_task(sbatch):
    seeds = sbatch("--array=0-1", "--nodelist=n1", "slurm/train.sbatch", *LINE.split(), "--run-name", "x")
    job = sbatch("--nodelist=n2", "slurm/train.sbatch", *LINE.split(), "--run-name", "disturbed", "--seed", "1")
    job.wait_for_file("runs/disturbed/last.pth")
    job.command("scancel", "--signal=USR1", job.name)
    job.wait_for_requeue(1)
    saved = job.wait_for_file("runs/disturbed/last.pth")
    job.wait_for_file("runs/disturbed/last.pth", after=saved)
    # The preempting job is a bad request: one line, and no second attempt.
    urgent = sbatch("--partition=high", "--nodelist=n2", "--exclusive", "slurm/train.sbatch", "--epochs", "some")
    job.wait_for_requeue(2)
    urgent.wait("FAILED")
    assert urgent.status == 2 and "--epochs" in urgent.log
    job.wait("COMPLETED", restarts=2)
    # Both times it saved after its current step, although SLURM preempts with two SIGTERM at once.
    for name in ("SIGUSR1", "SIGTERM"):
        assert f"stopped by {name} after epoch" in job.log
    assert job.log.count("resumed") == 2
    for seed in (0, 1):
        seeds.task(seed).wait("COMPLETED")
        assert read_json(job.folder / f"runs/x-seed{seed}/settings.json")["settings"]["seed"] == seed
    assert_same_run(job.folder / "runs/x-seed1", job.folder / "runs/disturbed")
