"""From checked settings to a finished run directory: the one place where settings become the arguments of all below."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import models
from image_datasets.batches import EvalBatches
from image_datasets.dataset import LocatedDataset
from models import weights as model_weights
from training import (
    batch_size,
    checkpoint,
    cost,
    distributed,
    lock,
    membership,
    options,
    processes,
    recipes,
    results,
    resume,
    teaching,
)
from training.checkpoint import RunState
from training.data import Data, batch_arguments, load_data, make_mix, make_train_batches
from training.distillation import Distillation
from training.flags import FLAGS, TRAIN
from training.loop import Recipe, train
from training.losses import make_criterion
from training.metrics import Totals
from training.optim import ModelEMA, freeze_backbone, learning_rate, make_optimizer, parameter_groups, train_mode
from training.run_directory import RunDirectory, this_attempt
from training.saving import Saver
from training.stopping import Stop
from training.tracking import Progress, Wandb, logged, open_log, say
from utils import BadRequest, RunFailed, Stopped, derive_seed, human, sides

# Asks of one command, not properties of the run.
NOT_STORED = ("resume", "overwrite", "download", "check_images", "max_minutes")


def run_training(s: SimpleNamespace, found: LocatedDataset) -> None:
    """Trains, scores the test split once, and fills the run directory. `s` becomes complete on the way.

    Raises Stopped where it is told to leave before that (see training/stopping.py).
    """
    stop = Stop(s.max_minutes)
    with stop.listening():
        try:
            _train_in_memory(s, found, stop)
        finally:
            distributed.finish()


@logged()
def _train_in_memory(s: SimpleNamespace, found: LocatedDataset, stop: Stop) -> None:
    """`run_training`, with a batch size that fits, or a line that says which one would."""
    with processes.one_line_failures(lambda: "the data set"):
        device = processes.set_up(s.device, s.gpu, s.precision, s.eval_precision, s.deterministic)
        distributed.start(device)
        with stop.at_once(), distributed.first_one_first():
            notes = []
            if s.resume:
                found, notes = membership.of_resumed(found, RunDirectory(Path(s.runs_dir) / s.run_name), s.num_workers)
            data = load_data(s, found)
            data.dataset.notes += notes
    stop.check()
    step = functools.partial(trial_step, s, data, device)
    settle_batch_size(s, data, device, step)

    def advice() -> str:
        fitting = batch_size.largest_that_fits(step, s.batch_size // 2, device)
        return f"--batch-size {s.batch_size}; {fitting or 'not even 1'} would fit"

    with processes.one_line_failures(advice), contextlib.ExitStack() as holding:
        _run_training(s, found, data, device, stop, holding)


def settle_batch_size(s: SimpleNamespace, data: Data, device: torch.device, step: Callable[[int], None]) -> None:
    """Makes a number of --batch-size auto."""
    if s.batch_size == "auto":
        if device.type == "cpu" and batch_size.available_memory() is None:
            raise BadRequest("--batch-size auto: this system does not tell how much memory is free; give a number")
        first = min(batch_size.LARGEST, 2 ** int(math.log2(len(data.train))))
        s.batch_size = -distributed.largest(-(batch_size.largest_that_fits(step, first, device) or 0))
        if not s.batch_size:
            raise RunFailed("not enough memory for a batch of one image; a smaller --img-size or --model may help")
        say(f"batch size    {s.batch_size}, the largest power of two up to {first} that fits")


def trial_step(s: SimpleNamespace, data: Data, device: torch.device, count: int) -> None:
    """A training step of `count` images with a model that is thrown away, as far as memory is concerned: without a
    teacher."""
    chans, num_classes = data.dataset.in_chans, len(data.dataset.class_names)
    model = models.create_model(s.model, num_classes, data.img_size, chans, **s.model_args)
    model = _to_device(s, model, device)
    if s.freeze == "backbone":
        freeze_backbone(model)
    train_mode(model)
    if count == 1:
        model.eval()  # batch normalisation of one image may be undefined; `unfit_for_one_image` says where it is
    optimizer = _make_optimizer(s, model)
    precision = processes.choose_precision(s.precision, device, model)
    images = torch.zeros(count, chans, *sides(data.img_size), device=device)
    with processes.autocast(device, precision):
        outputs = make_forward(model, s.channels_last, False)(images.contiguous(memory_format=torch.channels_last))
    sum(logits.float().mean() for logits in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()
    optimizer.step()


def _to_device(s: SimpleNamespace, model: nn.Module, device: torch.device) -> nn.Module:
    return model.to(device, memory_format=torch.channels_last if s.channels_last else torch.contiguous_format)


def _run_training(
    s: SimpleNamespace,
    found: LocatedDataset,
    data: Data,
    device: torch.device,
    stop: Stop,
    holding: contextlib.ExitStack,
) -> None:
    """Args: holding: what is let go of when the run ends."""
    directory = RunDirectory(Path(s.runs_dir) / s.run_name)
    if s.resume and distributed.is_first():
        holding.enter_context(lock.locked(directory.path))
        directory.sweep()
    state, flops, continued = make_state(s, data, device, directory)
    if s.resume and not continued and distributed.is_first():
        data.write_list(directory.images)  # the run may have been killed before it wrote that
    model, precision = state.model, s.precision
    _print_overview(s, data, model, flops, device, precision)
    train_batches = make_train_batches(s, data, device)
    val_batches = None
    if data.val is not None:
        val_batches = EvalBatches(data.val, workers=s.num_workers, **batch_arguments(s, data, device, "val"))
    smallest_batch = _smallest_batch(s, data, model, train_batches.local_sizes)
    stored = stored_settings(s)
    run_id = None

    def begin() -> str:
        """Puts this attempt on record; of a new run that is the first file."""
        if not distributed.is_first():
            return ""
        attempt = this_attempt(processes.device_name(device))
        if s.resume:
            own_id = directory.add(attempt)
        else:
            holding.enter_context(lock.locked(directory.path))
            options.check_run_directory(directory.path, s.resume, s.overwrite)  # it may have come into being since
            own_id = directory.create(stored, s.overwrite, attempt)
            data.write_list(directory.images)
        open_log(directory.log, attempt)
        return own_id

    teacher_file = s.teacher_weights
    if s.teacher_epochs is not None:
        # Here already: a run that is stopped while its teacher trains can be resumed then.
        run_id = begin()
        teacher_file = teaching.train_teacher(s, lambda teacher: _train_in_memory(teacher, found, stop))
    distillation, teacher_facts = teaching.make_distillation(
        s, teacher_file, data, device, precision, train_batches, val_batches, stop
    )
    recipe = make_recipe(s, data, precision, len(train_batches.sizes), distillation, smallest_batch)
    if continued and not state.batch:
        _adapt_step(state, math.ceil(len(train_batches.sizes) / s.accumulate))
    forward = make_forward(_shared(model, s.sync_bn, device), s.channels_last, s.compile)
    if s.resume:
        say(f"resumed       {_position(state, s.epochs)}" if continued else "resumed       from the start")
    stop.check()
    run_id = run_id or begin()
    _list_bad_images(s, data, directory)
    named = s.run_name != resume.default_name(s, {"model": s.model})
    wandb = Wandb(s.wandb, s.wandb_project, s.run_name, run_id, directory.path, stored, s.wandb_group, named)
    say()
    saver = Saver(directory, state, stored, data.for_checkpoint(), s.checkpoint_every, stop, wandb.log)
    progress = Progress("agreement" if recipe.mix.mixers else "top-1")
    try:
        if recipe.roll_back and not continued:
            saver.save()  # somewhere to go back to
        num_classes = len(data.dataset.class_names)
        train(state, forward, train_batches, val_batches, recipe, s.epochs, num_classes, progress, saver, s.select_by)
        if distributed.is_first():
            directory.write_metrics(state.history)  # a run killed after its last checkpoint may lack the last row
        distributed.barrier()  # best.pth is the first process's to write
        facts = {"flops": flops, "teacher": teacher_facts}
        summary = _score_and_report(s, data, directory, state, device, facts, stop)
    except BaseException as error:
        progress.close()
        wandb.stop(failed=not isinstance(error, Stopped), preempted=isinstance(error, Stopped))
        raise
    distributed.barrier()
    wandb.finish(results.scalars(summary), {"curves": directory.curves, "confusion": directory.confusion})


def _list_bad_images(s: SimpleNamespace, data: Data, directory: RunDirectory) -> None:
    if s.on_bad_image == "skip":
        distributed.barrier()  # the first process has made the folder
        data.bad_images.write_to(directory.bad_images, distributed.is_first())


def _smallest_batch(s: SimpleNamespace, data: Data, model: nn.Module, sizes: list[int]) -> int | None:
    """The images that a batch must have left for a step, where those that cannot be read are left out; else None.

    Args:
        sizes: of this process's parts of the batches.

    Raises BadRequest where there are batches of one image, and the model needs two.
    """
    if 1 in sizes:
        cost.check_batch_of_one(model, data.img_size, data.dataset.in_chans)
    if s.on_bad_image == "error":
        return None
    return 2 if cost.unfit_for_one_image(model, data.img_size, data.dataset.in_chans) else 1


def make_state(
    s: SimpleNamespace, data: Data, device: torch.device, directory: RunDirectory
) -> tuple[RunState, int, bool]:
    """(the state that training starts from, the model's FLOPs per image, whether it is that of a checkpoint)."""
    continued = s.resume and (directory.last.is_file() or directory.previous.is_file())
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
        with distributed.first_one_first():
            checkpoint.resume(state, directory, data.dataset.class_names, data.image_digests)
    return state, flops, continued


def _adapt_step(state: RunState, steps_per_epoch: int) -> None:
    """At the end of an epoch: among another number of processes one has another number of steps."""
    step = state.epoch * steps_per_epoch
    if step != state.step:
        say(f"note          an epoch has {steps_per_epoch} steps with {distributed.ranks()} process(es) instead of"
            f" {state.step // state.epoch}; the schedule goes on at the end of epoch {state.epoch}")  # fmt: skip
        state.step = step


def _position(state: RunState, epochs: int) -> str:
    within = f", batch {state.batch} of the next" if state.batch else ""
    return f"after epoch {state.epoch} of {epochs}{within}"


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
        weights = model_weights.read_weights(Path(s.weights), s.weights_kind)
        if weights.others:
            s.weights_kind = kind = weights.kind
            notes.append(f"{s.weights} holds raw and averaged ones: the {model_weights.KINDS[kind]} ones are taken,"
                         f" --weights-kind {model_weights.other_kind(kind)} takes the others")  # fmt: skip
        notes += weights.notes
        notes += model_weights.load(model, weights.state, source=s.weights, img_size=weights.img_size)
    for note in notes:
        say(f"weights       {note}")
    if s.freeze == "backbone":
        if not model.head_names:
            raise BadRequest(f"--freeze backbone: {s.model} does not tell which of its layers is the head")
        freeze_backbone(model)
    return model


def _note_on_weights(s: SimpleNamespace) -> list[str]:
    if s.weights_kind is None:
        return []
    return [f"training started from the {model_weights.KINDS[s.weights_kind]} weights in {s.weights}"]


def _make_optimizer(s: SimpleNamespace, model: nn.Module) -> torch.optim.Optimizer:
    for flag in ("head_lr", "layer_decay"):
        if getattr(s, flag) is not None and not model.head_names:
            raise BadRequest(f"--{flag.replace('_', '-')}: {s.model} does not tell which of its layers is the head")
    head_scale = 1.0 if s.head_lr is None else s.head_lr / s.lr
    groups = parameter_groups(model, s.weight_decay, s.decay_all, s.layer_decay, head_scale)
    return make_optimizer(groups, s.optimizer, s.lr, s.momentum, s.nesterov)


def make_recipe(
    s: SimpleNamespace,
    data: Data,
    precision: str,
    batches_per_epoch: int,
    distillation: Distillation | None,
    smallest_batch: int | None = None,
) -> Recipe:
    return Recipe(
        criterion=make_criterion(s.loss, len(data.dataset.class_names), s.label_smoothing, s.bce_target_threshold),
        mix=make_mix(s, data),
        learning_rate=functools.partial(
            learning_rate,
            steps_per_epoch=math.ceil(batches_per_epoch / s.accumulate),
            epochs=s.epochs,
            lr=s.lr * (distributed.ranks() if s.scale_lr else 1),
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
        smallest_batch=smallest_batch,
        roll_back=s.on_nonfinite == "rollback",
    )


def make_forward(model: nn.Module, channels_last: bool, compile_model: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """Batches arrive in channels-last memory; without `channels_last` they are laid out anew."""
    forward = torch.compile(model) if compile_model else model
    if channels_last:
        return forward

    def laid_out(images: torch.Tensor) -> torch.Tensor:
        return forward(images.contiguous())

    if hasattr(model, "no_sync"):
        laid_out.no_sync = model.no_sync
    return laid_out


def _shared(model: nn.Module, sync_bn: bool, device: torch.device) -> nn.Module:
    """The model as several processes train it, with gradients, and if asked for the statistics of batch normalisation,
    of the whole batch."""
    if sync_bn:
        from timm.layers import convert_sync_batchnorm

        if device.type != "cuda":
            raise BadRequest("--sync-bn needs GPUs: torch has no synchronised batch normalisation for other devices")
        model = convert_sync_batchnorm(model)
    return distributed.wrap(model, device)


def _print_overview(
    s: SimpleNamespace, data: Data, model: nn.Module, flops: int, device: torch.device, precision: str
) -> None:
    dataset = data.dataset
    colour = "colour" if dataset.in_chans == 3 else "grey"
    params, trained = cost.count_parameters(model), cost.count_parameters(model, trainable=True)
    say(f"model         {s.model}: {params:,} parameters{'' if trained == params else f' ({trained:,} trained)'},"
        f" {human(flops)}FLOPs per image")  # fmt: skip
    say(f"data          {dataset.name}: {len(dataset.class_names)} classes, {colour} images of {data.sizes()},"
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
    tested = "" if precision == s.eval_precision else f"; tested in {s.eval_precision}"
    say(f"device        {processes.describe(device)}, {precision}{tested}")
    if distributed.many():
        ranks = distributed.ranks()
        lr = f", learning rate {s.lr * ranks:g}" if s.scale_lr else ""
        say(f"processes     {ranks}: batches of {s.batch_size} images each, {s.batch_size * ranks} in all{lr}")
    say(f"run           {Path(s.runs_dir) / s.run_name}, seed {s.seed}")


def _score_and_report(
    s: SimpleNamespace,
    data: Data,
    directory: RunDirectory,
    state: RunState,
    device: torch.device,
    more_facts: dict[str, Any],
    stop: Stop,
) -> dict[str, Any]:
    """Scores the test split with the selected weights, once, and writes all results."""
    arguments = batch_arguments(s, data, device, "test")
    test_batches = EvalBatches(data.dataset.test, workers=s.num_workers, **arguments)
    best = checkpoint.load_checkpoint(directory.best)
    facts = {
        "split": data.dataset.test_name,
        "selected_on": data.selected_on,
        "selected_by": s.select_by if state.best.get("score") else None,
        **results.precisions(s.precision, bool(state.best.get("score")), s.eval_precision),
        "params": cost.count_parameters(state.model),
        "trained_params": cost.count_parameters(state.model, trainable=True),
        **more_facts,
        "epochs": s.epochs,
        "best_epoch": state.best["epoch"],
        "weights": state.best["weights"],
        "train_seconds": round(state.train_seconds, 3),
        "peak_memory": processes.peak_memory(device),
        "rollbacks": state.rollbacks,
        "processes": distributed.ranks(),
        "images": {"train": len(data.train), "val": len(data.val or ()), "test": len(data.dataset.test)},
        "notes": [*data.dataset.notes, *_note_on_weights(s)],
        "image_digests": data.image_digests,
        "settings": stored_settings(s),
    }
    scores = results.score(state.model, best, test_batches, data.dataset.class_names, s.eval_precision, stop)
    title = f"{s.model} on {data.dataset.name}"
    facts["bad_images"] = data.bad_images.finish()
    selected_there = s.select_on == "reported"
    if not distributed.is_first():
        return {}
    results.plot_history(directory, state.history, state.best, title, facts["split"], scores, selected_there)
    return results.write(directory, scores, facts, data.dataset.class_names)
