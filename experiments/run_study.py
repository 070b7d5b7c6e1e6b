"""Reads a study, checks all of its runs, and executes, submits or lists the requested ones."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from pathlib import Path

from experiments.plan import (
    CHANGED,
    FINISHED,
    NEW,
    STOPPED,
    Plan,
    Run,
    check_runs,
    inspect_run,
    make_plan,
    select_runs,
    write_plan,
)
from experiments.request import Request
from experiments.study_file import read_study
from settings.checks import PACKAGES
from settings.groups import Settings
from utils import require


def run_study(request: Request) -> int:
    """Returns the exit status. Raises BadRequest, before anything is written or started, for what cannot be run."""
    which, how, look = request.which, request.how, request.look
    needs_data = look.estimate or not look.dry_run
    if needs_data:
        require(*PACKAGES)
    study = read_study(Path(which.study), dict(which.set or []), which.name)
    plan = make_plan(study, which.runs_dir)
    settings = check_runs(plan, needs_data)
    selected = select_runs(plan, which.only, which.seeds, which.shard)
    found = [(run, *inspect_run(plan, run, settings[run.name])) for run in selected]
    todo, problems = _sort_out_changed(found, which.overwrite)
    print(_overview(plan, todo, problems), flush=True)
    if look.dry_run:
        return _dry_run(plan, todo, settings, look.estimate, problems)
    write_plan(plan)
    if how.launcher == "local":
        from experiments.execution import run_all

        return run_all(plan, todo, settings, how.jobs or 1, problems)
    from experiments.submission import submit

    print(submit(plan, todo, how.launcher, how.jobs, dict(how.slurm or [])))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _sort_out_changed(found: list[tuple[Run, str, str]], overwrite: bool) -> tuple[list[tuple[Run, str]], list[str]]:
    """(runs with their states, a line for each run left out because its folder has a run with other settings)."""
    todo, problems = [], []
    for run, state, reason in found:
        if state == CHANGED and not overwrite:
            problems.append(f"{run.name}: differs from the study, {reason}; --overwrite repeats it, --name keeps it")
        else:
            todo.append((run, state))
    return todo, problems


def _overview(plan: Plan, todo: list[tuple[Run, str]], problems: list[str]) -> str:
    """A line that counts the requested runs by state."""
    counts = Counter(state for _, state in todo)
    states = [f"{counts[state]} {state}" for state in (FINISHED, STOPPED, NEW) if counts[state]]
    states += [f"{counts[CHANGED]} to be repeated"] if counts[CHANGED] else []
    states += [f"{len(problems)} with other settings"] if problems else []
    total = len(todo) + len(problems)
    chosen = "" if total == len(plan.runs) else f" of {len(plan.runs)}"
    which = f"{total}{chosen} run{'' if len(plan.runs) == 1 else 's'}"
    return f"study         {plan.study.name}: {which} ({', '.join(states) or 'none of them here'}) in {plan.folder}"


def _dry_run(
    plan: Plan, todo: list[tuple[Run, str]], settings: dict[str, Settings], estimate: bool, problems: list[str]
) -> int:
    """Prints the command lines and, if asked for, the estimate. Returns the exit status."""
    for run, state in todo:
        print(f"# {run.name}: finished" if state == FINISHED else shlex.join(plan.command(run, "python")))
    for problem in problems:
        print(f"# {problem}")
    if not estimate:
        return 0
    from experiments.estimate import print_estimate

    return print_estimate(plan, [run for run, state in todo if state != FINISHED], settings)
