"""A study file: the runs of a study, and published figures to compare them with.

    name = "digits"                       # folder of the runs below --runs-dir; by default the file's name
    script = "main.py"                    # or "train_deit_imagenet100.py"
    seeds = [0, 1, 2]                     # every variant is run with each seed, so that variants compare in pairs
    fractions = [0.1, 1.0]                # and with each --train-fraction; optional
    folds = 5                             # and with each --val-fold from 1/5 to 5/5: cross-validation; optional

    [base]                                # flags of every run, without leading hyphens
    dataset = "digits"
    epochs = 20

    [variants.narrow]                     # named sets of flags, which override [base]
    widths = [16, 32, 64]

    [variants.student]                    # its runs learn from those of "narrow" with the same seed, fraction and fold
    model = "deit_tiny_distill"
    teacher-variant = "narrow"            # with [axes] a whole name, such as "narrow-cutmix"; optional

    [axes]                                # a grid: every variant with every combination of these values
    augmentation = ["none", "cutmix"]     # e.g. the variants narrow-none and narrow-cutmix

    [published.narrow]                    # published figures to compare with; optional
    source = "He et al., arXiv:1512.03385, table 6"
    variant = "narrow"                    # the variant that they belong to; optional
    note = "164 epochs, 45,000 images"    # how they came about; optional
    top1 = 91.25                          # in per cent: top1, top5, precision, recall, f1, map
    params = 270_000                      # parameters
    per_class = { cat = 70.0 }            # accuracy of single classes, in per cent

Flags are those of the script; a switch is `true` or `false`, several values are a list.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from settings.flag import Flag
from settings.flag_types import text
from settings.groups import FLAGS
from settings.scripts import SCRIPTS
from settings.tables import read_table, read_toml, training_flags
from utils import BadRequest, shorten, suggestion

TABLES = ("base", "variants", "axes", "published")
KEYS = ("name", "script", "seeds", "fractions", "folds", *TABLES)
PERCENT = ("top1", "top5", "precision", "recall", "f1", "map")
PUBLISHED = ("source", "variant", "note", *PERCENT, "params", "per_class")
# Flags that a study sets itself, and what to write instead.
MANAGED = {
    "seed": "seeds = [...] beside [base]",
    "val_fold": "folds = K beside [base], for all K folds",
    "run_name": "name = ... beside [base], and the variants' names",
    "runs_dir": "--runs-dir on the command line",
    "resume": "nothing: stopped runs are always continued",
    "overwrite": "--overwrite on the command line",
    "wandb_group": "name = ... beside [base]",
}
TEACHER = Flag("teacher-variant", "teacher_variant", "the variant that trains the teacher", check=text)
OTHER_TEACHERS = ("teacher", "teacher_weights", "teacher_epochs")
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}"
MAX_SEED = 2**31 - 1
MAX_FOLDS = 100


@dataclass(frozen=True)
class Study:
    """The content of a study file, checked except for what only the script's own checks can tell.

    Attributes:
        fractions: shares of the training images; [None] if the file names none.
        folds: the number of folds of a cross-validation; None if the file names none.
        variants: by variant, all of its flags by key; named sets, axes and --set are resolved.
        teachers: by variant that has one, the variant of its teacher.
        published: as in the file.
    """

    file: Path
    name: str
    script: str
    seeds: list[int]
    fractions: list[float | None]
    folds: int | None
    variants: dict[str, dict[str, Any]]
    teachers: dict[str, str]
    published: dict[str, dict[str, Any]]


def read_study(file: Path, sets: dict[str, str] | None = None, name: str | None = None) -> Study:
    """Reads and checks a study file. Raises BadRequest, naming file and key.

    Args:
        sets: flags of --set, which override the file's.
        name: overrides the file's. Required if results depend on a flag in `sets`: no folder has runs of two studies.
    """
    content = read_toml(file)
    for key in content:
        if key not in KEYS:
            raise BadRequest(f"{file}: {key}: unknown key.{suggestion(key, KEYS)} Known: {', '.join(KEYS)}")
    for key in TABLES:
        if not isinstance(content.setdefault(key, {}), dict):
            raise BadRequest(f"{file}: {key}: must be a table, [{key}]")
    own_name = content.get("name", file.stem)
    script = content.get("script", "main.py")
    if script not in SCRIPTS:
        raise BadRequest(f"{file}: script {script!r}: is none of {', '.join(SCRIPTS)}")
    known = training_flags(SCRIPTS[script].titles)
    base = _flags(file, "[base]", content["base"], known)
    extra = _flags(file, "--set", sets or {}, known)
    changing = [key for key in extra if not (key in FLAGS and FLAGS[key].may_change)]
    if changing and name in (None, own_name):
        raise BadRequest(f"--set {changing[0].replace('_', '-')}: results depend on it, so this is another study; give"
                         f" it a name of its own with --name (the file's is {own_name})")  # fmt: skip
    variants = _variants(file, content, base, known)
    if "fractions" in content and (named := [n for n, flags in variants.items() if "train_fraction" in flags]):
        raise BadRequest(f"{file}: fractions: variant {named[0]} has a train-fraction already; give one of the two")
    if "fractions" in content and "train_fraction" in extra:
        raise BadRequest("--set train-fraction: the study file has fractions of its own")
    variants = {variant: {**flags, **extra} for variant, flags in variants.items()}
    _refuse_twins(file, variants)
    teachers = {variant: str(flags.pop(TEACHER.key)) for variant, flags in variants.items() if TEACHER.key in flags}
    _check_teachers(file, variants, teachers)
    _check_published(file, content["published"], variants)
    return Study(
        file,
        _check_name(file, "name", own_name) if name is None else _check_name(file, "--name", name),
        script,
        _numbers(file, content, "seeds", [0], _is_seed, f"whole numbers from 0 to {MAX_SEED}"),
        _numbers(file, content, "fractions", [None], _is_fraction, "numbers above 0 and up to 1"),
        _folds(file, content.get("folds")),
        variants,
        teachers,
        content["published"],
    )


def _flags(file: Path, where: str, table: Any, known: dict[str, Flag]) -> dict[str, Any]:
    is_set = where == "--set"
    refused = {key: f"a study sets that itself; write {instead}" for key, instead in MANAGED.items()}
    if not where.startswith("[variants."):
        refused[TEACHER.key] = "belongs in a [variants.NAME]"
    known = {**known, TEACHER.key: TEACHER}
    return read_table(where if is_set else f"{file}: {where}", table, known, refused, switch_words=is_set)


def _variants(
    file: Path, content: dict[str, Any], base: dict[str, Any], known: dict[str, Flag]
) -> dict[str, dict[str, Any]]:
    """Every named set with every point of the axes, on top of [base]. Raises BadRequest for duplicate names."""
    axes = []
    for name, values in content["axes"].items():
        if not isinstance(values, list) or not values:
            raise BadRequest(f"{file}: [axes] {name}: must be a list of values")
        points = [_flags(file, "[axes]", {name: value}, known) for value in values]
        axes.append([(_point_name(name, value), flags) for value, flags in zip(values, points, strict=True)])
    named = [
        (_check_name(file, "[variants]", variant), _flags(file, f"[variants.{variant}]", flags, known))
        for variant, flags in content["variants"].items()
    ]
    if not named and not axes:
        raise BadRequest(f"{file}: variants: there are none; add a table [variants.NAME] or [axes]")
    found: dict[str, dict[str, Any]] = {}
    for combination in itertools.product(*([named] if named else []), *axes):
        variant = "-".join(name for name, _ in combination)
        if variant in found:
            raise BadRequest(f"{file}: [axes]: two variants have the name {variant}")
        found[_check_name(file, "[axes]", variant)] = {**base}
        for _, flags in combination:
            found[variant].update(flags)
    return found


def _point_name(axis: str, value: Any) -> str:
    """What a value adds to a variant's name: text alone, other values with the name of their axis."""
    axis = axis.replace("_", "-")
    if isinstance(value, bool):
        return axis if value else f"no-{axis}"
    text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^A-Za-z0-9._+-]", "_", text if isinstance(value, str) else f"{axis}-{text}")


def _check_name(file: Path, key: str, name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise BadRequest(f"{file}: {key}: {name!r} is no name for a folder: letters, digits and . _ + - alone, of which"
                         " the first is a letter or a digit")  # fmt: skip
    return name


def _refuse_twins(file: Path, variants: dict[str, dict[str, Any]]) -> None:
    for one, other in itertools.combinations(variants, 2):
        if variants[one] == variants[other]:
            raise BadRequest(f"{file}: the variants {one} and {other} have the same flags; take one of them out")


def _check_teachers(file: Path, variants: dict[str, dict[str, Any]], teachers: dict[str, str]) -> None:
    for variant, teacher in teachers.items():
        place = f"{file}: variant {variant}: teacher-variant {teacher}"
        if teacher not in variants:
            raise BadRequest(f"{place}: there is no such variant.{suggestion(teacher, variants)}"
                             f" The file has {shorten(variants)}")  # fmt: skip
        if teacher == variant:
            raise BadRequest(f"{place}: is the variant itself")
        if teacher in teachers:
            raise BadRequest(f"{place}: has a teacher-variant of its own; a teacher learns from labels alone")
        if both := [FLAGS[key].name for key in OTHER_TEACHERS if key in variants[variant]]:
            raise BadRequest(f"{place}: contradicts its --{both[0]}: give one of the two")


def _numbers(file: Path, content: dict[str, Any], key: str, default: list, fits, what: str) -> list:
    values = content.get(key, default)
    if not isinstance(values, list) or not values or (values is not default and not all(map(fits, values))):
        raise BadRequest(f"{file}: {key}: must be a list of {what}")
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise BadRequest(f"{file}: {key}: {twice[0]} is given twice")
    return values


def _folds(file: Path, count: Any) -> int | None:
    if count is not None and not (isinstance(count, int) and not isinstance(count, bool) and 2 <= count <= MAX_FOLDS):
        raise BadRequest(f"{file}: folds: must be a whole number from 2 to {MAX_FOLDS}")
    return count


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SEED


def _is_fraction(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1


def _check_published(file: Path, published: dict[str, Any], variants: dict[str, Any]) -> None:
    for name, figures in published.items():
        place = f"{file}: [published.{name}]"
        if not isinstance(figures, dict) or not isinstance(figures.get("source"), str):
            raise BadRequest(f"{place}: source: who published these figures, and where?")
        for key, value in figures.items():
            if key not in PUBLISHED:
                raise BadRequest(f"{place}: {key}: unknown key.{suggestion(key, PUBLISHED)}"
                                 f" Known: {', '.join(PUBLISHED)}")  # fmt: skip
            if key in PERCENT and not _is_percent(value):
                raise BadRequest(f"{place}: {key}: must be a number of per cent, from 0 to 100")
        if "variant" in figures and figures["variant"] not in variants:
            raise BadRequest(f"{place}: variant: there is no variant {figures['variant']!r};"
                             f" the file has {shorten(variants)}")  # fmt: skip
        per_class = figures.get("per_class", {})
        if not isinstance(per_class, dict) or not all(map(_is_percent, per_class.values())):
            raise BadRequest(f"{place}: per_class: must be a table of per cent by class")
        if not isinstance(figures.get("params", 0), int) or not isinstance(figures.get("note", ""), str):
            key = "note" if isinstance(figures.get("params", 0), int) else "params"
            raise BadRequest(f"{place}: {key}: must be a {'text' if key == 'note' else 'whole number'}")


def _is_percent(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100
