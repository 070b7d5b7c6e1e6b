"""Trains: from checked settings to a finished run directory."""

from __future__ import annotations

import contextlib
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from analysis import cost
from assembly import continuing, imbalance, memory_trial, teaching, trainee
from assembly.data import RunData, make_data, read_dataset
from assembly.overview import print_overview
from image_datasets.batches import EvalBatches, ResidentTrainBatches, StreamedTrainBatches
from image_datasets.dataset import Dataset, LocatedDataset
from models.weight_files import KINDS
from records import checkpoint, lock, membership, summary
from records.log import logged, open_log, say, say_in_log
from records.run_directory import RunDirectory, check_run_directory, this_attempt
from records.tensorboard_run import TensorBoard
from records.trackers import Trackers
from records.wandb_run import Wandb
from settings import resume
from settings.groups import Settings
from settings.settle import settle
from training import devices, distributed, evaluation, loop
from training.devices import machine_errors_as_run_failed
from training.progress import Progress
from training.saving import Saver
from training.state import RunState
from training.state import resume as resume_state
from training.stopping import Stop
from utils import Stopped, is_main_process, world_size


@dataclass(frozen=True)
class Site:
    """Shared by a run and the training of its teacher.

    Attributes:
        found: location of the data set.
        dataset: as it is stored.
        stop: requests to stop.
    """

    device: torch.device
    found: LocatedDataset
    dataset: Dataset
    stop: Stop


def run_training(settings: Settings, found: LocatedDataset) -> None:
    """Trains, scores the test split once, and fills the run directory.

    Raises Stopped if a stop is requested before the end (see training/stopping.py), BadRequest and RunFailed.
    """
    stop = Stop(settings.run.max_minutes)
    with stop.listening(), logged():
        try:
            hardware, notes = settings.hardware, []
            with machine_errors_as_run_failed(lambda: "the data set"):
                device = devices.set_up(hardware.device, hardware.gpu, hardware.precision, hardware.eval_precision,
                                        hardware.deterministic, tf32=True)  # fmt: skip
                distributed.start(device)
                with stop.at_once(), distributed.main_process_first():
                    if settings.run.resume:
                        found, notes = membership.of_resumed(found, directory_of(settings), settings.data.num_workers)
                    dataset = read_dataset(settings.data, found)
            _train(settings, Site(device, found, dataset, stop), notes)
        finally:
            distributed.finish()


def directory_of(settings: Settings) -> RunDirectory:
    """Returns the run directory of these settings."""
    return RunDirectory(Path(settings.run.runs_dir) / settings.run.run_name)


def _train(settings: Settings, site: Site, notes: list[str]) -> None:
    """Trains on a data set that has been read. If memory runs out, reports the largest batch size that fits."""
    device, stop = site.device, site.stop
    with machine_errors_as_run_failed(lambda: "the data set"), stop.at_once(), distributed.main_process_first():
        settings = settle(settings, site.dataset)
        averaged = trainee.averages(settings.optimization)
        model, seed = settings.model.model, settings.hardware.seed_of_split
        data = make_data(settings.data, site.dataset, site.found, model, seed, averaged)
        data.dataset.notes += notes
    stop.check()
    fitting = memory_trial.memory_probe(settings, data, device)
    images = memory_trial.settle_batch_size(settings.optimization.batch_size, len(data.train), device, fitting)
    settings = settings.replace(batch_size=images)

    def advice() -> str:
        return f"--batch-size {images}; {fitting(images // 2) or 'not even 1'} would fit"

    with machine_errors_as_run_failed(advice), contextlib.ExitStack() as resources:
        _train_in_memory(settings, site, data, resources)


def _train_teacher(settings: Settings, site: Site) -> str:
    """Trains the teacher as a run of its own, unless that is finished. Returns the path of its checkpoint."""
    teacher = teaching.teacher_settings(settings)
    if not (teacher.run.resume and resume.is_finished(teacher)):
        say(f"teacher       {teacher.model.model} is trained first, for {teacher.optimization.epochs} epochs")
        say()
        with logged():
            _train(teacher, site, [])
        say()
    return str(directory_of(teacher).best)


class Record:
    """The run directory while a run works on it: locks it and records each attempt once.

    Args:
        resources: closed when the run ends; releases the lock.
    """

    def __init__(self, settings: Settings, data: RunData, device: torch.device, resources: contextlib.ExitStack):
        self.run, self.directory, self.data = settings.run, directory_of(settings), data
        self.device, self.resources, self.run_id = device, resources, None
        self.continued = False  # whether there is a checkpoint to continue from
        self.extension: continuing.Extension | None = None  # if this attempt is given more epochs
        if self.run.resume:
            if is_main_process():
                resources.enter_context(lock.locked(self.directory.path))
                self.directory.remove_leftovers()
            self.continued = self.directory.last.is_file() or self.directory.previous.is_file()
            if is_main_process() and not self.continued:
                data.write_list(self.directory.images)  # an earlier attempt may have been killed before this

    def begin(self, stored: dict[str, Any]) -> str:
        """Records this attempt, once. In a new run this writes the first file.

        Returns the run's wandb id, which is empty except in the main process.
        """
        if self.run_id is None:
            self.run_id = self._begin(stored) if is_main_process() else ""
        return self.run_id

    def _begin(self, stored: dict[str, Any]) -> str:
        directory, run = self.directory, self.run
        attempt = this_attempt(devices.device_name(self.device))
        if run.resume:
            run_id = directory.add_attempt(attempt, stored, self.extension and vars(self.extension))
        else:
            self.resources.enter_context(lock.locked(directory.path))
            check_run_directory(directory.path, run.resume, run.overwrite)  # another process may be first
            run_id = directory.create(stored, run.overwrite, attempt)
            self.data.write_list(directory.images)
        open_log(directory.log, attempt)
        return run_id


def _train_in_memory(settings: Settings, site: Site, data: RunData, resources: contextlib.ExitStack) -> None:
    """Builds everything, trains and reports.

    Args:
        resources: closed when the run ends.
    """
    device, hardware, optimization = site.device, settings.hardware, settings.optimization
    record = Record(settings, data, device, resources)
    class_names = data.dataset.class_names
    weights = None
    if not record.continued:  # a resumed run has its own
        weights = imbalance.class_weights(settings.loss.class_weights, data.train.targets, class_names)
    build = functools.partial(
        trainee.build_model, settings.model, optimization, data, hardware.seed, with_weights=not record.continued
    )
    built, images = build(), optimization.batch_size
    flops = cost.count_flops(built.module, data.img_size, data.dataset.in_chans, settings.model.model)
    precision = trainee.choose_precision(hardware, device, built.module)
    settings = settings.replace(precision=precision, weights_kind=built.weights_kind, model_args=built.model_args)
    dtype = devices.input_dtype(device, precision)
    train_batches = data.train_batches(settings.augmentation, device, images, hardware.seed, dtype)
    val_batches = None if data.val is None else data.eval_batches("val", device, images, dtype=dtype)
    smallest_batch = trainee.smallest_batch_of(built.module, data, train_batches.local_sizes)
    teacher_file = settings.distillation.teacher_weights
    if settings.distillation.teacher_epochs is not None:
        if not record.continued:
            record.begin(settings.stored())  # now, so that a run that stops while its teacher trains can be resumed
        del built  # the student is checked; leave the memory to the teacher
        teacher_file = _train_teacher(settings, site)
        built = build()
    for note in built.notes:
        say(f"weights       {note}")
    for key, name in built.pairs:
        say_in_log(f"weights       {key} -> {name}")
    num_classes, batches = len(class_names), len(train_batches.sizes)
    state = trainee.make_state(built.module, optimization, num_classes, device, precision, hardware.channels_last)
    state.class_weights = None if weights is None else weights.tolist()
    if settings.run.resume:
        settings = _resume(settings, record, state, math.ceil(batches / optimization.accumulate))
    print_overview(settings, data, state.model, flops, device)
    distillation, teacher_facts = teaching.make_distillation(
        settings.distillation, teacher_file, data, settings.augmentation, precision, train_batches, val_batches,
        site.stop,
    )  # fmt: skip
    config = trainee.make_config(
        settings.optimization, settings.loss, settings.augmentation, num_classes, batches, hardware.seed, precision,
        distillation, smallest_batch, imbalance.on_device(state.class_weights, device),
        class_names if imbalance.differ_much(data.train.targets) else None,
    )  # fmt: skip
    forward = trainee.make_forward(
        trainee.share(state.model, hardware.sync_bn, device), hardware.channels_last, hardware.compile, images,
        hardware.compile_mode,
    )  # fmt: skip
    trained = trainee.Trainee(state, forward, config)
    _train_and_report(settings, site, data, record, trained, train_batches, val_batches,
                      {"flops": flops, "teacher": teacher_facts})  # fmt: skip


def _resume(settings: Settings, record: Record, state: RunState, steps_per_epoch: int) -> Settings:
    """Restores `state`, if there is a checkpoint. Returns the settings, perhaps of a run with more epochs."""
    data = record.data
    if record.continued:
        names, precision = data.dataset.class_names, settings.hardware.precision
        with distributed.main_process_first():
            resume_state(state, record.directory, names, data.image_digests, precision, settings.run.keep)
        if not state.batch:
            continuing.adapt_step(state, steps_per_epoch)
    restored = state if record.continued else None
    settings, record.extension = continuing.with_more_epochs(settings, record.directory, restored, steps_per_epoch)
    return settings


def _train_and_report(
    settings: Settings,
    site: Site,
    data: RunData,
    record: Record,
    trained: trainee.Trainee,
    train_batches: ResidentTrainBatches | StreamedTrainBatches,
    val_batches: EvalBatches | None,
    facts: dict[str, Any],
) -> None:
    """Runs the loop, scores the test split and logs both to the trackers."""
    run, state, directory, stop = settings.run, trained.state, record.directory, site.stop
    if run.resume:
        epochs = settings.optimization.epochs
        say(f"resumed       {continuing.position(state, epochs) if record.continued else 'from the start'}")
    stop.check()
    stored = settings.stored()
    run_id = record.begin(stored)
    if data.skip_bad:
        distributed.barrier()  # until the main process has made the folder
        data.bad_images.write_to(directory.bad_images, is_main_process())
    named = run.run_name != resume.default_name(settings, {"model": settings.model.model})
    wandb = Wandb(run.wandb, run.wandb_project, run.run_name, run_id, directory.path, stored, run.wandb_group, named)
    tensorboard = [TensorBoard(directory.path, stored, state.history)] if run.tensorboard else []
    tracker = Trackers(wandb, *tensorboard)
    say()
    devices.reset_peak_memory(site.device)
    saver = Saver(
        directory, state, stored, data.for_checkpoint(), run.checkpoint_every, stop, tracker.log, settings.run.keep
    )
    progress = Progress("agreement" if trained.config.mix.mixers else "top-1")
    try:
        if trained.config.roll_back and not record.continued:
            saver.save()  # a checkpoint to roll back to
            saver.wait()
        loop.train(state, trained.forward, train_batches, val_batches, trained.config, progress, saver)
        if state.epoch < trained.config.epochs:
            say(f"stopped early after epoch {state.epoch} of {trained.config.epochs}: none was better than epoch"
                f" {state.best['epoch']} (--early-stopping {settings.optimization.early_stopping})")  # fmt: skip
        if is_main_process():
            directory.write_metrics(state.history)  # a run killed after its last checkpoint may lack the last row
        distributed.barrier()  # until the main process has written best.pth
        written = _score_and_report(settings, data, directory, state, site, facts)
    except BaseException as error:
        saver.close()
        progress.close()
        tracker.stop(failed=not isinstance(error, Stopped), preempted=isinstance(error, Stopped))
        raise
    distributed.barrier()
    tracker.finish(summary.scalars(written), {"curves": directory.curves, "confusion": directory.confusion})


def _score_and_report(
    settings: Settings, data: RunData, directory: RunDirectory, state: RunState, site: Site, more_facts: dict[str, Any]
) -> dict[str, Any]:
    """Scores the test split once, with the selected weights, and writes all results. Returns the summary."""
    hardware, optimization = settings.hardware, settings.optimization
    selected = bool(state.best.get("score"))
    test_batches = data.eval_batches("test", site.device, optimization.batch_size)
    best = checkpoint.load_checkpoint(directory.best)
    facts = {
        "split": data.dataset.test_name,
        "selected_on": data.selected_on,
        "selected_by": optimization.select_by if selected else None,
        **summary.precisions(hardware.precision, selected, hardware.eval_precision),
        "params": cost.count_parameters(state.model),
        "trained_params": cost.count_parameters(state.model, trainable=True),
        **more_facts,
        "epochs": optimization.epochs,
        "trained_epochs": state.epoch,
        "best_epoch": state.best["epoch"],
        "weights": state.best["weights"],
        "train_seconds": round(state.train_seconds, 3),
        "peak_memory": devices.peak_memory(site.device),
        "rollbacks": state.rollbacks,
        "processes": world_size(),
        "images": {"train": len(data.train), "val": len(data.val or ()), "test": len(data.dataset.test)},
        "notes": [*data.dataset.notes, *_note_on_weights(settings), *continuing.notes(directory.extensions())],
        "image_digests": data.image_digests,
        "settings": settings.stored(),
    }
    scores = evaluation.score(
        state.model, best, test_batches, data.dataset.class_names, hardware.eval_precision, site.stop,
        settings.augmentation.tta,
    )  # fmt: skip
    title = f"{settings.model.model} on {data.dataset.name}"
    facts["bad_images"] = data.bad_images.finish()
    if not is_main_process():
        return {}
    selected_there = settings.data.select_on == "reported"
    summary.plot_history(directory, state.history, state.best, title, facts["split"], scores, selected_there)
    return summary.write(directory, scores, facts, data.dataset.class_names)


def _note_on_weights(settings: Settings) -> list[str]:
    kind = settings.model.weights_kind
    return [] if kind is None else [f"training started from the {KINDS[kind]} weights in {settings.model.weights}"]
