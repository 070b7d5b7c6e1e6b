"""The runs of a study: their names, command lines, checks and states."""

from __future__ import annotations

import functools
import itertools
import os
import shlex
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from experiments.study_file import Study
from records import lock
from records.run_directory import TEACHER, RunDirectory
from settings import resume
from settings.dataset_flags import comparable, other_place
from settings.flag import TRAIN
from settings.groups import FLAGS, Data, Settings
from settings.locate import locate_data
from settings.run_name import BY_DATA
from settings.scripts import SCRIPTS
from settings.tables import as_words
from utils import BadRequest, suggestion, write_json

ROOT = Path(__file__).resolve().parent.parent  # where the scripts are
NEW, STOPPED, FINISHED, CHANGED = "new", "stopped", "finished", "changed"
OF_DATA = {field.name for field in fields(Data)}


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        name: of the run and of its folder in the study's folder.
        fraction: share of the training images; None if the study varies no fractions.
        fold: the fold that is held out, from 1; None without cross-validation.
        flags: all flags from the study file and --set, by key.
    """

    name: str
    variant: str
    seed: int
    fraction: float | None
    fold: int | None
    flags: dict[str, Any]


@dataclass
class Plan:
    """A study in a folder of runs."""

    study: Study
    runs_dir: str
    runs: list[Run]

    @property
    def folder(self) -> Path:
        """The folder of the runs' folders."""
        return Path(self.runs_dir) / self.study.name

    def directory(self, run: Run) -> Path:
        """The run directory."""
        return self.folder / run.name

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def log(self, run: Run) -> Path:
        """The file with the output of all of the run's attempts."""
        return self.logs / f"{run.name}.log"

    @functools.cached_property
    def teachers(self) -> dict[str, Run]:
        """By a student's name, the run of the same seed, fraction and fold that trains its teacher."""
        runs, teachers = {run.name: run for run in self.runs}, self.study.teachers
        return {run.name: runs[teachers[run.variant] + run.name.removeprefix(run.variant)]
                for run in self.runs if run.variant in teachers}  # fmt: skip

    def arguments(self, run: Run) -> list[str]:
        """The script's arguments, without --resume or --overwrite."""
        tracked = run.flags.get("wandb") != "disabled"
        return [
            *as_words({**run.flags, "seed": run.seed}),
            *(["--wandb-group", self.study.name] if tracked else []),
            *("--runs-dir", self.runs_dir, "--run-name", f"{self.study.name}/{run.name}"),
        ]

    def trial_arguments(self, run: Run) -> list[str]:
        """`arguments` for a check or a measurement, before the run's teacher is trained."""
        if run.name in self.teachers:  # any file that exists; it is not read
            run = replace(run, flags={**run.flags, "teacher_weights": str(self.study.file)})
        return self.arguments(run)

    def command(self, run: Run, python: str) -> list[str]:
        """The command line that starts the run, resumes it, or finds it finished."""
        return [python, os.path.relpath(ROOT / self.study.script), *self.arguments(run), "--resume", "auto"]

    def clear(self, run: Run) -> None:
        """Deletes the folders of a run, of its students and of the teacher that it trained itself.

        Raises BadRequest if another process holds one of them.
        """
        students = [name for name, teacher in self.teachers.items() if teacher.name == run.name]
        for name in (*students, run.name, run.name + TEACHER):  # no student outlives its teacher
            directory = self.folder / name
            if directory.is_dir():
                with lock.locked(directory):
                    shutil.rmtree(directory)

    def settings(self, run: Run) -> tuple[Settings, dict[str, Any]]:
        """(the run's settings, as its script will parse them; the given flags by key).

        Raises BadRequest, naming file and variant.
        """
        try:
            asked = SCRIPTS[self.study.script].ask([*self.trial_arguments(run), "--overwrite"])
        except BadRequest as error:
            raise BadRequest(f"{self.study.file}: variant {run.variant}: {error}") from None
        assert asked.mode == TRAIN  # study files can set no other flags
        settings = asked.settings
        if run.name in self.teachers:
            settings = settings.replace(teacher_weights=run.flags["teacher_weights"])
        return settings, asked.given


def python_path() -> str:
    """PYTHONPATH for a process that imports the suite from any working directory."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def make_plan(study: Study, runs_dir: str) -> Plan:
    """All runs of a study, seed by seed: a study stopped early then has complete pairs.

    Raises BadRequest if two runs would share a folder, or the flags of a student's teacher are impossible.
    """
    runs: dict[str, Run] = {}
    folds = [None] if study.folds is None else range(1, study.folds + 1)
    points = itertools.product(study.seeds, study.fractions, folds, study.variants.items())
    for seed, fraction, fold, (variant, flags) in points:
        name = variant
        if fraction is not None:
            name += f"-f{fraction:g}"
            flags = {**flags, "train_fraction": fraction}
        if fold is not None:
            name += f"-fold{fold}"
            flags = {**flags, "val_fold": f"{fold}/{study.folds}"}
        name += f"-seed{seed}"
        if name in runs:
            raise BadRequest(f"{study.file}: fractions: two of variant {variant}'s runs have the name {name}")
        runs[name] = Run(name, variant, seed, fraction, fold, flags)
    plan = Plan(study, runs_dir, list(runs.values()))
    one_each = {teacher.variant: teacher for teacher in plan.teachers.values()}
    models = {variant: plan.settings(teacher)[0].model.model for variant, teacher in one_each.items()}
    for i, run in enumerate(plan.runs):
        if (teacher := plan.teachers.get(run.name)) is not None:
            weights = os.path.relpath(RunDirectory(plan.directory(teacher)).best)  # the same from any --runs-dir
            flags = {**run.flags, "teacher": models[teacher.variant], "teacher_weights": weights}
            plan.runs[i] = replace(run, flags=flags)
    return plan


def select_runs(
    plan: Plan, only: list[str] | None, seeds: list[int] | None, shard: tuple[int, int] | None
) -> list[Run]:
    """The requested runs. Raises BadRequest for a variant or a seed that the study does not have.

    Args:
        only: variants; None: all.
        seeds: None: all.
        shard: (i, n): every n-th of these runs, beginning with the i-th, from 0. None: all of them. A student is in
            the shard of its teacher.
    """
    study = plan.study
    for variant in only or []:
        if variant not in study.variants:
            raise BadRequest(f"--only {variant}: {study.file} has no such variant."
                             f"{suggestion(variant, study.variants)} It has {', '.join(study.variants)}")  # fmt: skip
    for seed in seeds or []:
        if seed not in study.seeds:
            raise BadRequest(f"--seeds {seed}: {study.file} has the seeds {', '.join(map(str, study.seeds))}")
    found = [run for run in plan.runs if run.variant in (only or study.variants) and run.seed in (seeds or study.seeds)]
    if shard is None:
        return found
    together: dict[str, list[Run]] = {}
    for run in found:
        together.setdefault(plan.teachers.get(run.name, run).name, []).append(run)
    return [run for runs in list(together.values())[shard[0] :: shard[1]] for run in runs]


def check_runs(plan: Plan, with_data: bool) -> dict[str, Settings]:
    """The settings of every run of the study, by its name.

    Args:
        with_data: also check that the data sets are there.

    Raises BadRequest, naming file and variant, for the first run that is impossible.
    """
    settings: dict[str, Settings] = {}
    checked = set()
    for run in plan.runs:
        settings[run.name], given = plan.settings(run)
        data = replace(settings[run.name].data, train_fraction=1.0)  # the check does not depend on it
        asked = repr((data, sorted(OF_DATA & given.keys())))
        if with_data and asked not in checked:
            checked.add(asked)
            try:
                locate_data(data, given)
            except BadRequest as error:
                raise BadRequest(f"{plan.study.file}: variant {run.variant}: {error}") from None
    return settings


def inspect_run(plan: Plan, run: Run, settings: Settings) -> tuple[str, str]:
    """(the run's state: NEW, STOPPED, FINISHED or CHANGED; for CHANGED, what differs from the study)."""
    directory = plan.directory(run)
    if not (directory / "settings.json").is_file():
        return NEW, ""
    try:
        stored = resume.read_run_settings(directory)
    except BadRequest as error:
        return CHANGED, str(error)
    changes = differences(stored, settings)
    if changes:
        return CHANGED, f"it was run with {', '.join(changes)}"
    return FINISHED if (directory / "summary.json").is_file() else STOPPED, ""


def inspect_runs(plan: Plan, runs: list[Run], settings: dict[str, Settings]) -> list[tuple[Run, str, str]]:
    """Each run with its state and reason, see `inspect_run`. Stored students of a CHANGED teacher are CHANGED.

    Args:
        settings: by the run's name.
    """
    found = []
    for run in runs:
        state, reason = inspect_run(plan, run, settings[run.name])
        teacher = plan.teachers.get(run.name)
        of_teacher = NEW if teacher is None else inspect_run(plan, teacher, settings[teacher.name])[0]
        if teacher is not None and of_teacher == CHANGED and state in (STOPPED, FINISHED):
            state, reason = CHANGED, f"as its teacher {teacher.name} does"
        found.append((run, state, reason))
    return found


def untaught(plan: Plan, run: Run, settings: dict[str, Settings]) -> str:
    """A line on why a student cannot begin: its teacher is not trained. Empty if nothing is in its way."""
    teacher = plan.teachers[run.name]
    state, reason = inspect_run(plan, teacher, settings[teacher.name])
    if state == FINISHED:
        return ""
    what = f"differs from the study, {reason}" if state == CHANGED else "is not finished"
    return f"{run.name}: was not started: the run of its teacher, {teacher.name}, {what}"


def differences(stored: dict[str, Any], settings: Settings) -> list[str]:
    """How a stored run differs from the settings that it should have: `--lr 0.1 in place of 0.01`.

    Counts settings that results depend on. Those that the command line leaves to the data or the machine may differ.
    """
    found = []
    for key, asked in settings.flat().items():
        flag = FLAGS[key]
        if TRAIN not in flag.modes or flag.may_change or key in ("run_name", "model_args"):
            continue
        has = stored.get(key, flag.default)  # the flag may be newer than the run
        left_open = asked == "auto" or (asked is None and key in BY_DATA)
        differs = comparable(key, asked) != comparable(key, has)
        if not left_open and (key, asked) != ("normalization", "dataset") and differs:
            found.append(f"--{flag.name} {has} in place of {asked}")
    data = settings.data
    if other_place(data.dataset, stored["data_path"], data.data_path):
        found.append(f"--data-path {stored['data_path']} in place of {data.data_path}")
    built_with = stored["model_args"]
    for key, asked in settings.model.model_args.items():
        if asked != "auto" and asked != built_with.get(key):
            found.append(f"--{key.replace('_', '-')} {built_with.get(key)} in place of {asked}")
    return found


def write_plan(plan: Plan) -> Path:
    """Writes study.json into the study's folder, which compare.py reads. Returns its path.

    It has name, file, script, seeds, fractions ([null] if none are varied), folds (their number, or null), published
    (as in the study file), variants (flags by key), and runs: name (of the folder beside it), variant, seed, fraction,
    fold, flags, command.

    Raises BadRequest if it cannot be written.
    """
    study = plan.study
    path = plan.folder / "study.json"
    content = {
        "name": study.name,
        "file": str(study.file),
        "script": study.script,
        "seeds": study.seeds,
        "fractions": study.fractions,
        "folds": study.folds,
        "variants": study.variants,
        "published": study.published,
        "runs": [{**vars(run), "command": shlex.join(plan.command(run, "python"))} for run in plan.runs],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
    except OSError as error:
        raise BadRequest(f"{path}: cannot be written ({error.strerror})") from None
    return path
