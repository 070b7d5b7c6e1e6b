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
    inspect_runs,
    make_plan,
    select_runs,
    untaught,
    write_plan,
)
from experiments.request import Request
from experiments.study_file import Study, read_study
from records import lock
from settings.checks import PACKAGES
from settings.groups import Settings
from utils import require


def run_study(request: Request) -> int:
    """Returns the exit status. Raises BadRequest, before anything is written or started, for what cannot be run."""
    which, look = request.which, request.look
    if look.estimate or not look.dry_run:
        require(*PACKAGES)
    return carry_out(read_study(Path(which.study), dict(which.set or []), which.name), request)


def carry_out(study: Study, request: Request) -> int:
    """Checks all runs of a study, and executes, submits or lists those that are requested. See `run_study`."""
    which, how, look = request.which, request.how, request.look
    plan = make_plan(study, which.runs_dir)
    settings = check_runs(plan, with_data=look.estimate or not look.dry_run)
    selected = select_runs(plan, which.only, which.seeds, which.shard)
    found = inspect_runs(plan, selected, settings)
    others = _with_other_settings(plan, found, which.overwrite)
    todo = [(run, state) for run, state, _ in found if run.name not in others]
    lacking = _without_teacher(plan, todo, settings)
    todo = [(run, state) for run, state in todo if run.name not in lacking]
    print(_overview(plan, todo, len(others), len(lacking)), flush=True)
    problems = [*others.values(), *lacking.values()]
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


def _with_other_settings(plan: Plan, found: list[tuple[Run, str, str]], overwrite: bool) -> dict[str, str]:
    """By name, a line for each run that is left out because its folder has a run with other settings."""
    problems, asked = {}, {run.name for run, *_ in found}
    for run, _, reason in [one for one in found if one[1] == CHANGED]:
        differs = f"{run.name}: differs from the study, {reason}"
        students = [name for name, teacher in plan.teachers.items() if teacher.name == run.name]
        left = [name for name in students if name not in asked and (plan.folder / name).is_dir()]
        if not overwrite:
            problems[run.name] = f"{differs}; --overwrite repeats it, --name keeps it"
        elif left:
            problems[run.name] = f"{differs}; ask for its student {left[0]} too, which --overwrite repeats with it"
    return problems


def _without_teacher(plan: Plan, todo: list[tuple[Run, str]], settings: dict[str, Settings]) -> dict[str, str]:
    """By name, a line for each run whose teacher is neither trained, nor asked for, nor trained by another process."""
    problems, asked = {}, {run.name for run, _ in todo}
    for run in [run for run, state in todo if state != FINISHED and run.name in plan.teachers]:
        teacher = plan.teachers[run.name]
        waits = teacher.name in asked or lock.holder(plan.directory(teacher)) is not None
        if not waits and (reason := untaught(plan, run, settings)):
            problems[run.name] = reason
    return problems


def _overview(plan: Plan, todo: list[tuple[Run, str]], others: int, lacking: int) -> str:
    """A line that counts the requested runs by state."""
    counts = Counter(state for _, state in todo)
    states = [f"{counts[state]} {state}" for state in (FINISHED, STOPPED, NEW) if counts[state]]
    states += [f"{counts[CHANGED]} to be repeated"] if counts[CHANGED] else []
    states += [f"{others} with other settings"] if others else []
    states += [f"{lacking} without a trained teacher"] if lacking else []
    total = len(todo) + others + lacking
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
