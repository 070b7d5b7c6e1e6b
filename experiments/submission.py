"""Submits runs as jobs of SLURM, as tasks of an array, through submitit; or to submitit's local executor, to try that.

A job is submitted and left alone. At its time limit it lets the run save, and queues itself again.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from experiments.execution import SAVED, dying_with_this_process, last_line
from experiments.plan import CHANGED, FINISHED, Plan, Run, python_path
from utils import BadRequest, RunFailed

POLL_SECONDS = 0.5
MINUTES = 60  # default time limit of a job, which is then queued again
REQUEUES = 100  # how often a job may reach its time limit


@dataclass
class Job:
    """One run in a job's process. submitit pickles these four values."""

    name: str
    command: list[str]
    log: str
    summary: str

    def __call__(self) -> None:
        """Executes the run. Raises RunFailed if it fails."""
        follow = dying_with_this_process()

        def prepare() -> None:
            if follow is not None:
                follow()
            # The signal may reach all processes of the job, and would kill one without a handler.
            signal.signal(_timeout_signal(), signal.SIG_IGN)

        with Path(self.log).open("a", encoding="utf-8") as log:
            log.write(f"$ {shlex.join(self.command)}\n")
            log.flush()
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=prepare,
            )
        self._cancelled = False
        signal.signal(signal.SIGTERM, lambda number, frame: self._cancel())
        while self._process.poll() is None:
            time.sleep(POLL_SECONDS)
        status = self._process.returncode
        if status in SAVED and not self._cancelled:
            os.kill(os.getpid(), _timeout_signal())  # the run noticed the time limit first: queue the job again
            time.sleep(60)
        if status != 0 or not Path(self.summary).is_file():
            raise RunFailed(f"{self.name}: exit status {status}: {last_line(Path(self.log))}; see {self.log}")

    def _cancel(self) -> None:
        """Handles scancel and preemption; after the latter SLURM queues the job again itself."""
        if not self._cancelled:
            self._cancelled = True
            self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Lets the run save, and returns the next attempt. Called in submitit's signal handler, at the time limit."""
        if self._process.returncode is None:
            self._send(signal.SIGTERM)
            # Not Popen.wait: the interrupted poll may hold its lock.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(Job(self.name, self.command, self.log, self.summary))


def _timeout_signal() -> int:
    """The signal that submitit sends ahead of the time limit."""
    return getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")


def submit(plan: Plan, todo: list[tuple[Run, str]], launcher: str, jobs: int | None, parameters: dict[str, str]) -> str:
    """Submits the unfinished runs. Returns a line about it.

    Args:
        todo: runs with their states.
        launcher: "slurm" or "submitit-local".
        jobs: the most jobs at once; None: as many as the cluster allows.
        parameters: of the jobs, by names of sbatch's options with underscores, or signal_delay_s.

    Raises BadRequest for an unknown parameter, or without SLURM.
    """
    runs = [
        Job(run.name, plan.command(run, sys.executable), str(plan.log(run).resolve()),
            str((plan.directory(run) / "summary.json").resolve()))
        for run, state in todo if state != FINISHED
    ]  # fmt: skip
    if not runs:
        return "nothing to submit"
    folder = plan.folder.resolve() / "jobs"
    os.environ["PYTHONPATH"] = python_path()  # jobs inherit it, and may start in any folder
    os.environ.pop("WANDB_RUN_ID", None)  # the id of one run
    plan.logs.mkdir(parents=True, exist_ok=True)
    executor = _executor(launcher, folder, plan.study.name, jobs, parameters)
    for run, state in todo:
        if state == CHANGED:
            plan.clear(run)
    with executor.batch():
        submitted = [executor.submit(job) for job in runs]
    first = submitted[0].job_id.partition("_")[0]
    which = f"array {first}" if launcher == "slurm" and len(runs) > 1 else f"job {first}"
    also = "" if launcher == "slurm" or len(runs) == 1 else f" and {len(runs) - 1} more"
    return f"submitted     {len(runs)} run{'' if len(runs) == 1 else 's'} as {which}{also}; logs in {plan.logs}"


def _executor(
    launcher: str, folder: Path, name: str, jobs: int | None, parameters: dict[str, str]
) -> submitit.Executor:
    if launcher == "submitit-local":
        executor = submitit.LocalExecutor(folder, max_num_timeout=REQUEUES)
        executor.update_parameters(timeout_min=MINUTES)
        return executor
    values: dict[str, Any] = {key: int(value) if value.isdecimal() else value for key, value in parameters.items()}
    if jobs is not None:
        values = {"array_parallelism": jobs, **values}
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=REQUEUES)
    except RuntimeError:
        raise BadRequest("--launcher slurm: there is no SLURM here (no srun)") from None
    try:
        executor.update_parameters(**{"time": MINUTES, "job_name": name, **values})
    except (ValueError, TypeError) as error:
        raise BadRequest(f"--slurm: {' '.join(str(error).split())}") from None
    return executor
