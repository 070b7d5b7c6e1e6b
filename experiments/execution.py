"""Executes runs as child processes, up to N at once; one failure does not stop the others."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from experiments.plan import CHANGED, FINISHED, STOPPED, Plan, Run, untaught
from experiments.progress import StudyProgress
from records import lock
from settings.groups import Settings
from utils import SIGNALS, BadRequest, cores, noting_signals

POLL_SECONDS = 0.2
HELD_SECONDS = 2.0  # between two looks at a run that another process holds
PR_SET_PDEATHSIG = 1  # from Linux's <sys/prctl.h>
SAME_REQUEST_SECONDS = 3.0  # a training that gets a second signal leaves without saving
REFUSED = 2  # exit status of a bad request
SAVED = [128 + number for number in SIGNALS]  # exit statuses of a run that left in order and can be continued


@dataclass
class Child:
    run: Run
    process: subprocess.Popen
    began: float


class Signals:
    """Notes the signals that this process gets, for it to hand on."""

    def __init__(self):
        self.first: int | None = None
        self.fresh: list[int] = []

    def note(self, number: int) -> None:
        self.first = self.first or number
        self.fresh.append(number)

    def hand_on(self, children: list[Child]) -> None:
        """Sends each noted signal once to each child. Children have sessions of their own, so a terminal's Ctrl-C
        reaches them this way only, and not twice."""
        while self.fresh:
            number = self.fresh.pop(0)
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    child.process.send_signal(number)


def run_all(
    plan: Plan, todo: list[tuple[Run, str]], settings: dict[str, Settings], jobs: int, problems: list[str]
) -> int:
    """Executes unfinished runs, up to `jobs` at once. A run that another process holds waits for it, and a student for
    its teacher's run.

    Returns the exit status: 0; 1 if a run failed; 128 + N if signal N stopped the study; or that of a run that saved
    and left at its time limit, if none failed.

    Args:
        todo: runs with their states (`plan.inspect_run`), finished ones included.
        settings: by the run's name.
        problems: earlier ones, which are reported together with the failures.
    """
    pending = deque(item for item in todo if item[1] != FINISHED)
    signals = Signals()
    plan.logs.mkdir(parents=True, exist_ok=True)
    progress = StudyProgress(len(todo), len(todo) - len(pending), jobs)
    work = Work(plan, settings, jobs, pending, list(problems), signals, progress)
    with noting_signals(signals.note, SAME_REQUEST_SECONDS, stay_ignored=SIGNALS):
        try:
            while work.running or (pending and signals.first is None):
                work.start_runs()
                time.sleep(POLL_SECONDS)
                signals.hand_on(work.running)
                work.settle_ended()
                progress.refresh()
        except BaseException:
            signals.fresh.append(signal.SIGTERM)
            signals.hand_on(work.running)
            raise
        finally:
            progress.close()
    if signals.first is not None:
        name = signal.Signals(signals.first).name
        print(f"study.py: stopped by {name}; the same command continues", file=sys.stderr)
    for problem in work.problems:
        print(problem, file=sys.stderr)
    return work.status()


@dataclass
class Work:
    """The runs that are pending, and those that are running.

    Attributes:
        settings: by the run's name.
        pending: runs with their states.
        problems: a line for each run that failed or left before its end.
        held: by the run's name, when another process was last seen holding it.
        saved: by the run's name, exit statuses of runs that left by themselves, at a time limit; and of their students.
    """

    plan: Plan
    settings: dict[str, Settings]
    jobs: int
    pending: deque[tuple[Run, str]]
    problems: list[str]
    signals: Signals
    progress: StudyProgress
    running: list[Child] = field(default_factory=list)
    held: dict[str, float] = field(default_factory=dict)
    saved: dict[str, int] = field(default_factory=dict)

    def start_runs(self) -> None:
        """Starts pending runs, up to `jobs` at once and none after a signal. Skips runs that other processes hold, and
        students whose teacher is not trained yet."""
        unfinished = {run.name for run, _ in self.pending} | {child.run.name for child in self.running}
        for run, state in list(self.pending):
            if len(self.running) == self.jobs or self.signals.first is not None:
                break
            teacher = self.plan.teachers.get(run.name)
            if teacher is not None and (teacher.name in unfinished or not self.can_learn(run, state, teacher)):
                continue
            if state != CHANGED and self.is_held(run):
                continue
            self.pending.remove((run, state))
            try:
                if state == CHANGED:
                    self.plan.clear(run)
            except BadRequest as error:
                self.problems.append(f"{run.name}: {error}")
                continue
            self.running.append(_start(self.plan, run, self.jobs))
            epochs = self.settings[run.name].optimization.epochs
            self.progress.begin(run.name, epochs, self.plan.directory(run) / "metrics.csv")

    def can_learn(self, run: Run, state: str, teacher: Run) -> bool:
        """Whether the teacher of a pending run is trained. If no process is at that, gives the run up and reports it.

        Args:
            teacher: neither pending nor running here.
        """
        held = self.is_held(teacher)  # asked first, as its process may finish it meanwhile
        reason = untaught(self.plan, run, self.settings)
        if reason and not held:
            self.pending.remove((run, state))
            self.problems.append(reason)
            if teacher.name in self.saved:
                self.saved[run.name] = self.saved[teacher.name]
        return not reason

    def is_held(self, run: Run) -> bool:
        """Whether another process holds the run; reports it once."""
        if time.monotonic() - self.held.get(run.name, -HELD_SECONDS) < HELD_SECONDS:
            return True
        holder = lock.holder(self.plan.directory(run))
        if holder is None:
            return False
        self.progress.wait(run.name, holder if run.name not in self.held else None)
        self.held[run.name] = time.monotonic()
        return True

    def settle_ended(self) -> None:
        """Reports the runs that have ended. A run that another process took first is pending again."""
        for child in [child for child in self.running if child.process.poll() is not None]:
            self.running.remove(child)
            if child.process.returncode == REFUSED and self.is_held(child.run):
                self.pending.append((child.run, STOPPED))
            else:
                self._settle(child)

    def _settle(self, child: Child) -> None:
        run, status, log = child.run, child.process.returncode, self.plan.log(child.run)
        summary = self.plan.directory(run) / "summary.json"
        if status == 0 and summary.is_file():
            outcome = "finished"
        elif self.signals.first is not None:
            outcome = "stopped"
        elif status in SAVED:
            outcome = "saved, not finished"
            self.saved[run.name] = status
            self.problems.append(
                f"{run.name}: saved before its end (exit status {status}); the same command continues it"
            )
        else:
            outcome = "failed"
            self.problems.append(f"{run.name}: failed (exit status {status}): {last_line(log)}; see {log}")
        self.progress.end(run.name, outcome, time.monotonic() - child.began, summary)

    def status(self) -> int:
        """The exit status of the study."""
        if self.signals.first is not None:
            return 128 + self.signals.first
        if len(self.problems) > len(self.saved):
            return 1
        return next(iter(self.saved.values()), 0)


def dying_with_this_process() -> Callable[[], None] | None:
    """A preexec_fn with which a child gets SIGTERM, and saves, when this process dies, even by SIGKILL.

    None on systems other than Linux, which lack this.
    """
    if sys.platform != "linux":
        return None
    parent, prctl = os.getpid(), ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has died already
            os._exit(128 + signal.SIGTERM)

    return prepare


def _start(plan: Plan, run: Run, jobs: int) -> Child:
    command = plan.command(run, sys.executable)
    environment = dict(os.environ)
    environment.pop("WANDB_RUN_ID", None)  # the id of one run
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))
    with plan.log(run).open("a", encoding="utf-8") as log:
        log.write(f"$ {shlex.join(command)}\n")
        log.flush()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                   env=environment, start_new_session=True,
                                   preexec_fn=dying_with_this_process())  # fmt: skip
    return Child(run, process, time.monotonic())


def last_line(log: Path) -> str:
    """The last line of a log that is not blank."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
