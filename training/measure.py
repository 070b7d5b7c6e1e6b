"""Measuring finished runs: how robust their models are, and what they cost here. `main.py --measure`."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from image_datasets.dataset import Dataset
from training import checkpoint, membership, options, processes
from training.flags import GROUPS
from training.measurable import Measurable
from training.robustness import measure_robustness
from training.speed import Subject, measure_cost
from training.stored import blaming
from training.tracking import say
from training.use import batches_for, read_for_use
from utils import BadRequest, RunFailed, human, write_json

BATCH_SIZES = {"cuda": 128}  # of cost.json, if none is given
ELSEWHERE = 32
STALE = 0.01  # by how much another precision may change top-1


def run_measurements(s: SimpleNamespace, given: dict[str, Any]) -> None:
    """Measures what is asked for of each of `s.measure`, unless it is measured already. A run that cannot be measured
    does not keep the others from it.

    Raises BadRequest or RunFailed at the end, where there was such a run.
    """
    device = processes.set_up(s.device, s.gpu, s.precision, s.eval_precision)
    say(f"device        {processes.describe(device)}")
    failures: list[Exception] = []
    datasets: dict[tuple, tuple] = {}
    for run in s.measure:
        try:
            with processes.one_line_failures(lambda: f"--batch-size {s.batch_size}; try half of it"):
                _measure(run, s, given, device, datasets)
        except (BadRequest, RunFailed) as error:
            failures.append(error)
            if len(s.measure) > 1:
                say(f"{run.directory.path}: not measured: {error}")
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise type(failures[0])(f"{len(failures)} of {len(s.measure)} runs could not be measured; first: {failures[0]}")


def _measure(
    run: Measurable, s: SimpleNamespace, given: dict[str, Any], device: torch.device, datasets: dict[tuple, tuple]
) -> None:
    """Args: datasets: filled with the data set that was read last, for the next run."""
    files = {"corruptions": run.directory.robustness, "speed": run.directory.cost}
    wanted = [kind for kind in files if getattr(s, kind)]
    for kind in wanted:
        if files[kind].is_file() and not s.overwrite:
            say(f"{files[kind]}: is there already; --overwrite measures anew")
    wanted = [kind for kind in wanted if s.overwrite or not files[kind].is_file()]
    if not wanted:
        return
    model, content = read_for_use(str(run.checkpoint), None)
    model = model.to(device, memory_format=torch.channels_last)
    if "corruptions" in wanted:
        dataset, known = _dataset(run, s, given, content, datasets)
        for note in known["notes"]:
            say(f"{run.directory.path}: {note}")
        checkpoint.settle_classes(str(run.checkpoint), content, dataset.class_names, dataset.name)
        write_json(files["corruptions"], {**_robustness(run, s, model, content, dataset, device), **known})
    if "speed" in wanted:
        precision = processes.choose_precision(s.precision, device, model)
        write_json(files["speed"], _cost(run, given, model, content, device, precision))


def _dataset(
    run: Measurable, s: SimpleNamespace, given: dict[str, Any], content: dict[str, Any], datasets: dict[tuple, tuple]
) -> tuple[Dataset, dict[str, Any]]:
    """What `membership.load_scored` gives for the run, from the folder that is given, or else from where it had it."""
    of_run = {
        "dataset": run.dataset,
        "data_path": s.data_path or run.data_path,
        **run.reading,
        "max_pixels": s.max_pixels or run.reading["max_pixels"],
    }
    digests = content.get("image_digests")
    key = (*of_run.values(), json.dumps(digests), None if digests else str(run.checkpoint))
    if key not in datasets:
        with blaming(run.directory.summary, {} if s.data_path else {"data_path": run.data_path}):
            found = options.check_data(SimpleNamespace(**{**vars(s), **of_run}), given)
        datasets.clear()
        datasets[key] = membership.load_scored(
            found, str(run.checkpoint), content, run.is_evaluation, s.accept_changed_data, s.num_workers
        )
    return datasets[key]


def _robustness(
    run: Measurable,
    s: SimpleNamespace,
    model: torch.nn.Module,
    content: dict[str, Any],
    dataset: Dataset,
    device: torch.device,
) -> dict[str, Any]:
    """The content of robustness.json."""
    began = time.perf_counter()
    total = len(dataset.test)
    count = min(s.corrupt_images or total, total)
    indices = np.arange(count) * total // count
    split = dataset.test if count == total else dataset.test.subset(indices)
    found = measure_robustness(
        model, batches_for(content, split, device, s.batch_size, s.num_workers), indices, s.eval_precision
    )
    say(f"{run.directory.path}: top-1 {100 * found['clean']['top1']:.2f} %, mean corruption error"
        f" {100 * found['mean_corruption_error']:.2f} % on {count:,} images of {dataset.test_name}, {s.eval_precision},"
        f" {time.perf_counter() - began:.1f} s")  # fmt: skip
    if count == total and abs(found["clean"]["top1"] - run.top1) > STALE:
        say(f"warning: the run itself reported a top-1 of {100 * run.top1:.2f} %: are these the same images?")
    for name, top1 in found["corruptions"].items():
        say(f"  {name:15}{'  '.join(f'{100 * value:6.2f} %' for value in top1)}")
    return {"split": dataset.test_name, **found, "device": device.type, "precision": s.eval_precision}


def _cost(
    run: Measurable,
    given: dict[str, Any],
    model: torch.nn.Module,
    content: dict[str, Any],
    device: torch.device,
    precision: str,
) -> dict[str, Any]:
    """The content of cost.json."""
    if "optimizer" not in content["settings"]:
        raise BadRequest(f"{run.checkpoint}: does not say how the model was trained, so --speed cannot repeat it")
    subject = Subject(
        model,
        options.complete(content["settings"], GROUPS),
        checkpoint.num_classes(content),
        content["img_size"],
        content["in_chans"],
        device,
        precision,
    )
    found = measure_cost(subject, given.get("batch_size") or BATCH_SIZES.get(device.type, ELSEWHERE))
    memory = "" if found["peak_memory"] is None else f", {human(found['peak_memory'])}B at most"
    say(f"{run.directory.path}: {found['train_images_per_second']:,.0f} images/s in training,"
        f" {found['inference_images_per_second']:,.0f} in inference, batches of {found['batch_size']}, {precision};"
        f" {found['inference_latency_ms']:.2f} ms for one image{memory}")  # fmt: skip
    return found
