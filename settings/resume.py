"""A run that is continued: its stored settings take the place of the defaults, and may not be contradicted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from records.stored_settings import complete_older
from settings import model_flags
from settings.flags import FLAGS
from settings.recipes import RECIPES
from settings.stored import check_settings
from utils import BadRequest, read_json

SETTLED = ("stem", "precision", "batch_size")  # "auto" is stored as what it came to


def apply_stored_settings(s: SimpleNamespace, given: dict[str, Any]) -> None:
    """Puts the stored settings of the run to be resumed in the place of the defaults."""
    _refuse_overwrite(s)
    named = s.run_name is not None
    s.run_name = s.run_name or default_name(s, given)
    directory = Path(s.runs_dir) / s.run_name
    if not named and not (directory / "settings.json").is_file():
        raise BadRequest(f"--resume: there is no run in {directory}, the name that these flags give it; --run-name"
                         " names another")  # fmt: skip
    stored = read_run_settings(directory)
    built_with = stored["model_args"]
    asked = model_flags.settle(stored["model"], given)
    of_model = [key for key in given if key not in FLAGS] + [key for key, _ in given.get("model_args", [])]
    changed = {key: (asked[key], built_with.get(key)) for key in of_model}
    for key, value in given.items():
        if key in FLAGS and not FLAGS[key].may_change and key not in ("run_name", "model_args"):
            changed[key] = (value, stored.get(key, FLAGS[key].default))  # a flag that is newer than the run had no say
    flags = {**FLAGS, **model_flags.flags_of(None)}
    for key, (new, old) in changed.items():
        if new != old and not (key in SETTLED and new == "auto"):
            name, sign = (f"--{flags[key].name}", " ") if key in flags else (f"--model-arg {key}", "=")
            raise BadRequest(f"{name}{sign}{new}: the run to be resumed has {name}{sign}{old}; start another run")
    # --device and --gpu name the same thing: a new one replaces either.
    if "device" in given or "gpu" in given:
        stored["device"] = stored["gpu"] = None
    replaced = {"runs_dir", *(key for key in given if key not in SETTLED)}
    vars(s).update({key: value for key, value in stored.items() if key in FLAGS and key not in replaced})
    s.model_args = built_with


def _refuse_overwrite(s: SimpleNamespace) -> None:
    if s.overwrite:
        raise BadRequest("--resume and --overwrite contradict each other: give one of them")


def run_exists(s: SimpleNamespace, given: dict[str, Any]) -> bool:
    """Whether --resume auto finds a run to continue. A run that is not named has the name that its flags give it."""
    _refuse_overwrite(s)
    s.run_name = s.run_name or default_name(s, given)
    return (Path(s.runs_dir) / s.run_name / "settings.json").is_file()


def default_name(s: SimpleNamespace, given: dict[str, Any]) -> str:
    """Of a run that is not named. The same before the recipe is applied and after it."""
    model = s.model if "model" in given else RECIPES.get(s.recipe, {}).get("model", s.model)
    return f"{s.dataset}-{model.replace('/', '_')}-seed{s.seed}"


def read_run_settings(directory: Path) -> dict[str, Any]:
    """The settings of the run in `directory`. Raises BadRequest where there is none."""
    file = directory / "settings.json"
    if not file.is_file():
        raise BadRequest(f"--resume: there is no run in {directory} (no {file.name})")
    stored = read_json(file)
    if not isinstance(stored, dict) or not isinstance(stored.get("settings"), dict):
        raise BadRequest(f'{file}: damaged (no object with "settings")')
    if "evaluated" in stored["settings"]:
        raise BadRequest(f"--resume: {directory} holds an evaluation, not a training run")
    check_settings(stored["settings"], file)
    attempts = stored.get("attempts", [])
    if not isinstance(attempts, list) or not all(isinstance(attempt, dict) for attempt in attempts):
        raise BadRequest(f"{file}: damaged (its attempts are no list of objects)")
    if not isinstance(stored.get("wandb_run_id"), str):
        raise BadRequest(f"{file}: damaged (no wandb_run_id)")
    return complete_older(stored["settings"])


def is_finished(s: SimpleNamespace) -> bool:
    """Whether the run to be resumed has nothing left to do."""
    return (Path(s.runs_dir) / s.run_name / "summary.json").is_file()
