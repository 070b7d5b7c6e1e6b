"""Turns a command line into checked settings. Writes nothing before all checks pass.

Imports nothing heavy either, except timm for the names of its models and optimisers.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import image_datasets
import models
from records import finished_runs
from records.run_directory import check_run_directory
from settings import config_file, defaults, model_flags, resume, run_name
from settings.flag import AVERAGE, EVALUATE, INSPECT, LIST, MEASURE, PREDICT, SUMMARY, TRAIN, Flag, with_defaults
from settings.groups import FLAGS, Settings
from settings.needs import check_needs
from settings.parser import read_flags
from settings.request import Request
from settings.stored import blaming
from settings.training_checks import check_teacher, check_training
from utils import BadRequest, is_distributed, restarted

# Every training imports these sooner or later; a missing one is reported before there is work to lose.
PACKAGES = ("torch", "torchvision", "numpy", "PIL", "torchmetrics", "matplotlib", "tqdm")
MODE_FLAGS = {
    EVALUATE: "evaluate",
    AVERAGE: "average",
    MEASURE: "measure",
    PREDICT: "predict",
    LIST: "list-models",
    SUMMARY: "summary",
    INSPECT: "inspect-data",
}


@dataclass(frozen=True)
class Asked:
    """A checked command line.

    Attributes:
        mode: TRAIN or a key of `MODE_FLAGS`.
        settings: of the run; None where only data or device can decide.
        request: flags of this invocation, which are not stored with the run.
        given: values of the flags on the command line, by key.
    """

    mode: str
    settings: Settings
    request: Request
    given: dict[str, Any]


def ask(argv: list[str], description: str, titles: dict[str, list[Flag]], fixed: dict[str, Any] | None = None) -> Asked:
    """Parses and checks a command line. Raises BadRequest, naming the flag.

    Settings that only data or device can decide stay None. A resumed run gets its stored settings.

    Args:
        titles: flags of the script, with its defaults, by their title in --help.
        fixed: settings without a flag in this script, by key.
    """
    given = read_flags(argv, description, titles)
    mode = _mode(given)
    _check_mode(mode, given)
    given, repeated = config_file.apply(given, argv, description, titles, fixed or {})
    offered = {flag.key: flag for flags in titles.values() for flag in flags}
    known = {key: value for key, value in given.items() if key != "model_args"}
    values = {**with_defaults({}, {**FLAGS, **offered}), **(fixed or {}), **repeated.values, **known}
    settings, request = Settings.of(values), Request.of(values)
    if mode in (TRAIN, SUMMARY, INSPECT) and settings.data.dataset is None:
        settings = settings.replace(dataset="digits" if settings.data.data_path is None else "cifar100")
    if mode != TRAIN and settings.optimization.batch_size == "auto":
        raise BadRequest("--batch-size auto is for training; give a number")
    if is_distributed():
        settings = _check_processes(mode, settings)
    named = repeated.with_arguments(given)
    if run_name.names_settings(settings.run.run_name):
        settings = _with_name(mode, settings, named, repeated.file is None)
    if settings.run.resume == "auto":
        settings = resume.settle_auto(settings, named)
    if settings.run.resume and repeated.file is not None:
        resume.check_repetition(settings, repeated.file, repeated.values)
    if not settings.run.resume and repeated.file is None:
        settings = defaults.apply_recipe(settings, given)
    with blaming(repeated.file, repeated.values):
        settings, request = _check(mode, settings, request, given if settings.run.resume else named)
    if mode not in (LIST, SUMMARY):
        check_device(settings.hardware.device, settings.hardware.gpu)
        settings = settings.replace(num_workers=defaults.default_workers(settings.data.num_workers))
    check_needs(settings, given)
    return Asked(mode, settings, request, given)


def _with_name(mode: str, settings: Settings, given: dict[str, Any], with_recipe: bool) -> Settings:
    """Fills in the settings that --run-name names, as a new run of these flags has them."""
    if mode != TRAIN:
        raise BadRequest(f"--run-name {settings.run.run_name}: names settings, which are known with training alone")
    new = settings.replace(resume=None)
    new = _check_model(defaults.apply_recipe(new, given) if with_recipe else new, given)
    new = new.replace(**defaults.optimization_defaults(new), **defaults.augmentation_defaults(new))
    return settings.replace(run_name=run_name.fill(settings.run.run_name, check_teacher(new)))


def _mode(given: dict[str, Any]) -> str:
    asked = [mode for mode, flag in MODE_FLAGS.items() if flag.replace("-", "_") in given]
    if len(asked) > 1:
        raise BadRequest(f"--{MODE_FLAGS[asked[0]]} and --{MODE_FLAGS[asked[1]]} cannot be done at once")
    return asked[0] if asked else TRAIN


def _check_mode(mode: str, given: dict[str, Any]) -> None:
    """Refuses flags that have no effect in this mode."""
    known = {**model_flags.flags_of(None), **Request.flags(), **FLAGS}
    for key in given:
        flag = known[key]
        if mode not in flag.modes:
            reason = f" with --{MODE_FLAGS[mode]}" if mode != TRAIN else f": it needs --{MODE_FLAGS[flag.modes[0]]}"
            reason += "; --eval-precision is that of scores and predictions" if key == "precision" else ""
            raise BadRequest(f"--{flag.name} has no effect{reason}")


def _check(mode: str, settings: Settings, request: Request, given: dict[str, Any]) -> tuple[Settings, Request]:
    """Runs the checks of a mode and fills in defaults that depend on other flags."""
    if mode == TRAIN:
        if settings.run.resume:
            settings = resume.apply_stored_settings(settings, given)
        settings = check_training(_check_model(settings, given), given)
    elif mode == SUMMARY:
        settings = _check_model(settings, given)
        image_datasets.check_name(settings.data.dataset)
    elif mode == LIST:
        settings, request = _check_list(settings, request, given)
    elif mode == EVALUATE:
        _check_evaluate(settings, str(request.to_do.evaluate))
        settings = settings.replace(weights=request.to_do.evaluate, **defaults.augmentation_defaults(settings))
        settings = _check_model(settings, given) if "model" in given else settings
    elif mode == AVERAGE:
        files = request.to_do.average or []
        _check_average(settings, files)
        settings = settings.replace(weights=files[0])
    elif mode == PREDICT:
        _check_predict(settings, request)
    elif mode == MEASURE:
        request = _check_measure(request, given)
    elif mode == INSPECT:
        settings = settings.replace(**defaults.augmentation_defaults(settings))
        check_output_file("--inspect-data", str(request.to_do.inspect_data))
    return settings, request


def _check_processes(mode: str, settings: Settings) -> Settings:
    """Refuses what several processes cannot do. After a restart by torchrun they resume their run."""
    if mode != TRAIN:
        raise BadRequest(f"--{MODE_FLAGS[mode]} is for a single process; torchrun starts several")
    if settings.hardware.gpu is not None or ":" in (settings.hardware.device or ""):
        raise BadRequest("--gpu and --device cuda:N are for a single process; torchrun gives each a GPU of its own")
    if settings.data.download:
        raise BadRequest("--download is for a single process; fetch the data first")
    if restarted():
        return settings.replace(resume=settings.run.resume or "auto", overwrite=False)
    return settings


def _check_model(settings: Settings, given: dict[str, Any]) -> Settings:
    """Checks the model's name and its architecture's flags, and resolves the arguments of its constructor."""
    group = settings.model
    models.check_name(group.model)
    entry = models.find_model(group.model)
    arguments = group.model_args
    if not settings.run.resume:
        recipe = defaults.recipe_arguments(settings.optimization.recipe, group.model, given)
        arguments = model_flags.settle(group.model, {**recipe, **given})
        if group.weights:  # the file decides what is not given
            named = {*given, *(key for key, _ in given.get("model_args", []))}
            left_open = set(models.FROM_WEIGHTS) - named
            arguments = {key: value for key, value in arguments.items() if key not in left_open}
    if group.pretrained and entry is not None and not entry.pretrained:
        raise BadRequest(f"--pretrained: there are no published weights for {group.model}; --weights FILE takes others")
    if group.pretrained and "stem" in arguments:
        if arguments["stem"] == "cifar":
            raise BadRequest("--pretrained: the published weights fit --stem imagenet only")
        arguments = {**arguments, "stem": "imagenet"}
    return settings.replace(model_args=arguments)


def _check_evaluate(settings: Settings, checkpoint: str) -> None:
    """Checks --evaluate as far as possible without reading the checkpoint."""
    _check_checkpoint(checkpoint)
    data, run = settings.data, settings.run
    if data.dataset is not None:
        image_datasets.check_name(data.dataset)
    if run.run_name is not None:
        check_run_directory(Path(run.runs_dir) / run.run_name, None, run.overwrite, needed=checkpoint)


def _check_average(settings: Settings, files: list[str]) -> None:
    """Checks --average as far as possible without reading the checkpoints."""
    if len(files) == 1:
        raise BadRequest(f"--average {files[0]}: needs at least two checkpoints")
    for file in files:
        _check_checkpoint(file)
        if (name := settings.run.run_name) is not None:
            check_run_directory(Path(settings.run.runs_dir) / name, None, settings.run.overwrite, needed=file)


def _check_predict(settings: Settings, request: Request) -> None:
    """Checks --predict without reading the checkpoint or looking for the images."""
    checkpoint, *paths = request.to_do.predict or [""]
    if not paths:
        raise BadRequest(f"--predict {checkpoint}: which images? give files, folders or patterns after the checkpoint")
    _check_checkpoint(checkpoint)
    if request.to_predict.output is not None:
        check_output_file("--output", request.to_predict.output, "a file of predictions", (".csv", ".jsonl"))
    if settings.run.wandb in ("online", "offline"):
        raise BadRequest(f"--wandb {settings.run.wandb} has no effect with --predict: there is no run to track")


def _check_checkpoint(file: str) -> None:
    if not Path(file).is_file():
        raise BadRequest(f"{file}: no such checkpoint file")


def _check_measure(request: Request, given: dict[str, Any]) -> Request:
    group = request.to_measure
    if not (group.corruptions or group.speed):
        request = request.replace(corruptions=True, speed=True)
        group = request.to_measure
    of_images = ("corrupt_images", "data_path", "max_pixels", "verify_checksum", "num_workers", "accept_changed_data")
    for key in (*of_images, "eval_precision"):
        if key in given and not group.corruptions:
            name = {**Request.flags(), **FLAGS}[key].name
            raise BadRequest(f"--{name} has no effect: it needs --corruptions; --speed reads no images")
    if "precision" in given and not group.speed:
        raise BadRequest("--precision has no effect: it needs --speed; --eval-precision is that of --corruptions")
    finished_runs.find(request.to_do.measure or [])
    return request


def _check_list(settings: Settings, request: Request, given: dict[str, Any]) -> tuple[Settings, Request]:
    pattern = request.to_do.list_models or "*"
    useless = [key for key in given if key != "list_models"]
    if "/" in pattern and useless:
        raise BadRequest(f"--{FLAGS[useless[0]].name} has no effect: of timm's and torchvision's models the names are"
                         " listed; --summary --model shows one of them")  # fmt: skip
    dataset = settings.data.dataset or "cifar100"
    image_datasets.check_name(dataset)
    if not models.list_models(pattern):
        raise BadRequest(
            f"--list-models {pattern}: no model matches; 'timm/*' and 'torchvision/*' list those libraries"
        )
    return settings.replace(dataset=dataset), request.replace(list_models=pattern)


def check_output_file(flag: str, name: str, what: str = "a picture", endings: tuple[str, ...] = (".png",)) -> None:
    """Raises BadRequest, naming `flag`, unless `name` is a file with one of these endings that can be written."""
    path = Path(name)
    if path.suffix not in endings:
        raise BadRequest(f"{flag} {name}: the name of {what} ends in {' or '.join(endings)}")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise BadRequest(f"{flag} {name}: cannot be written there")


def check_device(device: str | None, gpu: int | None) -> None:
    """Raises BadRequest if both are given, or `device` is none of cpu, cuda, cuda:N and mps."""
    if device is not None and gpu is not None:
        raise BadRequest("--device and --gpu contradict each other: give one of them")
    if device is not None and not re.fullmatch(r"cpu|mps|cuda(:(0|[1-9][0-9]?))?", device):
        raise BadRequest(f"--device {device}: is none of cpu, cuda, cuda:N, mps")
