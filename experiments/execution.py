"""Runs of a study as child processes of this one: so many at once, all of them to the end whatever becomes of one."""

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
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from experiments.plan import CHANGED, FINISHED, STOPPED, Plan, Run
from experiments.progress import StudyProgress
from records import lock
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
        """Each signal once to each child. They are in sessions of their own, so a terminal's Ctrl-C reaches them this
        way alone, and not a second time."""
        while self.fresh:
            number = self.fresh.pop(0)
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    child.process.send_signal(number)


def run_all(
    plan: Plan, todo: list[tuple[Run, str]], settings: dict[str, SimpleNamespace], jobs: int, problems: list[str]
) -> int:
    """Runs what is to do, up to `jobs` at once. A run that another process holds waits until that lets go of it.

    Returns the exit status: 0, 1 where a run failed, 128 + N when it was stopped by signal N, or a run's own where it
    left in time, saved, and none failed.

    Args:
        todo: runs with their states (`plan.inspect`), those that are finished among them.
        settings: by the run's name.
        problems: what is amiss already; it is reported with the failures.
    """
    pending = deque(item for item in todo if item[1] != FINISHED)
    problems, running, signals = list(problems), [], Signals()
    held: dict[str, float] = {}  # when a run was last seen in the hands of another process
    saved: list[int] = []  # exit statuses of runs that left by themselves, at a time limit
    plan.logs.mkdir(parents=True, exist_ok=True)
    progress = StudyProgress(len(todo), len(todo) - len(pending), jobs)
    with noting_signals(signals.note, SAME_REQUEST_SECONDS, stay_ignored=SIGNALS):
        try:
            while running or (pending and signals.first is None):
                for run, state in list(pending):
                    if len(running) == jobs or signals.first is not None:
                        break
                    if state != CHANGED and _is_held(plan, run, held, progress):
                        continue
                    pending.remove((run, state))
                    try:
                        if state == CHANGED:
                            plan.clear(run)
                    except BadRequest as error:
                        problems.append(f"{run.name}: {error}")
                        continue
                    running.append(_start(plan, run, jobs))
                    progress.begin(run.name, settings[run.name].epochs, plan.directory(run) / "metrics.csv")
                time.sleep(POLL_SECONDS)
                signals.hand_on(running)
                for child in [child for child in running if child.process.poll() is not None]:
                    running.remove(child)
                    if child.process.returncode == REFUSED and _is_held(plan, child.run, held, progress):
                        pending.append((child.run, STOPPED))
                        continue
                    _settle(plan, child, signals, progress, problems)
                    if signals.first is None and child.process.returncode in SAVED:
                        saved.append(child.process.returncode)
                progress.refresh()
        except BaseException:
            signals.fresh.append(signal.SIGTERM)
            signals.hand_on(running)
            raise
        finally:
            progress.close()
    if signals.first is not None:
        name = signal.Signals(signals.first).name
        print(f"study.py: stopped by {name}; the same command continues", file=sys.stderr)
    for problem in problems:
        print(problem, file=sys.stderr)
    if signals.first is not None:
        return 128 + signals.first
    if len(problems) > len(saved):
        return 1
    return saved[0] if saved else 0


def _is_held(plan: Plan, run: Run, held: dict[str, float], progress: StudyProgress) -> bool:
    """Whether another process is at work on the run, which is said once."""
    if time.monotonic() - held.get(run.name, -HELD_SECONDS) < HELD_SECONDS:
        return True
    holder = lock.holder(plan.directory(run))
    if holder is None:
        return False
    progress.wait(run.name, holder if run.name not in held else None)
    held[run.name] = time.monotonic()
    return True


def dying_with_this_process() -> Callable[[], None] | None:
    """For subprocess's preexec_fn: the child gets SIGTERM, and saves, when this process dies, even by SIGKILL. None on
    other systems than Linux, which do not know that."""
    if sys.platform != "linux":
        return None
    parent, prctl = os.getpid(), ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before
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


def _settle(plan: Plan, child: Child, signals: Signals, progress: StudyProgress, problems: list[str]) -> None:
    """Says what became of a run that has ended."""
    run, status = child.run, child.process.returncode
    finished = status == 0 and (plan.directory(run) / "summary.json").is_file()
    if finished:
        outcome = "finished"
    elif signals.first is not None:
        outcome = "stopped"
    elif status in SAVED:
        outcome = "saved, not finished"
        problems.append(f"{run.name}: saved before its end (exit status {status}); the same command continues it")
    else:
        outcome = "failed"
        problems.append(f"{run.name}: failed (exit status {status}): {last_line(plan.log(run))}; see {plan.log(run)}")
    progress.end(run.name, outcome, time.monotonic() - child.began, plan.directory(run) / "summary.json")


def last_line(log: Path) -> str:
    """The last line with something in it."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
