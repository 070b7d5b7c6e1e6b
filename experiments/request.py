"""The flags of study.py."""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections import Counter
from dataclasses import dataclass, field

from settings.flag import Groups, flag, same_flag
from settings.flag_types import COUNT, number, one_of, path, text
from settings.groups import Run
from settings.parser import ask
from utils import BadRequest

DESCRIPTION = (
    "Run a study: every variant of a study file with every seed, each a run directory in RUNS-DIR/STUDY. Runs that are"
    " finished are skipped, stopped ones continued; a run that fails stops no other and is reported at the end."
    " experiments/study_file.py says what a study file holds; studies/ has some."
)


def setting(value: str) -> tuple[str, str]:
    """An argparse type: flag=value, without hyphens in front."""
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


# fmt: off


@dataclass(frozen=True, kw_only=True)
class Which:
    """which runs"""

    study: str = flag("study file", check=path, metavar="STUDY.toml", positional=True)
    only: list[str] | None = flag("variants to run", check=text, metavar="VARIANT", nargs="+", default_text="all")
    seeds: list[int] | None = flag("seeds to run, of those of the study", check=number(int, 0), metavar="N", nargs="+",
        default_text="all")
    shard: tuple[int, int] | None = flag("every N-th of these runs, beginning with the I-th, from 0: for N machines, or"
        " the tasks of an array", check=shard, metavar="I/N", default_text="all")
    set: list[tuple[str, str]] | None = flag("flags for all runs, which win over the study file's: data-path=PATH. With"
        " one on which results depend (epochs=2) it is another study, and needs --name", check=setting,
        metavar="FLAG=VALUE", nargs="+", default_text="none")
    name: str | None = flag("name of the study, and of its folder below --runs-dir", check=text, metavar="NAME",
        default_text="the file's")
    runs_dir: str = same_flag(Run, "runs_dir", help="folder of the studies' folders")
    overwrite: bool = flag("delete and repeat those runs whose stored settings differ from the study's", False)


@dataclass(frozen=True, kw_only=True)
class How:
    """how they are run"""

    jobs: int | None = flag("runs at once, which share the processors; on a cluster, tasks of the array at once",
        check=COUNT, metavar="N", default_text="1")
    launcher: str = flag("local: here; slurm: as an array of jobs, which is submitted and left alone; submitit-local:"
        " like slurm, but here, to try that", "local", check=one_of("local", "slurm", "submitit-local"), metavar="NAME")
    slurm: list[tuple[str, str]] | None = flag("options of sbatch for the jobs: partition=gpu gpus_per_node=1"
        " cpus_per_task=8 mem=32GB time=240 (minutes, by default 60, after which a job queues itself again)",
        check=setting, metavar="NAME=VALUE", nargs="+", default_text="none")


@dataclass(frozen=True, kw_only=True)
class Look:
    """looking before running"""

    dry_run: bool = flag("print every command line, with an estimate of time and memory, and run nothing", False)
    estimate: bool = flag("measure a few steps of each variant for --dry-run; without it the data need not be there",
        True, negatable=True)


# fmt: on


@dataclass(frozen=True, kw_only=True)
class Request(Groups):
    """All groups of flags of study.py."""

    which: Which = field(default_factory=Which)
    how: How = field(default_factory=How)
    look: Look = field(default_factory=Look)


def read_request(argv: list[str]) -> Request:
    """Parses and checks a command line. Raises BadRequest, naming the flag."""
    request, given = ask(argv, DESCRIPTION, Request)
    how, look = request.how, request.look
    if "estimate" in given and not look.dry_run:
        raise BadRequest(f"--{'' if look.estimate else 'no-'}estimate has no effect: it needs --dry-run")
    if "slurm" in given and how.launcher != "slurm":
        raise BadRequest("--slurm has no effect: it needs --launcher slurm")
    if how.launcher != "local" and importlib.util.find_spec("submitit") is None:
        raise BadRequest(f"--launcher {how.launcher} needs the package submitit: pip install submitit")
    for name, pairs in (("set", request.which.set), ("slurm", how.slurm)):
        twice = [key for key, count in Counter(key for key, _ in pairs or []).items() if count > 1]
        if twice:
            raise BadRequest(f"--{name} {twice[0]}: given twice")
    return request
