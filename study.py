"""Many runs from one study file: variants x seeds x fractions. `python study.py --help` lists the flags."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from settings.flags import FLAGS, Flag

from experiments import plan as plans
from experiments import study_file
from experiments.plan import CHANGED, FINISHED, NEW, STOPPED, Plan, Run
from settings import checks, terminal
from settings.flag_types import COUNT, number, one_of, path, text
from settings.parser import read_flags
from utils import BadRequest, require

DESCRIPTION = (
    "Run a study: every variant of a study file with every seed, each a run directory in RUNS-DIR/STUDY. Runs that are"
    " finished are skipped, stopped ones continued; a run that fails stops no other and is reported at the end."
    " experiments/study_file.py says what a study file holds; studies/ has some."
)


def setting(value: str) -> tuple[str, str]:
    """An argparse type: a flag without hyphens and its value."""
    name, equals, rest = value.partition("=")
    if not equals or not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise argparse.ArgumentTypeError(f"{value!r} is not of the form flag=value, such as epochs=2")
    return name, rest


def shard(value: str) -> tuple[int, int]:
    """An argparse type: I/N with I from 0 to N - 1."""
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", value)
    i, n = (int(found[1]), int(found[2])) if found else (0, 0)
    if i >= n:
        raise argparse.ArgumentTypeError(f"{value!r} is not of the form I/N with I from 0 to N - 1")
    return i, n


GROUPS = {
    "which runs": [
        Flag("study", "study file", check=path, metavar="STUDY.toml", positional=True),
        Flag("only", "variants to run", check=text, metavar="VARIANT", nargs="+", default_text="all"),
        Flag("seeds", "seeds to run, of those of the study", check=number(int, 0), metavar="N", nargs="+",
             default_text="all"),
        Flag("shard", "every N-th of these runs, beginning with the I-th, from 0: for N machines, or the tasks of an"
             " array",
             check=shard, metavar="I/N", default_text="all"),
        Flag("set", "flags for all runs, which win over the study file's: data-path=PATH. With one on which results"
             " depend (epochs=2) it is another study, and needs --name", check=setting, metavar="FLAG=VALUE", nargs="+",
             default_text="none"),
        Flag("name", "name of the study, and of its folder below --runs-dir", check=text, metavar="NAME",
             default_text="the file's"),
        replace(FLAGS["runs_dir"], help="folder of the studies' folders"),
        Flag("overwrite", "delete and repeat those runs whose stored settings differ from the study's", default=False),
    ],
    "how they are run": [
        Flag("jobs", "runs at once, which share the processors; on a cluster, tasks of the array at once", default=1,
             check=COUNT, metavar="N"),
        Flag("launcher", "local: here; slurm: as an array of jobs, which is submitted and left alone; submitit-local:"
             " like slurm, but here, to try that", default="local", check=one_of("local", "slurm", "submitit-local"),
             metavar="NAME"),
        Flag("slurm", "options of sbatch for the jobs: partition=gpu gpus_per_node=1 cpus_per_task=8 mem=32GB time=240"
             " (minutes, by default 60, after which a job queues itself again)", check=setting, metavar="NAME=VALUE",
             nargs="+", default_text="none"),
    ],
    "looking before running": [
        Flag("dry-run", "print every command line, with an estimate of time and memory, and run nothing",
             default=False),
        Flag("estimate", "measure a few steps of each variant for --dry-run; without it the data need not be there",
             default=True, negatable=True),
    ],
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Runs, submits or shows the study that the command line names."""
    argv = sys.argv[1:] if argv is None else argv
    given = read_flags(argv, DESCRIPTION, GROUPS)
    s = checks.complete(given, GROUPS)
    _check(s, given)
    if not s.dry_run or s.estimate:
        require(*checks.PACKAGES)
    sets = dict(s.set or [])
    study = study_file.read(Path(s.study), sets, s.name)
    plan = plans.make(study, s.runs_dir)
    settings = plans.check_all(plan, with_data=not s.dry_run or s.estimate)
    selected = plans.select(plan, s.only, s.seeds, s.shard)
    found = [(run, *plans.inspect(plan, run, settings[run.name])) for run in selected]
    todo, problems = _sort_out_changed(found, s.overwrite)
    print(_overview(plan, todo, problems), flush=True)
    if s.dry_run:
        return _dry_run(plan, todo, settings, s.estimate, problems)
    plans.write(plan)
    if s.launcher == "local":
        from experiments.execution import run_all

        return run_all(plan, todo, settings, s.jobs, problems)
    from experiments.submission import submit

    print(submit(plan, todo, s.launcher, s.jobs if "jobs" in given else None, dict(s.slurm or [])))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _check(s: SimpleNamespace, given: dict) -> None:
    if "estimate" in given and not s.dry_run:
        raise BadRequest(f"--{'' if s.estimate else 'no-'}estimate has no effect: it needs --dry-run")
    if "slurm" in given and s.launcher != "slurm":
        raise BadRequest("--slurm has no effect: it needs --launcher slurm")
    if s.launcher != "local" and importlib.util.find_spec("submitit") is None:
        raise BadRequest(f"--launcher {s.launcher} needs the package submitit: pip install submitit")
    for name, pairs in (("set", s.set), ("slurm", s.slurm)):
        twice = [key for key, count in Counter(key for key, _ in pairs or []).items() if count > 1]
        if twice:
            raise BadRequest(f"--{name} {twice[0]}: given twice")


def _sort_out_changed(found: list[tuple[Run, str, str]], overwrite: bool) -> tuple[list[tuple[Run, str]], list[str]]:
    """(runs to be done or skipped, with their states; a line for each that is neither: its folder holds another)."""
    todo, problems = [], []
    for run, state, reason in found:
        if state == CHANGED and not overwrite:
            problems.append(f"{run.name}: differs from the study, {reason}; --overwrite repeats it, --name keeps it")
        else:
            todo.append((run, state))
    return todo, problems


def _overview(plan: Plan, todo: list[tuple[Run, str]], problems: list[str]) -> str:
    counts = Counter(state for _, state in todo)
    states = [f"{counts[state]} {state}" for state in (FINISHED, STOPPED, NEW) if counts[state]]
    states += [f"{counts[CHANGED]} to be repeated"] if counts[CHANGED] else []
    states += [f"{len(problems)} with other settings"] if problems else []
    total = len(todo) + len(problems)
    chosen = "" if total == len(plan.runs) else f" of {len(plan.runs)}"
    which = f"{total}{chosen} run{'' if len(plan.runs) == 1 else 's'}"
    return f"study         {plan.study.name}: {which} ({', '.join(states) or 'none of them here'}) in {plan.folder}"


def _dry_run(plan: Plan, todo: list[tuple[Run, str]], settings, estimate: bool, problems: list[str]) -> int:
    for run, state in todo:
        print(f"# {run.name}: finished" if state == FINISHED else shlex.join(plan.command(run, "python")))
    for problem in problems:
        print(f"# {problem}")
    if not estimate:
        return 0
    from experiments.estimate import print_estimate

    return print_estimate(plan, [run for run, state in todo if state != FINISHED], settings)


if __name__ == "__main__":
    sys.exit(terminal.run_script(main))
