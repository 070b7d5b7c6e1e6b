"""From checked settings to a finished run directory: the one place where settings become the arguments of all below."""

from __future__ import annotations

import contextlib
import functools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from analysis import cost
from assembly import teaching
from assembly.data import Data, batch_arguments, load_data, make_train_batches
from assembly.trainee import (
    _shared,
    _smallest_batch,
    make_forward,
    make_recipe,
    make_state,
    settle_batch_size,
    stored_settings,
    trial_step,
)
from image_datasets.batches import EvalBatches
from image_datasets.registry import Found
from models import weights as model_weights
from records import checkpoint, lock, membership, run_directory, summary
from records.log import logged, open_log, say
from records.run_directory import RunDirectory, this_attempt
from records.wandb_run import Wandb
from settings import recipes, resume
from training import batch_size, devices, distributed, evaluation, loop
from training.progress import Progress
from training.saving import Saver
from training.state import RunState
from training.stopping import Stop
from utils import (
    Stopped,
    human,
    is_distributed,
    is_main_process,
    world_size,
)


def run_training(s: SimpleNamespace, found: Found) -> None:
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
def _train_in_memory(s: SimpleNamespace, found: Found, stop: Stop) -> None:
    """`run_training`, with a batch size that fits, or a line that says which one would."""
    with devices.machine_errors_as_run_failed(lambda: "the data set"):
        device = devices.set_up(s.device, s.gpu, s.precision, s.eval_precision, s.deterministic)
        distributed.start(device)
        with stop.at_once(), distributed.main_process_first():
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

    with devices.machine_errors_as_run_failed(advice), contextlib.ExitStack() as holding:
        _run_training(s, found, data, device, stop, holding)


def _run_training(
    s: SimpleNamespace,
    found: Found,
    data: Data,
    device: torch.device,
    stop: Stop,
    holding: contextlib.ExitStack,
) -> None:
    """Args: holding: what is let go of when the run ends."""
    directory = RunDirectory(Path(s.runs_dir) / s.run_name)
    if s.resume and is_main_process():
        holding.enter_context(lock.locked(directory.path))
        directory.remove_leftovers()
    state, flops, continued = make_state(s, data, device, directory)
    if s.resume and not continued and is_main_process():
        data.write_list(directory.images)  # the run may have been killed before it wrote that
    model, precision = state.model, s.precision
    _print_overview(s, data, model, flops, device, precision)
    train_batches = make_train_batches(s, data, device)
    val_batches = None
    if data.val is not None:
        val_batches = EvalBatches(data.val, workers=s.num_workers, **batch_arguments(s, data, device, "val"))
    smallest_batch = _smallest_batch(s, data, model, train_batches.own_sizes)
    stored = stored_settings(s)
    run_id = None

    def begin() -> str:
        """Puts this attempt on record; of a new run that is the first file."""
        if not is_main_process():
            return ""
        attempt = this_attempt(devices.device_name(device))
        if s.resume:
            own_id = directory.add_attempt(attempt)
        else:
            holding.enter_context(lock.locked(directory.path))
            run_directory.check_run_directory(
                directory.path, s.resume, s.overwrite
            )  # it may have come into being since
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
        loop.train(
            state, forward, train_batches, val_batches, recipe, s.epochs, num_classes, progress, saver, s.select_by
        )
        if is_main_process():
            directory.write_metrics(state.history)  # a run killed after its last checkpoint may lack the last row
        distributed.barrier()  # best.pth is the first process's to write
        facts = {"flops": flops, "teacher": teacher_facts}
        written = _score_and_report(s, data, directory, state, device, facts, stop)
    except BaseException as error:
        progress.close()
        wandb.stop(failed=not isinstance(error, Stopped), preempted=isinstance(error, Stopped))
        raise
    distributed.barrier()
    wandb.finish(summary.scalars(written), {"curves": directory.curves, "confusion": directory.confusion})


def _list_bad_images(s: SimpleNamespace, data: Data, directory: RunDirectory) -> None:
    if s.on_bad_image == "skip":
        distributed.barrier()  # the first process has made the folder
        data.bad_images.keep_in(directory.bad_images, is_main_process())


def _adapt_step(state: RunState, steps_per_epoch: int) -> None:
    """At the end of an epoch: among another number of processes one has another number of steps."""
    step = state.epoch * steps_per_epoch
    if step != state.step:
        say(f"note          an epoch has {steps_per_epoch} steps with {world_size()} process(es) instead of"
            f" {state.step // state.epoch}; the schedule goes on at the end of epoch {state.epoch}")  # fmt: skip
        state.step = step


def _position(state: RunState, epochs: int) -> str:
    within = f", batch {state.batch} of the next" if state.batch else ""
    return f"after epoch {state.epoch} of {epochs}{within}"


def _note_on_weights(s: SimpleNamespace) -> list[str]:
    if s.weights_kind is None:
        return []
    return [f"training started from the {model_weights.KINDS[s.weights_kind]} weights in {s.weights}"]


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
    say(f"device        {devices.describe_device(device)}, {precision}{tested}")
    if is_distributed():
        ranks = world_size()
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
        **summary.precisions(s.precision, bool(state.best.get("score")), s.eval_precision),
        "params": cost.count_parameters(state.model),
        "trained_params": cost.count_parameters(state.model, trainable=True),
        **more_facts,
        "epochs": s.epochs,
        "best_epoch": state.best["epoch"],
        "weights": state.best["weights"],
        "train_seconds": round(state.train_seconds, 3),
        "peak_memory": devices.peak_memory(device),
        "rollbacks": state.rollbacks,
        "processes": world_size(),
        "images": {"train": len(data.train), "val": len(data.val or ()), "test": len(data.dataset.test)},
        "notes": [*data.dataset.notes, *_note_on_weights(s)],
        "image_digests": data.image_digests,
        "settings": stored_settings(s),
    }
    scores = evaluation.score(state.model, best, test_batches, data.dataset.class_names, s.eval_precision, stop)
    title = f"{s.model} on {data.dataset.name}"
    facts["bad_images"] = data.bad_images.finish()
    selected_there = s.select_on == "reported"
    if not is_main_process():
        return {}
    summary.plot_history(directory, state.history, state.best, title, facts["split"], scores, selected_there)
    return summary.write(directory, scores, facts, data.dataset.class_names)
