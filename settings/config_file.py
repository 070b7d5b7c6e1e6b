"""The file of --config: flags in TOML, or the settings.json of a run, which is repeated."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models
from records.stored_settings import complete_older
from settings.flag import TRAIN, Flag
from settings.groups import FLAGS
from settings.parser import normalised, read_flags
from settings.run_name import BY_DATA
from settings.stored import read_run_file
from settings.tables import as_words, read_table, read_toml, training_flags
from utils import BadRequest

# Stored settings that belong to the machine and the invocation: a repetition has its own.
NOT_REPEATED = ("run_name", "runs_dir", "device", "gpu", "num_workers", "wandb", "wandb_project", "wandb_group")
PLACE = {"dataset": ("data_path", "dataset_args")}
# Stored settings that follow from others: a command line that changes the one decides the others anew.
FOLLOW = {
    "rand": ("auto_augment", "crop", "crop_padding", "random_erasing"),
    "pretrained": ("normalization",),
    "dataset": (*PLACE["dataset"], "normalization", *BY_DATA),
    "val_fold": ("val_fraction", "select_on"),
    "select_on": ("val_fraction",),
}


@dataclass(frozen=True)
class Repeated:
    """The run that --config FILE.json repeats.

    Attributes:
        file: its settings.json; None: no run is repeated.
        values: its settings, by key, except for those that the command line replaces, and NOT_REPEATED.
        model_args: likewise, arguments of its model's constructor.
    """

    file: Path | None = None
    values: dict[str, Any] = field(default_factory=dict)
    model_args: dict[str, Any] = field(default_factory=dict)

    def with_arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """Returns the given flags with the run's model and its arguments, as if they were given too.

        Another --model gets its own arguments, as in a new run.
        """
        model = self.values.get("model")
        if model is None:  # no run is repeated, or another model is given
            return given
        if models.find_model(model) is None:  # of timm or torchvision: --model-arg alone reaches its arguments
            pairs = [(key, repr(value)) for key, value in self.model_args.items()]
            return {**given, "model": model, "model_args": [*pairs, *given.get("model_args", [])]}
        return {**self.model_args, "model": model, **given}


def apply(
    given: dict[str, Any], argv: list[str], description: str, titles: dict[str, list[Flag]], fixed: dict[str, Any]
) -> tuple[dict[str, Any], Repeated]:
    """Reads the file of --config, if it is given. Flags on the command line win, ``--ema=None`` too.

    Args:
        given: flags in `argv`, by key.
        description, titles, fixed: see `checks.ask`.

    Returns:
        The given flags without --config, with those of a TOML file, which count as if they were on the command line;
        and the run to repeat.

    Raises BadRequest, naming file and key.
    """
    if "config" not in given:
        return given, Repeated()
    given = dict(given)
    file = Path(given.pop("config"))
    _, left_out = normalised(argv, titles)
    if file.suffix == ".json":
        return given, _repeated(file, given, left_out, fixed)
    if file.suffix != ".toml":
        raise BadRequest(f"--config {file}: is neither a TOML file (.toml) nor the settings.json of a run")
    table = _table(file, titles)
    replaced = _replaced(table, given, PLACE) | left_out
    words = as_words({key: value for key, value in table.items() if key not in replaced})
    try:  # the command line alone is right, so what is wrong comes from the file
        given = read_flags([*words, *argv], description, titles)
    except BadRequest as error:
        raise BadRequest(f"{file}: {error}") from None
    del given["config"]
    return given, Repeated()


def _table(file: Path, titles: dict[str, list[Flag]]) -> dict[str, Any]:
    content = read_toml(file)
    for key, value in content.items():
        if isinstance(value, dict):
            raise BadRequest(f"{file}: {key}: is a table; the file has flags at its top level alone, as epochs = 20")
    return read_table(str(file), content, training_flags(titles), {})


def _replaced(values: dict[str, Any], given: dict[str, Any], follow: dict[str, tuple[str, ...]]) -> set[str]:
    """Returns the keys of the file's values that the command line replaces.

    Args:
        follow: by key, other keys that are replaced with it where its value changes.
    """
    keys = set(given)
    if {"device", "gpu"} & keys:  # either chooses the device
        keys |= {"device", "gpu"}
    for key in follow.keys() & given.keys():
        if key in values and given[key] != values[key]:
            keys.update(follow[key])
    return keys


def _repeated(file: Path, given: dict[str, Any], left_out: set[str], fixed: dict[str, Any]) -> Repeated:
    if given.get("resume") is True:
        raise BadRequest(f"--resume contradicts --config {file}: a stopped run has its own settings; --resume auto"
                         " starts the repetition, or continues it")  # fmt: skip
    if "recipe" in given:
        raise BadRequest(f"--recipe {given['recipe']} has no effect: {file} has the value of every flag; give those"
                         " that shall differ")  # fmt: skip
    stored = complete_older(read_run_file(file)["settings"])
    entry, model_args = models.find_model(stored["model"]), stored["model_args"]
    unknown = [key for key in stored if key not in FLAGS]
    unknown += [f"model_args: {key}" for key in model_args if entry is not None and entry.argument(key) is None]
    if unknown:
        raise BadRequest(f"{file}: unknown setting {unknown[0]}; a newer version wrote the file")
    if stored.get("extend") is not None:
        raise BadRequest(f"{file}: its run was extended (--extend {stored['extend']}), so it has two schedules; one run"
                         " cannot repeat it")  # fmt: skip
    for key, value in fixed.items():
        if stored[key] != value:
            raise BadRequest(f"{file}: its {key} is {stored[key]}, and here it is always {value}; main.py repeats"
                             " the run")  # fmt: skip
    replaced = {*_replaced(stored, given, FOLLOW), *left_out, *NOT_REPEATED}
    replaced.update(key for key, _ in given.get("model_args", []))
    if given.get("model") == stored["model"]:
        replaced.discard("model")  # its arguments stay
    values = {key: stored.get(key, flag.default) for key, flag in FLAGS.items() if TRAIN in flag.modes}
    return Repeated(
        file,
        {key: value for key, value in values.items() if key not in replaced},
        {key: value for key, value in model_args.items() if key not in replaced},
    )
