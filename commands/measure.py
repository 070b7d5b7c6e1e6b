"""Measures the robustness of finished runs and their cost on this machine. `main.py --measure`."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from analysis.robustness import measure_robustness
from analysis.speed import CostSubject, SteadyTrainer, measure_cost
from assembly import trainee
from assembly.trained import batches_for, read_trained
from image_datasets.dataset import Dataset
from records import checkpoint, finished_runs, membership
from records.finished_runs import FinishedRun
from records.log import say
from settings.checks import Asked
from settings.flag import with_defaults
from settings.groups import FLAGS, Settings
from settings.locate import locate_data
from settings.stored import blaming
from training import devices
from training.devices import machine_errors_as_run_failed
from utils import BadRequest, RunFailed, human, write_json

BATCH_SIZES = {"cuda": 128}  # for cost.json, by type of device, if none is given
ELSEWHERE = 32
STALE = 0.01  # largest change of top-1 that another precision explains


@dataclass
class Job:
    """The request, which is the same for every run.

    Attributes:
        datasets: the data set that was read last, to reuse it for the next run.
    """

    asked: Asked
    device: torch.device
    datasets: dict[tuple, tuple[Dataset, dict[str, Any]]] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return self.asked.settings


def run_measurements(asked: Asked) -> None:
    """Measures each given run, unless it is measured already. A failure does not stop the others.

    Raises BadRequest or RunFailed at the end if a run failed.
    """
    hardware, batch_size = asked.settings.hardware, asked.settings.optimization.batch_size
    runs = finished_runs.find(asked.request.to_do.measure or [])
    device = devices.set_up(hardware.device, hardware.gpu, hardware.precision, hardware.eval_precision,
                            tf32=True)  # fmt: skip
    say(f"device        {devices.describe_device(device)}")
    job, failures = Job(asked, device), []
    for run in runs:
        try:
            with machine_errors_as_run_failed(lambda: f"--batch-size {batch_size}; try half of it"):
                _measure(run, job)
        except (BadRequest, RunFailed) as error:
            failures.append(error)
            if len(runs) > 1:
                say(f"{run.directory.path}: not measured: {error}")
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise type(failures[0])(f"{len(failures)} of {len(runs)} runs could not be measured; first: {failures[0]}")


def _measure(run: FinishedRun, job: Job) -> None:
    files = {"corruptions": run.directory.robustness, "speed": run.directory.cost}
    overwrite = job.settings.run.overwrite
    wanted = [kind for kind in files if getattr(job.asked.request.to_measure, kind)]
    for kind in wanted:
        if files[kind].is_file() and not overwrite:
            say(f"{files[kind]}: is there already; --overwrite measures anew")
    wanted = [kind for kind in wanted if overwrite or not files[kind].is_file()]
    if not wanted:
        return
    model, content = read_trained(str(run.checkpoint))
    model = model.to(job.device, memory_format=torch.channels_last)
    if "corruptions" in wanted:
        dataset, known = _dataset(run, job, content)
        for note in known["notes"]:
            say(f"{run.directory.path}: {note}")
        checkpoint.match_classes(str(run.checkpoint), content, dataset.class_names, dataset.name)
        write_json(files["corruptions"], {**_robustness(run, job, model, content, dataset), **known})
    if "speed" in wanted:
        write_json(files["speed"], _cost(run, job, model, content))


def _dataset(run: FinishedRun, job: Job, content: dict[str, Any]) -> tuple[Dataset, dict[str, Any]]:
    """Returns `membership.load_scored` of the run, with data from the given folder or else from the run's own."""
    given = job.settings.data
    of_run = {
        "dataset": run.dataset,
        "data_path": given.data_path or run.data_path,
        **run.reading,
        "max_pixels": given.max_pixels or run.reading["max_pixels"],
    }
    digests = content.get("image_digests")
    key = (json.dumps(of_run), json.dumps(digests), None if digests else str(run.checkpoint))
    if key not in job.datasets:
        with blaming(run.directory.summary, {} if given.data_path else {"data_path": run.data_path}):
            data, found = locate_data(dataclasses.replace(given, **of_run), job.asked.given, with_train=False)
        job.datasets.clear()
        job.datasets[key] = membership.load_scored(
            found, str(run.checkpoint), content, run.is_evaluation, data.accept_changed_data, data.num_workers
        )
    return job.datasets[key]


def _robustness(
    run: FinishedRun, job: Job, model: nn.Module, content: dict[str, Any], dataset: Dataset
) -> dict[str, Any]:
    """Measures, prints and returns the content of robustness.json."""
    began = time.perf_counter()
    settings, precision = job.settings, job.settings.hardware.eval_precision
    total = len(dataset.test)
    count = min(job.asked.request.to_measure.corrupt_images or total, total)
    indices = np.arange(count) * total // count
    split = dataset.test if count == total else dataset.test.subset(indices)
    batches = batches_for(content, split, job.device, settings.optimization.batch_size, settings.data.num_workers)
    found = measure_robustness(model, batches, indices, precision)
    say(f"{run.directory.path}: top-1 {100 * found['clean']['top1']:.2f} %, mean corruption error"
        f" {100 * found['mean_corruption_error']:.2f} % on {count:,} images of {dataset.test_name}, {precision},"
        f" {time.perf_counter() - began:.1f} s")  # fmt: skip
    if count == total and abs(found["clean"]["top1"] - run.top1) > STALE:
        say(f"warning: the run itself reported a top-1 of {100 * run.top1:.2f} %: are these the same images?")
    for name, top1 in found["corruptions"].items():
        say(f"  {name:15}{'  '.join(f'{100 * value:6.2f} %' for value in top1)}")
    return {"split": dataset.test_name, **found, "device": job.device.type, "precision": precision}


def _cost(run: FinishedRun, job: Job, model: nn.Module, content: dict[str, Any]) -> dict[str, Any]:
    """Measures, prints and returns the content of cost.json."""
    if "optimizer" not in content["settings"]:
        raise BadRequest(f"{run.checkpoint}: does not say how the model was trained, so --speed cannot repeat it")
    num_classes = checkpoint.num_classes(content)
    settings = Settings.of({**with_defaults({}, FLAGS), **content["settings"]})
    fast = settings.hardware.channels_last  # what is timed is not compiled
    precision = devices.choose_precision(job.settings.hardware.precision, job.device, model, fast)

    def make_trainer() -> SteadyTrainer:
        return steady_trainer(settings, copy.deepcopy(model), num_classes, job.device, precision)

    name, size, chans = settings.model.model, content["img_size"], content["in_chans"]
    subject = CostSubject(model, make_trainer, name, num_classes, size, chans, job.device, precision)
    most = job.asked.given.get("batch_size") or BATCH_SIZES.get(job.device.type, ELSEWHERE)
    found = measure_cost(subject, most)
    memory = "" if found["peak_memory"] is None else f", {human(found['peak_memory'])}B at most"
    say(f"{run.directory.path}: {found['train_images_per_second']:,.0f} images/s in training,"
        f" {found['inference_images_per_second']:,.0f} in inference, batches of {found['batch_size']}, {precision};"
        f" {found['inference_latency_ms']:.2f} ms for one image{memory}")  # fmt: skip
    return found


def steady_trainer(
    settings: Settings, model: nn.Module, num_classes: int, device: torch.device, precision: str
) -> SteadyTrainer:
    """Returns a trainer whose steps are those of the run at learning rate 0: they cost the same and cannot diverge."""
    trainee.prepare(model, settings.model)
    optimization = dataclasses.replace(settings.optimization, accumulate=1, head_lr=None, lr_base_size=None)
    state = trainee.make_state(model, optimization, num_classes, device, precision)
    config = trainee.make_config(
        optimization, settings.loss, settings.augmentation, num_classes, 1, seed=0, precision=precision
    )
    return SteadyTrainer(state, state.model, dataclasses.replace(config, learning_rate=lambda step: 0.0))
