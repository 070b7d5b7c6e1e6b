"""A run's teacher: the run that trains it, its weights, and its part of the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import models
from assembly.data import RunData
from assembly.foreign import IMAGENET_CLASSES, imagenet_outputs, load_foreign
from assembly.trained import read_trained
from image_datasets.batches import EvalBatches, ResidentTrainBatches, StreamedTrainBatches
from image_datasets.dataset import Dataset, statistics_for
from models.weight_files import KINDS, other_kind
from records.checkpoint import is_checkpoint, match_classes, selected_kind
from records.log import say, say_in_log
from records.run_directory import TEACHER, RunDirectory
from settings import defaults, model_flags
from settings.groups import Augmentation, Distillation, Settings
from training import distillation as parts
from training.devices import without_tf32
from training.evaluation import evaluate
from training.stopping import Stop
from training.teacher import CachedTeacher, Teacher
from utils import BadRequest, read_json, shorten


def teacher_settings(settings: Settings) -> Settings:
    """Returns the settings of the run that trains the teacher: the student's flags, images and schedule.

    The schedule is scaled to --teacher-epochs. If the student is resumed, so is a teacher that has begun.
    """
    group, optimization = settings.distillation, settings.optimization
    assert group.teacher is not None and group.teacher_epochs is not None
    share = group.teacher_epochs / optimization.epochs
    arguments = defaults.recipe_arguments(optimization.recipe, group.teacher, {})
    name, off_epoch = settings.run.run_name + TEACHER, settings.augmentation.mixup_off_epoch
    exists = RunDirectory(Path(settings.run.runs_dir) / name).settings.is_file()
    normalization = settings.data.normalization
    return settings.replace(
        model=group.teacher,
        model_args=model_flags.settle(group.teacher, arguments),
        run_name=name,
        resume=settings.run.resume and exists,
        epochs=group.teacher_epochs,
        warmup_epochs=optimization.warmup_epochs * share,
        step_size=optimization.step_size and max(1, round(optimization.step_size * share)),
        milestones=optimization.milestones
        and sorted({max(1, round(epoch * share)) for epoch in optimization.milestones}),
        decay_epochs=optimization.decay_epochs and optimization.decay_epochs * share,
        average_last=optimization.average_last and max(1, round(optimization.average_last * share)),
        mixup_off_epoch=off_epoch and max(1, round(off_epoch * share)),
        extend=None,
        keep=None,
        grad_checkpointing=False,
        normalization="dataset" if normalization == "pretrained" else normalization,
        pretrained=False,
        weights=None,
        weights_kind=None,
        freeze="none",
        head_lr=None,
        layer_decay=None,
        teacher=None,
        teacher_weights_kind=None,
        teacher_epochs=None,
        cache_teacher=False,
        distill=None,
    )


def make_distillation(
    group: Distillation,
    file: str | None,
    data: RunData,
    augmentation: Augmentation,
    precision: str,
    train_batches: ResidentTrainBatches | StreamedTrainBatches,
    val_batches: EvalBatches | None,
    stop: Stop,
) -> tuple[parts.Distillation | None, dict[str, Any] | None]:
    """Returns (distillation, facts for the summary), or (None, None) without --teacher.

    The teacher is scored first: a network no better than chance has nothing to teach.

    Args:
        file: checkpoint or state dict of the teacher; None for the published ImageNet weights.
        precision: of the teacher's forward passes in training.

    Raises BadRequest if the teacher does not fit the data set or --cache-teacher the images, and Stopped if a stop was
    requested.
    """
    if group.teacher is None:
        return None, None
    if group.cache_teacher and not (data.resident and augmentation.crop == "none" and not augmentation.flip):
        raise BadRequest("--cache-teacher is for images that are kept on the device and not augmented (up to 64 px,"
                         " --crop none --no-flip)")  # fmt: skip
    dataset, device, batch_size = data.dataset, train_batches.device, train_batches.batch_size
    teacher = load_teacher(group.teacher, file, dataset, group.teacher_weights_kind, group.teacher_weights_by_order)
    teacher.adapt(dataset.mean, dataset.std, device)
    split, batches = ("train" if val_batches is None else "validation"), val_batches
    if batches is None or batches.dtype != torch.float32:  # the score is that of the teacher in fp32
        batches = data.eval_batches("train" if batches is None else "val", device, batch_size)
    facts = {"model": group.teacher, "weights": file or "published ImageNet weights", "weights_kind": teacher.kind,
             "split": split, "top1": _score(teacher, group.teacher, file, dataset, batches, split, stop),
             "train_seconds": _train_seconds(teacher, file)}  # fmt: skip
    if split == "validation" and _knows_validation(teacher, data):
        facts["note"] = "it was trained with another split: some of these validation images were in its training"
        say(f"              {facts['note']}")
    teacher.precision = precision
    answers = teacher
    if group.cache_teacher:
        assert isinstance(train_batches, ResidentTrainBatches)
        in_order = data.eval_batches("train", device, batch_size)
        _, logits = evaluate(teacher, in_order, len(dataset.class_names), "fp32", keep_logits=True, stop=stop)
        answers = CachedTeacher(logits, in_order.seen, train_batches)
    assert group.distill is not None
    return parts.Distillation(answers, group.distill, group.distill_alpha, group.distill_temp), facts


def _score(
    teacher: Teacher, name: str, file: str | None, dataset: Dataset, batches: EvalBatches, split: str, stop: Stop
) -> float:
    """Prints and returns the teacher's top-1 on a split. Raises BadRequest if it is no better than chance."""
    num_classes = len(dataset.class_names)
    with without_tf32():
        top1 = evaluate(teacher, batches, num_classes, "fp32", stop=stop)[0]["top1"]
    kind = ""
    if teacher.kind is not None:
        kind = (
            f" (its {KINDS[teacher.kind]} weights; --teacher-weights-kind {other_kind(teacher.kind)} takes the others)"
        )
    weights = file or "published ImageNet weights"
    say(f"teacher       {name}, {weights}{kind}: top-1 {100 * top1:.2f} % on {split}")
    chance = 1 / num_classes
    if top1 <= chance + 3 * (chance * (1 - chance) / len(batches.split)) ** 0.5:
        raise BadRequest(f"--teacher {name} ({weights}): its top-1 of {100 * top1:.2f} % on {split} is no"
                         f" better than chance, {100 * chance:.2f} %; train it on {dataset.name} first")  # fmt: skip
    return top1


def _train_seconds(teacher: Teacher, file: str | None) -> float | None:
    """Seconds of the training of a finished run whose best.pth is the teacher's file; None for other weights."""
    if teacher.settings is None or file is None:  # no checkpoint of this suite
        return None
    run = RunDirectory(Path(file).parent)
    of_run = Path(file).name == run.best.name and run.summary.is_file()
    summary = read_json(run.summary) if of_run else None
    return summary.get("train_seconds") if isinstance(summary, dict) else None


def _knows_validation(teacher: Teacher, data: RunData) -> bool:
    """Whether the teacher may have been trained on images of this run's carved validation split."""
    theirs = teacher.settings
    if data.carved is None or theirs is None or theirs["dataset"] != data.dataset.name:
        return False
    seed = theirs["seed"] if theirs.get("split_seed") is None else theirs["split_seed"]
    return (theirs.get("val_fraction"), seed) != data.carved


def load_teacher(
    name: str, file: str | None, dataset: Dataset, kind: str | None = None, by_order: bool = False
) -> Teacher:
    """Loads the trained model `name` as a teacher of the data set's classes.

    Args:
        file: a checkpoint of this suite, or a state dict with the data set's classes or ImageNet-1k's. None for the
            published ImageNet weights. Outputs for ImageNet's 1000 classes are mapped by WNID.
        kind: of the file's weights, "raw" or "ema", see `weight_files.read_weights`.
        by_order: take the tensors of a state dict in their order, whatever their names.

    Raises BadRequest if the weights or the classes do not fit.
    """
    if file is not None and is_checkpoint(Path(file)):
        return _trained_here(name, file, dataset, kind)
    img_size = models.image_size(None, name, dataset.natural_side)
    mean, std = statistics_for(dataset.in_chans, *(models.published_statistics(name) or ()))
    if file is None:
        outputs, unknown = imagenet_outputs(dataset)
        if unknown:
            raise BadRequest(f"--teacher {name}: ImageNet has no class {shorten(unknown, 2)} of {dataset.name}; give"
                             " --teacher-weights FILE, a checkpoint that was trained on this data set")  # fmt: skip
        try:
            model = models.create_model(name, IMAGENET_CLASSES, 224, dataset.in_chans, pretrained=True)
        except BadRequest as error:
            reason = str(error).replace("--weights", "--teacher-weights")
            raise BadRequest(f"--teacher {name}: {reason}; --teacher-epochs N trains one") from None
        return Teacher(model, 224, mean, std, outputs)
    loaded = load_foreign(name, file, dataset, img_size, {}, kind, by_order, teacher=True)
    for note in loaded.notes:
        say(f"teacher       {note}")
    for key, own in loaded.pairs:
        say_in_log(f"teacher       {key} -> {own}")
    teacher = Teacher(loaded.module, loaded.img_size, mean, std, loaded.outputs)
    teacher.kind = loaded.weights.kind if loaded.weights.others else None
    return teacher


def _trained_here(name: str, file: str, dataset: Dataset, kind: str | None) -> Teacher:
    """Loads the teacher from a checkpoint of this suite."""
    model, content = read_trained(file, None, kind)
    if content["settings"]["model"] != name:
        raise BadRequest(f"--teacher {name}: {file} is a checkpoint of {content['settings']['model']}")
    match_classes(f"--teacher-weights {file}", content, dataset.class_names, dataset.name)
    if content["in_chans"] != dataset.in_chans:
        raise BadRequest(f"--teacher-weights {file}: wants images of {content['in_chans']} channels, not of"
                         f" {dataset.in_chans}")  # fmt: skip
    teacher = Teacher(model, content["img_size"], content["mean"], content["std"])
    teacher.settings = content["settings"]
    if content["ema"] is not None:
        teacher.kind = kind or selected_kind(content)
    return teacher
