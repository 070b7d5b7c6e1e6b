"""From the command line to checked settings: nothing heavy is imported, and nothing written, before all is checked."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import image_datasets
import models
from image_datasets import resized
from image_datasets.reading import MAX_PIXELS, NEWEST, OLDEST, Reading
from training import distributed, lock, measurable, model_flags, recipes, resume, terminal
from training.flags import EVALUATE, FLAGS, GROUPS, INSPECT, LIST, MEASURE, NEEDS, PREDICT, SUMMARY, TRAIN, Flag
from training.parser import read_flags
from training.run_directory import TEACHER
from training.stored import blaming
from utils import BadRequest, cores, last_line, require, suggestion

# What every training imports sooner or later: one that is missing is told before there is anything to lose.
PACKAGES = ("torch", "torchvision", "numpy", "PIL", "torchmetrics", "matplotlib", "tqdm")
MODE_FLAGS = {
    EVALUATE: "evaluate",
    MEASURE: "measure",
    PREDICT: "predict",
    LIST: "list-models",
    SUMMARY: "summary",
    INSPECT: "inspect-data",
}


def parse(
    argv: list[str], description: str, groups: dict[str, list[Flag]] = GROUPS, fixed: dict[str, Any] | None = None
) -> tuple[str, SimpleNamespace, dict[str, Any]]:
    """(mode, settings, the flags that were given). Raises BadRequest for what cannot be.

    Settings hold a value for every flag, None where only the data will tell. For a resumed run they are the stored
    ones of that run.

    Args:
        groups: the flags that the script offers, with its defaults.
        fixed: settings that it offers no flag for.
    """
    given = read_flags(argv, description, groups)
    mode = _mode(given)
    known = {**model_flags.flags_of(None), **FLAGS}
    for key in given:
        if mode not in known[key].modes:
            reason = (
                f" with --{MODE_FLAGS[mode]}" if mode != TRAIN else f": it needs --{MODE_FLAGS[known[key].modes[0]]}"
            )
            reason += "; --eval-precision is that of scores and predictions" if key == "precision" else ""
            raise BadRequest(f"--{known[key].name} has no effect{reason}")
    settings = complete({key: value for key, value in given.items() if key in FLAGS}, groups, fixed)
    if mode in (TRAIN, SUMMARY, INSPECT) and settings.dataset is None:
        settings.dataset = "cifar100" if settings.data_path is not None else "digits"
    if mode != TRAIN and settings.batch_size == "auto":
        raise BadRequest("--batch-size auto is for training; give a number")
    if distributed.many():
        _check_processes(mode, settings)
    if settings.resume == "auto":
        settings.resume = resume.there_is(settings, given)
    if settings.recipe and not settings.resume:
        recipes.apply(settings, given)
    if mode == TRAIN:
        if settings.resume:
            resume.take_up(settings, given)
        _check_model(settings, given)
        _check_training(settings, given)
    elif mode == SUMMARY:
        _check_model(settings, given)
        image_datasets.check_name(settings.dataset)
    elif mode == LIST:
        _check_list(settings, given)
    elif mode in (EVALUATE, PREDICT):
        _check_use(settings)
    elif mode == MEASURE:
        _check_measure(settings, given)
    elif mode == INSPECT:
        _check_augmentation(settings)
        check_output_file("--inspect-data", settings.inspect_data)
    if mode not in (LIST, SUMMARY):
        check_hardware(settings)
    for key, has_effect, reason in NEEDS:
        if key in given and not has_effect(settings):
            raise BadRequest(f"--{FLAGS[key].name} has no effect: {reason}")
    return mode, settings, given


def complete(given: dict[str, Any], groups: dict[str, list[Flag]], fixed: dict[str, Any] | None = None):
    """A namespace with what is given, and in place of what is not, what the environment says, or else the defaults of
    `groups` or else of main.py."""
    offered = {flag.key: flag for flags in groups.values() for flag in flags}
    known = {**FLAGS, **offered}
    defaults = {key: os.environ.get(flag.variable or "", "") or flag.default for key, flag in known.items()}
    return SimpleNamespace(**{**defaults, **(fixed or {}), **given})


def _mode(given: dict[str, Any]) -> str:
    asked = [mode for mode, flag in MODE_FLAGS.items() if flag.replace("-", "_") in given]
    if len(asked) > 1:
        raise BadRequest(f"--{MODE_FLAGS[asked[0]]} and --{MODE_FLAGS[asked[1]]} cannot be done at once")
    return asked[0] if asked else TRAIN


def _check_processes(mode: str, s: SimpleNamespace) -> None:
    """What several processes cannot do. Started again by torchrun, they go on with the run that they had begun."""
    if mode != TRAIN:
        raise BadRequest(f"--{MODE_FLAGS[mode]} is for a single process; torchrun starts several")
    if s.gpu is not None or ":" in (s.device or ""):
        raise BadRequest("--gpu and --device cuda:N are for a single process; torchrun gives each a GPU of its own")
    if s.download:
        raise BadRequest("--download is for a single process; fetch the data first")
    if distributed.restarted():
        s.resume, s.overwrite = s.resume or "auto", False


def _check_model(s: SimpleNamespace, given: dict[str, Any]) -> None:
    """Checks the name and its architecture's flags, and settles the arguments of its constructor."""
    models.check_name(s.model)
    entry = models.find_model(s.model)
    if not s.resume:
        s.model_args = model_flags.settle(s.model, {**recipes.model_arguments(s.recipe, s.model, given), **given})
    if s.pretrained and entry is not None and not entry.pretrained:
        raise BadRequest(f"--pretrained: there are no published weights for {s.model}; --weights FILE takes others")
    if s.pretrained and "stem" in s.model_args:
        if s.model_args["stem"] == "cifar":
            raise BadRequest("--pretrained: the published weights fit --stem imagenet only")
        s.model_args["stem"] = "imagenet"


def _check_training(s: SimpleNamespace, given: dict[str, Any]) -> None:
    """Fills in the defaults that follow from other flags, and refuses what contradicts or has no effect."""
    if s.pretrained and s.weights:
        raise BadRequest("--pretrained and --weights contradict each other: give one of them")
    if s.weights and not s.resume and not Path(s.weights).is_file():
        raise BadRequest(f"--weights {s.weights}: no such file")
    _check_optimizer(s.optimizer, given)
    s.ema = s.ema or None
    if s.lr is None:
        s.lr = 0.1 if s.optimizer in ("sgd", "muon-sgd") else 0.001
    if s.weight_decay is None:
        s.weight_decay = {"sgd": 0.0005, "muon-sgd": 0.0005, "adamw": 0.05}.get(s.optimizer, 0.0)
    if s.nesterov and s.momentum == 0:
        raise BadRequest("--nesterov contradicts --momentum 0")
    if s.warmup_epochs >= s.epochs:
        raise BadRequest(
            f"--warmup-epochs {s.warmup_epochs:g}: must be shorter than the training (--epochs {s.epochs})"
        )
    if s.min_lr > s.lr:
        raise BadRequest(f"--min-lr {s.min_lr:g}: must not be above --lr {s.lr:g}")
    if s.schedule == "step":
        s.step_size = s.step_size or max(1, s.epochs // 3)
        if "step_size" in given and s.step_size >= s.epochs:
            raise BadRequest(f"--step-size {s.step_size} has no effect: training ends after --epochs {s.epochs}")
    if s.schedule == "multistep":
        s.milestones = s.milestones or sorted({max(1, round(share * s.epochs)) for share in (0.3, 0.6, 0.8)})
        if "milestones" in given and s.milestones[-1] >= s.epochs:
            raise BadRequest(f"--milestones {s.milestones[-1]} has no effect: training ends after --epochs {s.epochs}")
    _check_augmentation(s)
    _check_teacher(s)
    s.run_name = s.run_name or resume.default_name(s, given)
    directory = Path(s.runs_dir) / s.run_name
    check_run_directory(directory, s.resume, s.overwrite, needed=s.weights)
    if s.teacher_epochs is not None:
        check_run_directory(directory.with_name(directory.name + TEACHER), s.resume, s.overwrite, needed=s.weights)


def _check_teacher(s: SimpleNamespace) -> None:
    if s.teacher is None:
        return
    try:
        models.check_name(s.teacher)
    except BadRequest as error:
        raise BadRequest(f"--teacher: {error}") from None
    if s.distill == "none":
        raise BadRequest(f"--teacher {s.teacher} has no effect with --distill none")
    s.distill = s.distill or "hard"
    entry = models.find_model(s.teacher)
    if s.teacher_weights is not None and not s.resume and not Path(s.teacher_weights).is_file():
        raise BadRequest(f"--teacher-weights {s.teacher_weights}: no such file")
    if s.teacher_weights is None and s.teacher_epochs is None and entry is not None and not entry.pretrained:
        raise BadRequest(f"--teacher {s.teacher}: there are no published weights for it; --teacher-epochs N trains it"
                         " first, --teacher-weights FILE takes one that is trained")  # fmt: skip
    if s.cache_teacher:
        _check_cache(s)


def _check_cache(s: SimpleNamespace) -> None:
    """A cached answer is that to the image as it is stored."""
    changes = {"--rand": s.rand, "--random-erasing": s.random_erasing > 0, "--augmentation": s.augmentation != "none"}
    for flag, used in changes.items():
        if used:
            raise BadRequest(f"--cache-teacher: {flag} changes the images, so the teacher has to see each of them anew")


def _check_augmentation(s: SimpleNamespace) -> None:
    if s.random_erasing is None:
        s.random_erasing = 0.25 if s.rand else 0.0
    if s.normalization is None:
        s.normalization = "pretrained" if s.pretrained else "dataset"


def check_output_file(flag: str, name: str) -> None:
    """Raises BadRequest where a picture cannot be written to the file `name`."""
    path = Path(name)
    if path.suffix != ".png":
        raise BadRequest(f"{flag} {name}: the name of a picture ends in .png")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise BadRequest(f"{flag} {name}: cannot be written there")


def _check_optimizer(name: str, given: dict[str, Any]) -> None:
    """timm's names are read from its source text: importing it takes seconds."""
    has_momentum = {"sgd": True, "muon-sgd": True, "adam": False, "adamw": False}
    spec = importlib.util.find_spec("timm")
    if name not in has_momentum and spec is not None and spec.origin is not None:
        source = (Path(spec.origin).parent / "optim" / "_optim_factory.py").read_text(encoding="utf-8")
        for entry in source.split("OptimInfo(")[1:]:
            named = re.match(r"\s*name=['\"]([^'\"]+)['\"]", entry)
            if named and named[1] != "adahessian":  # its second-order gradients need a loop of their own
                has_momentum.setdefault(named[1], "has_momentum=True" in entry)
    if name not in has_momentum:
        require("timm")
        names = sorted(has_momentum)
        raise BadRequest(f"--optimizer {name}: unknown.{suggestion(name, names)} Known: {', '.join(names)}")
    if "momentum" in given and not has_momentum[name]:
        raise BadRequest(f"--momentum has no effect: {name} has no momentum to set")


def _check_use(s: SimpleNamespace) -> None:
    """What --evaluate and --predict need, as far as it can be seen without reading the checkpoint."""
    path, *files = [s.evaluate] if s.evaluate else s.predict
    if s.predict and not files:
        raise BadRequest(f"--predict {path}: which images? give their files after the checkpoint")
    for file, what in ((path, "checkpoint"), *((file, "image") for file in files)):
        if not Path(file).is_file():
            raise BadRequest(f"{file}: no such {what} file")
    if s.dataset is not None and s.dataset not in image_datasets.list_datasets():
        image_datasets.locate_dataset(s.dataset, s.data_path, s.download, s.verify_checksum)
    if s.run_name is not None:
        check_run_directory(Path(s.runs_dir) / s.run_name, None, s.overwrite, needed=s.evaluate)


def _check_measure(s: SimpleNamespace, given: dict[str, Any]) -> None:
    if not (s.corruptions or s.speed):
        s.corruptions = s.speed = True
    of_images = ("corrupt_images", "data_path", "max_pixels", "verify_checksum", "num_workers", "accept_changed_data")
    for key in (*of_images, "eval_precision"):
        if key in given and not s.corruptions:
            raise BadRequest(f"--{FLAGS[key].name} has no effect: it needs --corruptions; --speed reads no images")
    if "precision" in given and not s.speed:
        raise BadRequest("--precision has no effect: it needs --speed; --eval-precision is that of --corruptions")
    s.measure = measurable.find(s.measure)


def _check_list(s: SimpleNamespace, given: dict[str, Any]) -> None:
    s.list_models = s.list_models or "*"
    useless = [key for key in given if key != "list_models"]
    if "/" in s.list_models and useless:
        raise BadRequest(f"--{FLAGS[useless[0]].name} has no effect: of timm's and torchvision's models the names are"
                         " listed; --summary --model shows one of them")  # fmt: skip
    s.dataset = s.dataset or "cifar100"
    image_datasets.check_name(s.dataset)
    if not models.list_models(s.list_models):
        raise BadRequest(
            f"--list-models {s.list_models}: no model matches; 'timm/*' and 'torchvision/*' list those libraries"
        )


def check_hardware(s: SimpleNamespace) -> None:
    """Refuses a device that cannot be, and settles the number of workers."""
    if s.device is not None and s.gpu is not None:
        raise BadRequest("--device and --gpu contradict each other: give one of them")
    if s.device is not None and not re.fullmatch(r"cpu|mps|cuda(:(0|[1-9][0-9]?))?", s.device):
        raise BadRequest(f"--device {s.device}: is none of cpu, cuda, cuda:N, mps")
    if s.num_workers is None:
        s.num_workers = min(8, cores())


def image_size(given: int | list[int] | None, model: str, side: int | None) -> int | list[int]:
    """The side of the images that a model gets, in pixels, or their height and width.

    Args:
        given: by --img-size; it wins, then what the architecture is made for.
        side: that of the data set's images, None where they are no squares of one size up to 224 px.
    """
    entry = models.find_model(model)
    return given or (entry.img_size if entry else None) or side or 224


def check_data(s: SimpleNamespace, given: dict[str, Any]):
    """Looks whether the data set is there. Returns what `image_datasets.load_dataset` takes. Raises BadRequest."""
    s.data_rules, s.max_pixels = s.data_rules or NEWEST, s.max_pixels or MAX_PIXELS
    if s.exif_orientation is None:
        s.exif_orientation = s.data_rules > OLDEST
    skip_bad = s.on_bad_image == "skip"
    try:
        found = image_datasets.locate_dataset(
            s.dataset, s.data_path, s.download, s.verify_checksum, skip_bad or s.check_images, Reading.of(vars(s))
        )
        found = replace(
            found, skip_bad=skip_bad
        )  # --check-images names all that are bad, not the first that is met here
    except OSError as error:
        raise BadRequest(f"{error.filename}: cannot be read ({error.strerror})") from None
    if found.has_val and "val_fraction" in given:
        raise BadRequest(f"--val-fraction has no effect: {s.data_path} has its own val/ besides test/")
    for key in ("exif_orientation", "max_pixels", "num_workers", "on_bad_image", "check_images", "cache_resized"):
        if key in given and s.dataset in ("digits", "cifar10", "cifar100"):
            raise BadRequest(f"--{FLAGS[key].name} has no effect: {s.dataset} is no set of image files")
    if s.cache_resized is not None:
        resized.check(found, s.cache_dir)
    if s.val_fraction is None:
        own = found.has_val or s.select_on == "reported"
        s.val_fraction = None if own else 0.1
    return found


def train(s: SimpleNamespace, given: dict[str, Any]) -> int:
    """Trains as the settings say, if the data are there and a run to be resumed is not finished. Returns 0."""
    directory = Path(s.runs_dir) / s.run_name
    taken_up = {key: value for key, value in vars(s).items() if key not in given} if s.resume else {}
    with blaming(directory / "settings.json", taken_up):
        found = check_data(s, given)
        if s.resume and resume.finished(s):
            print(f"{directory}: finished already, see summary.json there")
            return 0
        from training.run import run_training  # imports torch, and so only when all is checked

        run_training(s, found)
    return 0


def check_run_directory(path: Path, resume: bool | None, overwrite: bool, needed: str | None = None) -> None:
    """Raises BadRequest where the run directory cannot be made, or is there and may not be touched. Writes nothing.

    Args:
        resume: None where there is nothing that could be resumed.
        needed: a file that the run reads, so that it must not be deleted with the directory.
    """
    if path.exists() and not path.is_dir():
        raise BadRequest(f"{path}: is a file, not a run directory; choose another --run-name")
    if path.is_dir() and any(entry.name != lock.NAME for entry in path.iterdir()):
        if not (resume or overwrite):
            continues = "" if resume is None else "--resume continues it, "
            raise BadRequest(f"{path}: there is such a run; {continues}--overwrite deletes it,"
                             " --run-name names another")  # fmt: skip
        if overwrite and not (path / "settings.json").is_file():
            raise BadRequest(f"{path}: is no run directory (no settings.json), so --overwrite does not delete it")
        if overwrite and needed and Path(needed).resolve().is_relative_to(path.resolve()):
            raise BadRequest(f"{path}: --overwrite would delete {needed}, which is needed; choose another --run-name")
        if overwrite and (inner := next(path.glob("*/**/settings.json"), None)):
            raise BadRequest(f"{path}: --overwrite would delete the run {inner.parent} too; choose another --run-name")
    parent = path
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise BadRequest(f"{path}: cannot be written ({parent} is {'not writable' if parent.is_dir() else 'a file'})")


def one_line_errors(main) -> int:
    """Runs a script's `main()` and turns its end into an exit status: 0, 1 (a run failed), 2 (a bad request), or
    that of a run that left before its end (training/stopping.py)."""
    with terminal.without_readers():
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # names of files hold what an encoding lacks
                stream.reconfigure(errors="backslashreplace")
        try:
            status = main() or 0
            sys.stdout.flush()
            return status
        except (Exception, KeyboardInterrupt) as error:
            told = last_line(error)
            if told is None:
                raise
            text, status = told
            print("\n" * isinstance(error, KeyboardInterrupt) + text, file=sys.stderr)
            return status
