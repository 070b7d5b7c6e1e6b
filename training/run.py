"""From checked settings to a finished run directory: the one place where settings become the arguments of all below."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import image_datasets
import models
from data_transform import EVAL_CROP, Augment, Mix
from image_datasets.batches import EvalBatches, ResidentTrainBatches, StreamedTrainBatches
from image_datasets.registry import IMAGENET_MEAN, IMAGENET_STD, Dataset, Found
from image_datasets.splits import Split, split_train
from models import weights as model_weights
from training import checkpoint, cost, options, processes, results
from training.checkpoint import RunState
from training.distillation import Distillation
from training.flags import FLAGS, TRAIN
from training.loop import PRECISIONS, Recipe, evaluate, train
from training.losses import make_criterion
from training.metrics import Totals
from training.optim import ModelEMA, freeze_backbone, learning_rate, make_optimizer, parameter_groups
from training.run_directory import RunDirectory
from training.teacher import load_teacher
from training.tracking import Progress, Wandb, say
from utils import BadRequest, derive_seed, human

NOT_STORED = ("resume", "overwrite", "download")  # asks of one command, not properties of the run


@dataclass
class Data:
    """The splits of a run, with what is needed to make batches of them."""

    dataset: Dataset
    train: Split
    val: Split | None
    img_size: int
    selected_on: str

    @property
    def resident(self) -> bool:
        return self.dataset.train.images is not None

    def for_checkpoint(self) -> dict[str, Any]:
        """What using the model on other images takes."""
        return {
            "class_names": self.dataset.class_names,
            "wnids": self.dataset.wnids,
            "mean": self.dataset.mean,
            "std": self.dataset.std,
            "img_size": self.img_size,
            "in_chans": self.dataset.in_chans,
            "eval_crop": 1.0 if self.resident else EVAL_CROP,
            "selected_on": self.selected_on,
        }


def run_training(s: SimpleNamespace, found: Found) -> None:
    """Trains, scores the test split once, and fills the run directory. `s` becomes complete on the way."""
    with processes.one_line_failures(f"--batch-size {s.batch_size}; try half of it"):
        _run_training(s, found)


def _run_training(s: SimpleNamespace, found: Found) -> None:
    device, precision = processes.set_up(s.device, s.gpu, s.precision, s.deterministic)
    directory = RunDirectory(Path(s.runs_dir) / s.run_name)
    data = load_data(s, found)
    continued = s.resume and directory.last.is_file()
    model = _build_model(s, data, with_weights=not continued)
    flops = cost.count_flops(model, data.img_size, data.dataset.in_chans, s.model)
    model = model.to(device, memory_format=torch.channels_last if s.channels_last else torch.contiguous_format)
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
        val_batches = EvalBatches(data.val, workers=s.num_workers, **_batch_arguments(s, data, device))
    if 1 in train_batches.sizes:
        cost.check_batch_of_one(model, data.img_size, data.dataset.in_chans)
    distillation, teacher_facts = _make_distillation(s, data, device, precision, val_batches)
    recipe = _make_recipe(s, data, precision, len(train_batches.sizes), distillation)
    forward = _forward(model, s.channels_last, s.compile)

    stored = stored_settings(s)
    if s.resume:
        say(f"resumed       after epoch {state.epoch} of {s.epochs}" if continued else "resumed       from the start")
        run_id = directory.stored_run_id()
    else:
        run_id = directory.create(stored, s.overwrite)
    wandb = Wandb(s.wandb, s.wandb_project, s.run_name, run_id, directory.path, stored)
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
        train(
            state,
            forward,
            train_batches,
            val_batches,
            recipe,
            s.epochs,
            len(data.dataset.class_names),
            progress,
            save,
            s.select_by,
        )
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


def load_data(s: SimpleNamespace, found: Found) -> Data:
    """Reads the data set and settles what was left to it: image size, channels, flip, crop."""
    dataset = image_datasets.load_dataset(found, workers=s.num_workers)
    dataset = dataset.with_channels(s.in_chans or dataset.in_chans)
    s.in_chans = dataset.in_chans
    if s.normalization == "dataset" and dataset.train.images is None:
        s.normalization = "imagenet"  # nobody has looked at all pixels of a set that is streamed
    if s.normalization == "half":
        dataset = dataset.normalized((0.5,) * 3, (0.5,) * 3)
    elif s.normalization != "dataset":
        published = models.published_statistics(s.model) if s.normalization == "pretrained" else None
        dataset = dataset.normalized(*(published or (IMAGENET_MEAN, IMAGENET_STD)))
    s.img_size = options.image_size(s.img_size, s.model, dataset.side)
    if s.flip is None:
        s.flip = dataset.flip
    if s.crop is None:
        s.crop = "resized" if s.rand or dataset.side is None else "pad"
    if s.crop_padding is not None and s.crop != "pad":
        raise BadRequest("--crop-padding has no effect: large images get --crop resized, unless --crop pad is given")
    if s.crop == "pad" and s.crop_padding is None:
        s.crop_padding = (dataset.side or s.img_size) // 8
    train_split, val = split_train(dataset.train, s.val_fraction or 0.0, s.train_fraction, s.seed)
    if dataset.val is not None:
        val, selected_on = dataset.val, "val"
    elif val is not None:
        selected_on = f"{s.val_fraction:g} of train, stratified, seed {s.seed}"
    else:
        selected_on = "last epoch"
    if s.ema is not None and val is None:
        selected_on = "last epoch, averaged weights"
    return Data(dataset, train_split, val, s.img_size, selected_on)


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


def make_train_batches(
    s: SimpleNamespace, data: Data, device: torch.device
) -> ResidentTrainBatches | StreamedTrainBatches:
    augment = Augment(s.crop, s.crop_padding or 0, s.flip, s.rand, s.random_erasing)
    common = {**_batch_arguments(s, data, device), "seed": s.seed}
    if data.resident:
        return ResidentTrainBatches(data.train, augment, **common)
    return StreamedTrainBatches(data.train, augment, workers=s.num_workers, **common)


def _batch_arguments(s: SimpleNamespace, data: Data, device: torch.device) -> dict[str, Any]:
    return {"img_size": data.img_size, "mean": data.dataset.mean, "std": data.dataset.std, "device": device,
            "batch_size": s.batch_size}  # fmt: skip


def make_mix(s: SimpleNamespace, data: Data) -> Mix:
    return Mix(s.augmentation, len(data.dataset.class_names), s.cutmix_alpha, s.mixup_alpha, s.mix_prob)


def _make_distillation(
    s: SimpleNamespace, data: Data, device: torch.device, precision: str, val_batches: EvalBatches | None
) -> tuple[Distillation | None, dict[str, Any] | None]:
    """(the teacher and how to learn from it, what the summary says of it), or twice None without --teacher. The teacher
    is scored first: a network that does no better than chance has nothing to teach.

    Raises BadRequest where it is none, or does not fit the data set.
    """
    if s.teacher is None:
        return None, None
    dataset = data.dataset
    teacher = load_teacher(s.teacher, s.teacher_weights, dataset).adapt(
        dataset.mean, dataset.std, device, PRECISIONS[precision]
    )
    split, batches = "validation", val_batches
    if batches is None:
        split = "train"
        batches = EvalBatches(data.train, workers=s.num_workers, **_batch_arguments(s, data, device))
    means, _ = evaluate(teacher, batches, len(dataset.class_names), "fp32")
    weights = s.teacher_weights or "published ImageNet weights"
    say(f"teacher       {s.teacher}, {weights}: top-1 {100 * means['top1']:.2f} % on {split}")
    chance = 1 / len(dataset.class_names)
    if means["top1"] <= chance + 3 * (chance * (1 - chance) / len(batches.split)) ** 0.5:
        raise BadRequest(f"--teacher {s.teacher} ({weights}): its top-1 of {100 * means['top1']:.2f} % on {split} is no"
                         f" better than chance, {100 * chance:.2f} %; train it on {dataset.name} first")  # fmt: skip
    facts = {"model": s.teacher, "weights": weights, "split": split, "top1": means["top1"]}
    return Distillation(teacher, s.distill, s.distill_alpha, s.distill_temp), facts


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
    test_batches = EvalBatches(data.dataset.test, workers=s.num_workers, **_batch_arguments(s, data, device))
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
        "images": {"train": len(data.train), "val": len(data.val or ()), "test": len(data.dataset.test)},
        "notes": data.dataset.notes,
        "settings": stored_settings(s),
    }
    scores = results.score(state.model, best, test_batches, data.dataset.class_names, precision)
    title = f"{s.model} on {data.dataset.name}"
    results.plot_history(directory, state.history, state.best, title, data.dataset.test_name, scores)
    return results.write(directory, scores, facts, data.dataset.class_names)
