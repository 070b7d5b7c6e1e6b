"""A run's teacher: trained first where it is asked for, scored, and turned into a part of the loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from image_datasets.batches import EvalBatches, ResidentTrainBatches, StreamedTrainBatches
from models.weights import KINDS, other_kind
from training import model_flags, processes, recipes, resume
from training.data import Data, batch_arguments
from training.distillation import Distillation
from training.loop import evaluate
from training.run_directory import TEACHER, RunDirectory
from training.stopping import Stop
from training.teacher import CachedTeacher, Teacher, load_teacher
from training.tracking import say
from utils import BadRequest


def train_teacher(s: SimpleNamespace, train: Callable[[SimpleNamespace], None]) -> str:
    """Trains the teacher as a run of its own: the student's flags, images and schedule, which is stretched or shortened
    to --teacher-epochs. Where the student is resumed, so is the teacher, if it is not finished. Returns its checkpoint.

    Args:
        train: makes a run of settings.
    """
    share = s.teacher_epochs / s.epochs
    teacher = SimpleNamespace(**vars(s))
    vars(teacher).update(
        model=s.teacher, run_name=s.run_name + TEACHER, epochs=s.teacher_epochs,
        model_args=model_flags.settle(s.teacher, recipes.model_arguments(s.recipe, s.teacher, {})),
        warmup_epochs=s.warmup_epochs * share,
        step_size=s.step_size and max(1, round(s.step_size * share)),
        milestones=s.milestones and sorted({max(1, round(epoch * share)) for epoch in s.milestones}),
        normalization="dataset" if s.normalization == "pretrained" else s.normalization,
        pretrained=False, weights=None, weights_kind=None, freeze="none", head_lr=None, layer_decay=None,
        teacher=None, teacher_weights_kind=None, teacher_epochs=None, cache_teacher=False, distill=None,
    )  # fmt: skip
    directory = RunDirectory(Path(teacher.runs_dir) / teacher.run_name)
    teacher.resume = s.resume and directory.settings.is_file()
    if not (teacher.resume and resume.finished(teacher)):
        say(f"teacher       {s.teacher} is trained first, for {s.teacher_epochs} epochs")
        say()
        train(teacher)
        say()
    return str(directory.best)


def make_distillation(
    s: SimpleNamespace,
    file: str | None,
    data: Data,
    device: torch.device,
    precision: str,
    train_batches: ResidentTrainBatches | StreamedTrainBatches,
    val_batches: EvalBatches | None,
    stop: Stop,
) -> tuple[Distillation | None, dict[str, Any] | None]:
    """(the teacher and how to learn from it, what the summary says of it), or twice None without --teacher. The teacher
    is scored first: a network that does no better than chance has nothing to teach.

    Args:
        file: the teacher's checkpoint or state dict; None: the published ImageNet weights.

    Raises BadRequest where it is none, or does not fit the data set, and Stopped where `stop` says so.
    """
    if s.teacher is None:
        return None, None
    if s.cache_teacher and not (data.resident and s.crop == "none" and not s.flip):
        raise BadRequest("--cache-teacher is for images that are kept on the device and not augmented (up to 64 px,"
                         " --crop none --no-flip)")  # fmt: skip
    dataset = data.dataset
    teacher = load_teacher(s.teacher, file, dataset, s.teacher_weights_kind).adapt(dataset.mean, dataset.std, device)
    weights = file or "published ImageNet weights"
    split, batches = "validation", val_batches
    if batches is None:
        split, batches = "train", _in_order(s, data, device)
    with processes.without_tf32():
        top1 = evaluate(teacher, batches, len(dataset.class_names), "fp32", stop=stop)[0]["top1"]
    kind = ""
    if teacher.kind is not None:
        kind = (
            f" (its {KINDS[teacher.kind]} weights; --teacher-weights-kind {other_kind(teacher.kind)} takes the others)"
        )
    say(f"teacher       {s.teacher}, {weights}{kind}: top-1 {100 * top1:.2f} % on {split}")
    chance = 1 / len(dataset.class_names)
    if top1 <= chance + 3 * (chance * (1 - chance) / len(batches.split)) ** 0.5:
        raise BadRequest(f"--teacher {s.teacher} ({weights}): its top-1 of {100 * top1:.2f} % on {split} is no"
                         f" better than chance, {100 * chance:.2f} %; train it on {dataset.name} first")  # fmt: skip
    facts = {"model": s.teacher, "weights": weights, "weights_kind": teacher.kind, "split": split, "top1": top1}
    if split == "validation" and _knows_validation(teacher, s):
        facts["note"] = "it was trained with another split: some of these validation images were in its training"
        say(f"              {facts['note']}")
    teacher.precision = precision
    if s.cache_teacher:
        in_order = _in_order(s, data, device)
        _, logits = evaluate(teacher, in_order, len(dataset.class_names), "fp32", keep_logits=True, stop=stop)
        teacher = CachedTeacher(logits, in_order.seen, train_batches)
    return Distillation(teacher, s.distill, s.distill_alpha, s.distill_temp), facts


def _in_order(s: SimpleNamespace, data: Data, device: torch.device) -> EvalBatches:
    """The training images as they are."""
    return EvalBatches(data.train, workers=s.num_workers, **batch_arguments(s, data, device, "train"))


def _knows_validation(teacher: Teacher, s: SimpleNamespace) -> bool:
    """Whether images that this run holds out of the training set were among those that the teacher learnt."""
    theirs = teacher.settings
    carved = s.val_fraction and s.select_on == "validation"
    if not carved or theirs is None or theirs["dataset"] != s.dataset:
        return False
    seeds = [settings["seed"] if settings.get("split_seed") is None else settings["split_seed"]
             for settings in (theirs, vars(s))]  # fmt: skip
    return seeds[0] != seeds[1] or theirs.get("val_fraction") != s.val_fraction
