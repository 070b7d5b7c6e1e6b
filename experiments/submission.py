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
from dataclasses import dataclass, replace
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
    """One run in a job's process. submitit pickles these values.

    Attributes:
        taught_by: summary of the teacher's run, without which the job fails; None for a run that is no student.
    """

    name: str
    command: list[str]
    log: str
    summary: str
    taught_by: str | None = None

    def __call__(self) -> None:
        """Executes the run. Raises RunFailed if it fails."""
        if self.taught_by is not None and not Path(self.taught_by).is_file():
            raise RunFailed(f"{self.name}: was not started: the run of its teacher is not finished (no"
                            f" {self.taught_by})")  # fmt: skip
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
        return submitit.helpers.DelayedSubmission(replace(self))


def _timeout_signal() -> int:
    """The signal that submitit sends ahead of the time limit."""
    return getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")


def submit(plan: Plan, todo: list[tuple[Run, str]], launcher: str, jobs: int | None, parameters: dict[str, str]) -> str:
    """Submits the unfinished runs, and their students as a second array that waits for the first. Returns a line on it.

    Args:
        todo: runs with their states.
        launcher: "slurm" or "submitit-local".
        jobs: the most jobs at once; None: as many as the cluster allows.
        parameters: of the jobs, by names of sbatch's options with underscores, or signal_delay_s.

    Raises BadRequest for an unknown parameter, without SLURM, or if a student has to wait for a local job.
    """
    unfinished = [run for run, state in todo if state != FINISHED]
    if not unfinished:
        return "nothing to submit"
    students = [run for run in unfinished if plan.teachers.get(run.name) in unfinished]
    if students and launcher == "submitit-local":
        raise BadRequest(f"--launcher submitit-local: {students[0].name} has to wait for the run of its teacher, and"
                         " local jobs cannot; give --launcher local")  # fmt: skip
    folder = plan.folder.resolve() / "jobs"
    os.environ["PYTHONPATH"] = python_path()  # jobs inherit it, and may start in any folder
    os.environ.pop("WANDB_RUN_ID", None)  # the id of one run
    plan.logs.mkdir(parents=True, exist_ok=True)
    executor = _executor(launcher, folder, plan.study.name, jobs, parameters)
    for run, state in todo:
        if state == CHANGED:
            plan.clear(run)
    number, said = _submit(executor, plan, [run for run in unfinished if run not in students], "run")
    if students:
        # afterany, not afterok: without its teacher a student's job fails by itself, and says so. Other dependencies
        # are those of the first array.
        executor.update_parameters(dependency=f"afterany:{number}")
        said += f", then {_submit(executor, plan, students, 'student')[1]}"
    return f"submitted     {said}; logs in {plan.logs}"


def _submit(executor: submitit.Executor, plan: Plan, runs: list[Run], what: str) -> tuple[str, str]:
    """Submits the runs at once. Returns (number of the array or of the first job, words such as `2 runs as array 42`).

    Args:
        what: one of them is called so.
    """
    with executor.batch():
        submitted = [executor.submit(_job(plan, run)) for run in runs]
    number, alone = submitted[0].job_id.partition("_")[0], len(runs) == 1
    is_array = isinstance(executor, submitit.SlurmExecutor) and not alone
    also = "" if alone or is_array else f" and {len(runs) - 1} more"
    return number, f"{len(runs)} {what}{'' if alone else 's'} as {'array' if is_array else 'job'} {number}{also}"


def _job(plan: Plan, run: Run) -> Job:
    teacher = plan.teachers.get(run.name)
    summary, taught_by = _summary(plan, run), None if teacher is None else _summary(plan, teacher)
    return Job(run.name, plan.command(run, sys.executable), str(plan.log(run).resolve()), summary, taught_by)


def _summary(plan: Plan, run: Run) -> str:
    return str((plan.directory(run) / "summary.json").resolve())


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
