"""From checked settings to a finished run directory: the one place where settings become the arguments of all below."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import models
from image_datasets.batches import EvalBatches, ResidentTrainBatches, StreamedTrainBatches
from image_datasets.registry import Found
from models import weights as model_weights
from training import batch_size, checkpoint, cost, model_flags, processes, recipes, results, resume
from training.checkpoint import RunState
from training.data import Data, batch_arguments, load_data, make_mix, make_train_batches
from training.distillation import Distillation
from training.flags import FLAGS, TRAIN
from training.loop import PRECISIONS, Recipe, evaluate, train
from training.losses import make_criterion
from training.metrics import Totals
from training.optim import ModelEMA, freeze_backbone, learning_rate, make_optimizer, parameter_groups, train_mode
from training.run_directory import TEACHER, RunDirectory
from training.teacher import CachedTeacher, Teacher, load_teacher
from training.tracking import Progress, Wandb, say
from utils import BadRequest, RunFailed, derive_seed, human

NOT_STORED = ("resume", "overwrite", "download", "check_images")  # asks of one command, not properties of the run


def run_training(s: SimpleNamespace, found: Found) -> None:
    """Trains, scores the test split once, and fills the run directory. `s` becomes complete on the way."""
    with processes.one_line_failures(lambda: "the data set"):
        device = processes.set_up(s.device, s.gpu, s.precision, s.deterministic)
        data = load_data(s, found)
    step = functools.partial(_trial_step, s, data, device)
    if s.batch_size == "auto":
        first = min(batch_size.LARGEST, 2 ** int(math.log2(len(data.train))))
        s.batch_size = batch_size.largest_that_fits(step, first, device)
        if s.batch_size is None:
            raise RunFailed("not enough memory for a batch of one image; a smaller --img-size or --model may help")
        say(f"batch size    {s.batch_size}, the largest power of two up to {first} that fits")

    def advice() -> str:
        fitting = batch_size.largest_that_fits(step, s.batch_size // 2, device)
        return f"--batch-size {s.batch_size}; {fitting or 'not even 1'} would fit"

    with processes.one_line_failures(advice):
        _run_training(s, found, data, device)


def _trial_step(s: SimpleNamespace, data: Data, device: torch.device, count: int) -> None:
    """A training step of `count` images with a model that is thrown away, as far as memory is concerned: without a
    teacher."""
    chans, num_classes = data.dataset.in_chans, len(data.dataset.class_names)
    model = models.create_model(s.model, num_classes, data.img_size, chans, **s.model_args)
    model = _to_device(s, model, device)
    if s.freeze == "backbone":
        freeze_backbone(model)
    train_mode(model)
    if count == 1:
        model.eval()  # batch normalisation of one image may be undefined; `check_batch_of_one` says where it is
    optimizer = _make_optimizer(s, model)
    dtype = PRECISIONS[processes.choose_precision(s.precision, device, model)]
    images = torch.zeros(count, chans, data.img_size, data.img_size, device=device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        outputs = _forward(model, s.channels_last, False)(images.contiguous(memory_format=torch.channels_last))
    sum(logits.float().mean() for logits in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()
    optimizer.step()


def _to_device(s: SimpleNamespace, model: nn.Module, device: torch.device) -> nn.Module:
    return model.to(device, memory_format=torch.channels_last if s.channels_last else torch.contiguous_format)


def _run_training(s: SimpleNamespace, found: Found, data: Data, device: torch.device) -> None:
    directory = RunDirectory(Path(s.runs_dir) / s.run_name)
    continued = s.resume and directory.last.is_file()
    model = _build_model(s, data, with_weights=not continued)
    flops = cost.count_flops(model, data.img_size, data.dataset.in_chans, s.model)
    model = _to_device(s, model, device)
    s.precision = precision = processes.choose_precision(s.precision, device, model)
    state = RunState(
        model,
        _make_optimizer(s, model),
        Totals(len(data.dataset.class_names), device),
        ema=None if s.ema is None else ModelEMA(model, s.ema),
        scaler=torch.amp.GradScaler(device.type) if precision == "fp16" else None,
    )
    if continued:
        checkpoint.resume(state, directory.last)
    _print_overview(s, data, model, flops, device, precision)
    train_batches = make_train_batches(s, data, device)
    val_batches = None
    if data.val is not None:
        val_batches = EvalBatches(data.val, workers=s.num_workers, **batch_arguments(s, data, device))
    if 1 in train_batches.sizes:
        cost.check_batch_of_one(model, data.img_size, data.dataset.in_chans)
    stored = stored_settings(s)
    run_id = directory.stored_run_id() if s.resume else None
    teacher_file = s.teacher_weights
    if s.teacher_epochs is not None:
        # Here already: a run that is stopped while its teacher trains can be resumed then.
        run_id = run_id or directory.create(stored, s.overwrite)
        teacher_file = _train_teacher(s, found)
    distillation, teacher_facts = _make_distillation(
        s, teacher_file, data, device, precision, train_batches, val_batches
    )
    recipe = _make_recipe(s, data, precision, len(train_batches.sizes), distillation)
    forward = _forward(model, s.channels_last, s.compile)
    if s.resume:
        say(f"resumed       after epoch {state.epoch} of {s.epochs}" if continued else "resumed       from the start")
    run_id = run_id or directory.create(stored, s.overwrite)
    wandb = Wandb(s.wandb, s.wandb_project, s.run_name, run_id, directory.path, stored, s.wandb_group)
    say()

    def save(is_best: bool) -> None:
        # The best one first: a process killed in between repeats this epoch, and writes the same bits again.
        target = directory.best if is_best else directory.last
        checkpoint.save_checkpoint(target, state, stored, data.for_checkpoint())
        if is_best:
            checkpoint.copy_checkpoint(directory.best, directory.last)
        directory.write_metrics(state.history)
        wandb.log(state.history[-1], step=state.epoch)

    progress = Progress("agreement" if recipe.mix.mixers else "top-1")
    try:
        num_classes = len(data.dataset.class_names)
        train(state, forward, train_batches, val_batches, recipe, s.epochs, num_classes, progress, save, s.select_by)
        directory.write_metrics(state.history)  # a run killed after its last checkpoint may lack the last row
        facts = {"flops": flops, "teacher": teacher_facts}
        summary = _score_and_report(s, data, directory, state, device, precision, facts)
    except BaseException:
        progress.close()
        wandb.stop(failed=True)
        raise
    wandb.finish(results.scalars(summary), {"curves": directory.curves, "confusion": directory.confusion})


def stored_settings(s: SimpleNamespace) -> dict[str, Any]:
    """The settings that belong to the run, for settings.json, checkpoints and wandb."""
    return {key: value for key, value in vars(s).items() if TRAIN in FLAGS[key].modes and key not in NOT_STORED}


def _build_model(s: SimpleNamespace, data: Data, with_weights: bool) -> nn.Module:
    """With `with_weights` it starts from what --pretrained or --weights name; a continued run has its own."""
    torch.manual_seed(derive_seed(s.seed, "init"))
    model = models.create_model(
        s.model,
        len(data.dataset.class_names),
        data.img_size,
        data.dataset.in_chans,
        s.pretrained and with_weights,
        **s.model_args,
    )
    notes = list(model.load_notes)
    if s.weights and with_weights:
        path = Path(s.weights)
        notes += model_weights.load(model, model_weights.read_state_dict(path), source=s.weights)
    for note in notes:
        say(f"weights       {note}")
    if s.freeze == "backbone":
        if not model.head_names:
            raise BadRequest(f"--freeze backbone: {s.model} does not tell which of its layers is the head")
        freeze_backbone(model)
    return model


def _make_optimizer(s: SimpleNamespace, model: nn.Module) -> torch.optim.Optimizer:
    for flag in ("head_lr", "layer_decay"):
        if getattr(s, flag) is not None and not model.head_names:
            raise BadRequest(f"--{flag.replace('_', '-')}: {s.model} does not tell which of its layers is the head")
    head_scale = 1.0 if s.head_lr is None else s.head_lr / s.lr
    groups = parameter_groups(model, s.weight_decay, s.decay_all, s.layer_decay, head_scale)
    return make_optimizer(groups, s.optimizer, s.lr, s.momentum, s.nesterov)


def _train_teacher(s: SimpleNamespace, found: Found) -> str:
    """Trains the teacher as a run of its own: the student's flags, images and schedule, which is stretched or shortened
    to --teacher-epochs. Where the student is resumed, so is the teacher, if it is not finished. Returns its checkpoint.
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
        pretrained=False, weights=None, freeze="none", head_lr=None, layer_decay=None,
        teacher=None, teacher_epochs=None, cache_teacher=False, distill=None,
    )  # fmt: skip
    directory = RunDirectory(Path(teacher.runs_dir) / teacher.run_name)
    teacher.resume = s.resume and directory.settings.is_file()
    if not (teacher.resume and resume.finished(teacher)):
        say(f"teacher       {s.teacher} is trained first, for {s.teacher_epochs} epochs")
        say()
        run_training(teacher, found)
        say()
    return str(directory.best)


def _make_distillation(
    s: SimpleNamespace,
    file: str | None,
    data: Data,
    device: torch.device,
    precision: str,
    train_batches: ResidentTrainBatches | StreamedTrainBatches,
    val_batches: EvalBatches | None,
) -> tuple[Distillation | None, dict[str, Any] | None]:
    """(the teacher and how to learn from it, what the summary says of it), or twice None without --teacher. The teacher
    is scored first: a network that does no better than chance has nothing to teach.

    Args:
        file: the teacher's checkpoint or state dict; None: the published ImageNet weights.

    Raises BadRequest where it is none, or does not fit the data set.
    """
    if s.teacher is None:
        return None, None
    if s.cache_teacher and not (data.resident and s.crop == "none" and not s.flip):
        raise BadRequest("--cache-teacher is for images that are kept on the device and not augmented (up to 64 px,"
                         " --crop none --no-flip)")  # fmt: skip
    dataset = data.dataset
    teacher = load_teacher(s.teacher, file, dataset).adapt(dataset.mean, dataset.std, device, PRECISIONS[precision])
    weights = file or "published ImageNet weights"
    split, batches = "validation", val_batches
    if batches is None:
        split, batches = "train", _in_order(s, data, device)
    top1 = evaluate(teacher, batches, len(dataset.class_names), "fp32")[0]["top1"]
    say(f"teacher       {s.teacher}, {weights}: top-1 {100 * top1:.2f} % on {split}")
    chance = 1 / len(dataset.class_names)
    if top1 <= chance + 3 * (chance * (1 - chance) / len(batches.split)) ** 0.5:
        raise BadRequest(f"--teacher {s.teacher} ({weights}): its top-1 of {100 * top1:.2f} % on {split} is no"
                         f" better than chance, {100 * chance:.2f} %; train it on {dataset.name} first")  # fmt: skip
    facts = {"model": s.teacher, "weights": weights, "split": split, "top1": top1}
    if split == "validation" and _knows_validation(teacher, s):
        facts["note"] = "it was trained with another split: some of these validation images were in its training"
        say(f"              {facts['note']}")
    if s.cache_teacher:
        _, logits = evaluate(teacher, _in_order(s, data, device), len(dataset.class_names), "fp32", keep_logits=True)
        teacher = CachedTeacher(logits, train_batches)
    return Distillation(teacher, s.distill, s.distill_alpha, s.distill_temp), facts


def _in_order(s: SimpleNamespace, data: Data, device: torch.device) -> EvalBatches:
    """The training images as they are."""
    return EvalBatches(data.train, workers=s.num_workers, **batch_arguments(s, data, device))


def _knows_validation(teacher: Teacher, s: SimpleNamespace) -> bool:
    """Whether images that this run holds out of the training set were among those that the teacher learnt."""
    theirs = teacher.settings
    carved = s.val_fraction and s.select_on == "validation"
    if not carved or theirs is None or theirs["dataset"] != s.dataset:
        return False
    return any(theirs.get(key) != getattr(s, key) for key in ("seed", "val_fraction"))


def _make_recipe(
    s: SimpleNamespace, data: Data, precision: str, batches_per_epoch: int, distillation: Distillation | None
) -> Recipe:
    return Recipe(
        criterion=make_criterion(s.loss, len(data.dataset.class_names), s.label_smoothing, s.bce_target_threshold),
        mix=make_mix(s, data),
        learning_rate=functools.partial(
            learning_rate,
            steps_per_epoch=math.ceil(batches_per_epoch / s.accumulate),
            epochs=s.epochs,
            lr=s.lr,
            schedule=s.schedule,
            warmup_epochs=s.warmup_epochs,
            min_lr=s.min_lr,
            step_size=s.step_size,
            milestones=s.milestones,
            gamma=s.gamma,
        ),
        seed=s.seed,
        precision=precision,
        accumulate=s.accumulate,
        clip_grad=s.clip_grad,
        distillation=distillation,
    )


def _forward(model: nn.Module, channels_last: bool, compile_model: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """Batches arrive in channels-last memory; without `channels_last` they are laid out anew."""
    forward = torch.compile(model) if compile_model else model
    return forward if channels_last else lambda images: forward(images.contiguous())


def _print_overview(
    s: SimpleNamespace, data: Data, model: nn.Module, flops: int, device: torch.device, precision: str
) -> None:
    dataset = data.dataset
    colour = "colour" if dataset.in_chans == 3 else "grey"
    params, trained = cost.count_parameters(model), cost.count_parameters(model, trainable=True)
    say(f"model         {s.model}: {params:,} parameters{'' if trained == params else f' ({trained:,} trained)'},"
        f" {human(flops)}FLOPs per image")  # fmt: skip
    say(f"data          {dataset.name}: {len(dataset.class_names)} classes, {colour} images of {data.img_size} px"
        f"{'' if dataset.side in (None, data.img_size) else f' (from {dataset.side} px)'},"
        f" {'kept on the device' if data.resident else f'streamed by {s.num_workers} processes'}")  # fmt: skip
    val = "none" if data.val is None else f"{len(data.val):,}"
    say(f"splits        train {len(data.train):,}, validation {val}, {dataset.test_name} {len(dataset.test):,};"
        f" selected on: {data.selected_on}")  # fmt: skip
    for note in dataset.notes:
        say(f"note          {note}")
    if s.recipe:
        say(f"recipe        {recipes.describe(s)}")
    if s.teacher is None and len(model.head_names) > 1:
        say(f"note          {s.model} has a distillation token, but no --teacher is given: both heads learn the labels")
    say(f"device        {processes.describe(device)}, {precision}")
    say(f"run           {Path(s.runs_dir) / s.run_name}, seed {s.seed}")


def _score_and_report(
    s: SimpleNamespace,
    data: Data,
    directory: RunDirectory,
    state: RunState,
    device: torch.device,
    precision: str,
    more_facts: dict[str, Any],
) -> dict[str, Any]:
    """Scores the test split with the selected weights, once, and writes all results."""
    test_batches = EvalBatches(data.dataset.test, workers=s.num_workers, **batch_arguments(s, data, device))
    best = checkpoint.load_checkpoint(directory.best)
    facts = {
        "split": data.dataset.test_name,
        "selected_on": data.selected_on,
        "selected_by": s.select_by if state.best.get("score") else None,
        "params": cost.count_parameters(state.model),
        "trained_params": cost.count_parameters(state.model, trainable=True),
        **more_facts,
        "epochs": s.epochs,
        "best_epoch": state.best["epoch"],
        "weights": state.best["weights"],
        "train_seconds": round(state.train_seconds, 3),
        "peak_memory": processes.peak_memory(device),
        "images": {"train": len(data.train), "val": len(data.val or ()), "test": len(data.dataset.test)},
        "notes": data.dataset.notes,
        "settings": stored_settings(s),
    }
    scores = results.score(state.model, best, test_batches, data.dataset.class_names, precision)
    title = f"{s.model} on {data.dataset.name}"
    selected_there = s.select_on == "reported"
    results.plot_history(directory, state.history, state.best, title, facts["split"], scores, selected_there)
    return results.write(directory, scores, facts, data.dataset.class_names)
