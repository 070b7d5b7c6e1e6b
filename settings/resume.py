"""Resuming a run: its stored settings replace the defaults, and flags must not contradict them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from image_datasets.registry import is_form
from records.run_directory import RunDirectory
from records.stored_settings import complete_older
from settings import model_flags
from settings.dataset_flags import comparable, other_place
from settings.groups import FLAGS, Settings
from settings.recipes import RECIPES
from settings.stored import read_run_file
from utils import BadRequest, read_json

SETTLED = ("stem", "precision", "batch_size")  # "auto" is stored as its resolved value


def apply_stored_settings(settings: Settings, given: dict[str, Any]) -> Settings:
    """Returns the stored settings of the run to resume, with given flags that may change (`Flag.may_change`).

    Raises BadRequest if the run does not exist, or a flag contradicts it.
    """
    _refuse_overwrite(settings)
    name = settings.run.run_name or default_name(settings, given)
    directory = Path(settings.run.runs_dir) / name
    if settings.run.run_name is None and not RunDirectory(directory).settings.is_file():
        raise BadRequest(f"--resume: there is no run in {directory}, the name that these flags give it; --run-name"
                         " names another")  # fmt: skip
    stored = read_run_settings(directory)
    _refuse_changes(stored, given)
    # --device and --gpu both choose the device: either replaces both.
    if "device" in given or "gpu" in given:
        stored["device"] = stored["gpu"] = None
    kept = {"runs_dir", *(key for key in given if key not in SETTLED)} - {"model_args", "classes"}
    if "root" not in given.get("dataset_args", {}):
        kept -= {"dataset_args"}
    values = {key: value for key, value in stored.items() if key in FLAGS and key not in kept}
    return settings.replace(**{"run_name": name, **values})


def _refuse_changes(stored: dict[str, Any], given: dict[str, Any]) -> None:
    built_with = stored["model_args"]
    asked = model_flags.settle(stored["model"], given)
    of_model = [key for key in given if key not in FLAGS] + [key for key, _ in given.get("model_args", [])]
    changed = {key: (asked[key], built_with.get(key)) for key in of_model}
    for key, value in given.items():
        if key in FLAGS and not FLAGS[key].may_change and key not in ("run_name", "model_args", "extend"):
            changed[key] = (value, stored.get(key, FLAGS[key].default))  # flags newer than the run had their default
    place = given.get("data_path")
    if "dataset" in given and place is not None and other_place(given["dataset"], stored["data_path"], place):
        raise BadRequest(f"--dataset {given['dataset']}/{place}: the run to be resumed has {stored['data_path']}; start"
                         " another run; --datapath alone names data that have moved")  # fmt: skip
    _check_more_epochs(stored, given)
    if "epochs" in changed and given["epochs"] > stored["epochs"]:
        del changed["epochs"]
    flags = {**FLAGS, **model_flags.flags_of(None)}
    for key, (new, old) in changed.items():
        if comparable(key, new) != comparable(key, old) and not (key in SETTLED and new == "auto"):
            name, sign = (f"--{flags[key].name}", " ") if key in flags else (f"--model-arg {key}", "=")
            raise BadRequest(f"{name}{sign}{new}: the run to be resumed has {name}{sign}{old}; start another run")


def _check_more_epochs(stored: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuses more epochs where the learning rates so far would have been others, and --extend without more epochs."""
    epochs = given.get("epochs", stored["epochs"])
    if epochs <= stored["epochs"]:
        if "extend" in given and stored.get("extend") is None:
            raise BadRequest(f"--extend has no effect: it needs more --epochs than the {stored['epochs']} of the run")
    elif "extend" not in given and stored["schedule"] in ("cosine", "linear"):
        spans = f"the {stored['schedule']} schedule of the run to be resumed spans {stored['epochs']}"
        raise BadRequest(f"--epochs {epochs}: {spans}; --extend starts it anew for the epochs that are left")


def _refuse_overwrite(settings: Settings) -> None:
    if settings.run.overwrite:
        raise BadRequest("--resume and --overwrite contradict each other: give one of them")


def settle_auto(settings: Settings, given: dict[str, Any]) -> Settings:
    """Resolves --resume auto: resumes the run of this name, or of the default name, if it exists."""
    _refuse_overwrite(settings)
    name = settings.run.run_name or default_name(settings, given)
    exists = RunDirectory(Path(settings.run.runs_dir) / name).settings.is_file()
    return settings.replace(run_name=name, resume=exists)


def check_repetition(settings: Settings, file: Path, values: dict[str, Any]) -> None:
    """Raises BadRequest if the run to resume does not repeat the settings `values` of a --config `file`."""
    directory = Path(settings.run.runs_dir) / str(settings.run.run_name)
    stored = read_run_settings(directory)
    for key, value in values.items():
        same = comparable(key, value) == comparable(key, stored.get(key, FLAGS[key].default))
        if not (same or FLAGS[key].may_change):
            raise BadRequest(f"--config {file}: its --{FLAGS[key].name} is {value}, that of the run in {directory} is"
                             f" {stored.get(key)}; --run-name names another run")  # fmt: skip


def default_name(settings: Settings, given: dict[str, Any]) -> str:
    """Returns the name of a run without --run-name. It is the same before and after a recipe is applied."""
    recipe = RECIPES.get(settings.optimization.recipe or "", {})
    model = settings.model.model if "model" in given else recipe.get("model", settings.model.model)
    data = settings.data
    place = f"-{Path(data.data_path).stem}" if data.data_path and is_form(data.dataset or "") else ""
    return f"{data.dataset}{place}-{model}-seed{settings.hardware.seed}".replace("/", "_")


def read_run_settings(directory: Path) -> dict[str, Any]:
    """Reads the settings of the run in `directory`.

    Raises BadRequest if there is no run, its settings.json is damaged, or it is an evaluation.
    """
    file = directory / "settings.json"
    if not file.is_file():
        raise BadRequest(f"--resume: there is no run in {directory} (no {file.name})")
    stored = read_run_file(file)
    attempts = stored.get("attempts", [])
    if not isinstance(attempts, list) or not all(isinstance(attempt, dict) for attempt in attempts):
        raise BadRequest(f"{file}: damaged (its attempts are no list of objects)")
    if not isinstance(stored.get("wandb_run_id"), str):
        raise BadRequest(f"{file}: damaged (no wandb_run_id)")
    return complete_older(stored["settings"])


def is_finished(settings: Settings) -> bool:
    """Whether the run to resume has its summary, so nothing is left to do but more epochs."""
    file = RunDirectory(Path(settings.run.runs_dir) / settings.run.run_name).summary
    if not file.is_file():
        return False
    summary = read_json(file)
    epochs = summary.get("epochs") if isinstance(summary, dict) else None
    return epochs in (None, settings.optimization.epochs)
