"""Repeats the trainings of the study files in studies/published, one study after the other."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments import request
from experiments.plan import ROOT, check_runs, make_plan
from experiments.run_study import carry_out
from experiments.study_file import Study, read_study
from settings.checks import PACKAGES
from settings.flag import Groups, flag, same_flag
from settings.flag_types import COUNT, one_of, path, text
from settings.groups import Data, Run
from settings.parser import ask
from utils import BadRequest, cores, require, suggestion

DESCRIPTION = (
    "Repeat published trainings, of the study files in studies/published, with the published flags and in this suite's"
    " own recipe; and write a table of our figures beside the published ones. The same command continues what was"
    " interrupted."
)
PUBLISHED = ROOT / "studies" / "published"
DATA = "data"  # the study files' folder of data sets
JOBS = 6  # trainings that share a card
# With --budget cpu, by data set: about 200 training images, and few test images where the classes can be chosen.
FEW_IMAGES = {
    "cifar10": {"classes": "cat,dog", "train_fraction": 0.02},
    "cifar100": {"classes": "apple,bear", "train_fraction": 0.2},
    "imagenet100": {"train_fraction": 0.02, "val_fraction": 0.05},
}
# A teacher at chance is refused, so it gets more steps, at a usual rate, and plain images.
TAUGHT = {"teacher_epochs": 10, "train_fraction": 0.05, "batch_size": 16, "lr": 0.001, "augmentation": "none",
          "rand": False, "random_erasing": 0, "ema": 0}  # fmt: skip

OF_SCHEDULES = ("warmup_epochs", "step_size", "gamma")  # longer than one epoch

# fmt: off


@dataclass(frozen=True, kw_only=True)
class What:
    """what is repeated"""

    data_path: str | None = flag("folder that holds cifar-100-python, cifar-10-batches-py and imagenet100; a study"
        " whose data are not there is left out", check=path, metavar="PATH")
    budget: str = flag("gpu: the trainings as published; cpu: only whether every command works: one epoch, few and"
        " small images, one seed, random weights in place of published ones", "gpu", check=one_of("gpu", "cpu"))
    only: list[str] | None = flag("studies or variants to run", check=text, metavar="NAME", nargs="+",
        default_text="all")
    download: bool = same_flag(Data, "download")
    verify_checksum: bool = same_flag(Data, "verify_checksum")


@dataclass(frozen=True, kw_only=True)
class Where:
    """how and where"""

    jobs: int | None = flag("trainings at once, which share the card or the processors", check=COUNT, metavar="N",
        default_text=f"{JOBS}; one per processor with --budget cpu")
    runs_dir: str = same_flag(Run, "runs_dir", help="folder of the studies' folders")
    results: str = flag("folder of the table, reproduction.md, or reproduction-cpu.md with --budget cpu", "results",
        check=path, metavar="DIR")


# fmt: on


@dataclass(frozen=True, kw_only=True)
class Request(Groups):
    """All groups of flags of reproduce.py."""

    what: What = field(default_factory=What)
    where: Where = field(default_factory=Where)

    @property
    def full(self) -> bool:
        """Whether the trainings are the published ones, and not a trial of their commands."""
        return self.what.budget == "gpu"

    @property
    def table(self) -> Path:
        """The file of the table."""
        return Path(self.where.results) / ("reproduction.md" if self.full else "reproduction-cpu.md")


def read_request(argv: list[str]) -> Request:
    """Parses and checks a command line. Raises BadRequest, naming the flag."""
    asked, _ = ask(argv, DESCRIPTION, Request)
    if asked.what.data_path is None:
        raise BadRequest("--data-path: give the folder of the data sets (make reproduce DATA=PATH)")
    return asked


def reproduce(asked: Request, write_table: Callable[[list[Path], list[str]], None]) -> int:
    """Runs the requested studies, and writes the table after each of them. Returns the exit status.

    Args:
        write_table: gets the folders of the studies' runs, and a sentence for each study that was left out.

    Raises BadRequest, before anything is written or started, if no requested study can be run.
    """
    require(*PACKAGES)
    if asked.full:
        _check_accelerator()
    chosen, left_out = _possible(asked, _choose(asked))
    for line in left_out:
        print(line, file=sys.stderr)
    status = 1 if left_out else 0
    for study, only in chosen:
        which = request.Which(study=str(study.file), only=only, runs_dir=asked.where.runs_dir)
        jobs = asked.where.jobs or (JOBS if asked.full else cores())
        ended = carry_out(study, request.Request(which=which, how=request.How(jobs=jobs)))
        write_table([Path(asked.where.runs_dir) / study.name for study, _ in chosen], left_out)
        if ended > 1:  # stopped by a signal, or at a time limit
            return ended
        status = max(status, ended)
    print(f"wrote         {asked.table}")
    return status


def _check_accelerator() -> None:
    import torch

    if not torch.accelerator.is_available():
        raise BadRequest("--budget gpu: there is no GPU here; --budget cpu tries the commands without one")


def _choose(asked: Request) -> list[tuple[Study, list[str]]]:
    """The requested studies, each with its requested variants."""
    what, studies = asked.what, []
    for file in sorted(PUBLISHED.glob("*.toml")):
        study = read_study(Path(os.path.relpath(file)))
        variants = {name: _with_data(flags, study.script, what) for name, flags in study.variants.items()}
        study = replace(study, variants=variants)
        studies.append(study if asked.full else _tiny(study))
    names = [study.file.stem for study in studies] + [name for study in studies for name in study.variants]
    for name in what.only or []:
        if name not in names:
            raise BadRequest(f"--only {name}: no published study or variant.{suggestion(name, names)}"
                             f" Studies: {', '.join(study.file.stem for study in studies)}")  # fmt: skip
    asked_names = set(what.only or names)
    chosen = [(study, [name for name in study.variants if {study.file.stem, name} & asked_names]) for study in studies]
    return [(study, only) for study, only in chosen if only]


def _with_data(flags: dict[str, Any], script: str, what: What) -> dict[str, Any]:
    assert what.data_path is not None
    place = Path(what.data_path) / Path(flags["data_path"]).relative_to(DATA)
    found = {**flags, "data_path": str(place)}
    if script == "main.py":  # the other script reads no archives
        found.update(download=what.download, verify_checksum=what.verify_checksum)
    return found


def _tiny(study: Study) -> Study:
    """The same commands, so small that each takes seconds: what they take from elsewhere is made here."""
    variants = {}
    for name, flags in study.variants.items():
        few = FEW_IMAGES[flags.get("dataset", "imagenet100")]
        tiny = {"epochs": 1, "img_size": 32, "schedule": "constant", "pretrained": False, "device": "cpu"}
        taught = TAUGHT if "teacher" in flags else {}
        variants[name] = {key: value for key, value in flags.items() if key not in OF_SCHEDULES} | few | tiny | taught
    return replace(study, name=f"{study.name}-cpu", seeds=study.seeds[:1], variants=variants)


def _possible(asked: Request, chosen: list[tuple[Study, list[str]]]) -> tuple[list[tuple[Study, list[str]]], list[str]]:
    """(the studies that can be run, a sentence for each of the others). Raises BadRequest if none can."""
    possible, left_out = [], []
    for study, only in chosen:
        try:
            check_runs(make_plan(study, asked.where.runs_dir), with_data=True)
            possible.append((study, only))
        except BadRequest as error:
            left_out.append(f"{study.file.stem} is left out: {error}")
    if not possible:
        raise BadRequest(left_out[0])
    return possible, left_out
