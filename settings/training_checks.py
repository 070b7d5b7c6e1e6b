"""Checks the settings of a training, and fills in defaults that follow from other flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
from records.run_directory import TEACHER, check_run_directory
from records.tensorboard_run import check_installed
from settings import defaults, optimizers, resume
from settings.groups import FLAGS, Settings
from utils import BadRequest


def check_training(settings: Settings, given: dict[str, Any]) -> Settings:
    """Fills in defaults that depend on other flags, and refuses contradictions and flags without effect."""
    model = settings.model
    if model.pretrained and model.weights:
        raise BadRequest("--pretrained and --weights contradict each other: give one of them")
    if model.weights and not settings.run.resume and not Path(model.weights).is_file():
        raise BadRequest(f"--weights {model.weights}: no such file")
    if settings.run.tensorboard:
        check_installed()
    optimizers.check_optimizer(settings.optimization.optimizer, given)
    settings = settings.replace(**defaults.optimization_defaults(settings))
    _check_schedule(settings, given)
    settings = settings.replace(**defaults.augmentation_defaults(settings))
    settings = check_teacher(settings)
    _check_imbalance(settings)
    run = settings.run
    name = run.run_name or resume.default_name(settings, given)
    directory = Path(run.runs_dir) / name
    check_run_directory(directory, run.resume, run.overwrite, needed=model.weights)
    if settings.distillation.teacher_epochs is not None:
        teacher = directory.with_name(directory.name + TEACHER)
        check_run_directory(teacher, run.resume, run.overwrite, needed=model.weights)
    return settings.replace(run_name=name)


def _check_schedule(settings: Settings, given: dict[str, Any]) -> None:
    group = settings.optimization
    if group.nesterov and group.momentum == 0:
        raise BadRequest("--nesterov contradicts --momentum 0")
    if group.warmup_epochs >= group.epochs:
        raise BadRequest(f"--warmup-epochs {group.warmup_epochs:g}: must be shorter than the training (--epochs"
                         f" {group.epochs})")  # fmt: skip
    if group.min_lr > group.lr:
        raise BadRequest(f"--min-lr {group.min_lr:g}: must not be above --lr {group.lr:g}")
    if group.schedule == "wsd" and group.warmup_epochs + (group.decay_epochs or 0) > group.epochs:
        raise BadRequest(f"--decay-epochs {group.decay_epochs:g}: must fit into --epochs {group.epochs}, after the"
                         " warm-up")  # fmt: skip
    if group.average_last is not None and group.early_stopping is not None:
        raise BadRequest("--average-last averages the last of --epochs, which --early-stopping may not reach: give one")
    images = group.batch_size
    if isinstance(images, int) and settings.augmentation.repeated_aug > max(1, images // 2):
        raise BadRequest(f"--repeated-aug {settings.augmentation.repeated_aug}: a batch needs two different images;"
                         f" --batch-size is {images}")  # fmt: skip
    if (group.average_last or 0) > group.epochs:
        raise BadRequest(f"--average-last {group.average_last}: training has --epochs {group.epochs}")
    off = settings.augmentation.mixup_off_epoch
    if off is not None and off >= group.epochs and "mixup_off_epoch" in given:
        raise BadRequest(f"--mixup-off-epoch {off} has no effect: training ends after --epochs {group.epochs}")
    decays = {"step": ("step_size", group.step_size), "multistep": ("milestones", (group.milestones or [0])[-1])}
    key, last = decays.get(group.schedule, ("", None))
    if key in given and last is not None and last >= group.epochs:
        raise BadRequest(f"--{FLAGS[key].name} {last} has no effect: training ends after --epochs {group.epochs}")


def _check_imbalance(settings: Settings) -> None:
    weights = settings.loss.class_weights
    if weights is None:
        return
    if weights != "balanced" and not settings.run.resume and not Path(weights).is_file():
        raise BadRequest(f"--class-weights {weights}: no such file; balanced weighs classes by their number of images")
    if weights == "balanced" and settings.data.sampler == "balanced":
        raise BadRequest("--class-weights balanced and --sampler balanced make up for the same imbalance: give one")


def check_teacher(settings: Settings) -> Settings:
    """Checks the flags of the teacher, and resolves --distill."""
    group = settings.distillation
    if group.teacher is None:
        return settings
    try:
        models.check_name(group.teacher)
    except BadRequest as error:
        raise BadRequest(f"--teacher: {error}") from None
    if group.distill == "none":
        raise BadRequest(f"--teacher {group.teacher} has no effect with --distill none")
    entry = models.find_model(group.teacher)
    if group.teacher_weights is not None and not settings.run.resume and not Path(group.teacher_weights).is_file():
        raise BadRequest(f"--teacher-weights {group.teacher_weights}: no such file")
    is_trained = group.teacher_weights is not None or entry is None or entry.pretrained
    if group.teacher_epochs is None and not is_trained:
        raise BadRequest(f"--teacher {group.teacher}: there are no published weights for it; --teacher-epochs N trains"
                         " it first, --teacher-weights FILE takes one that is trained")  # fmt: skip
    if group.cache_teacher:
        _check_cache(settings)
    return settings.replace(distill=group.distill or "hard")


def _check_cache(settings: Settings) -> None:
    """Refuses augmentation with --cache-teacher: cached logits are those of the stored images."""
    group = settings.augmentation
    policy = group.auto_augment
    changes = {
        "--rand" if group.rand and policy == "randaugment" else f"--auto-augment {policy}": policy != "none",
        "--random-erasing": group.random_erasing > 0,
        "--augmentation": group.augmentation != "none",
        "--train-size": settings.data.train_size is not None,
    }
    for flag, used in changes.items():
        if used:
            raise BadRequest(f"--cache-teacher: {flag} changes the images, so the teacher has to see each of them anew")
