"""Using a trained checkpoint: scoring it on a data set, and naming what is in an image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import models
from data_transform import Fit, Normalize, image_transform
from image_datasets.bad_images import BadImages, Report
from image_datasets.batches import EvalBatches
from image_datasets.dataset import LocatedDataset
from image_datasets.decode import read_pixels
from image_datasets.reading import SETTINGS, Reading
from image_datasets.splits import Split
from training import checkpoint, cost, lock, membership, options, processes, results
from training.run_directory import RunDirectory, this_attempt
from training.stored import blaming
from training.tracking import Wandb, logged, open_log, say
from utils import BadRequest


def read_for_use(path: str, given_model: str | None, kind: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """(the model of a checkpoint, in eval mode; the checkpoint). Raises BadRequest for what is none.

    Args:
        kind: of its weights, "raw" or "ema"; None: those that were selected.
    """
    content = checkpoint.load_checkpoint(Path(path))
    stored = content["settings"]
    if given_model is not None and given_model != stored["model"]:
        raise BadRequest(f"--model {given_model}: {path} is a checkpoint of {stored['model']}")
    model = models.create_model(
        stored["model"],
        checkpoint.num_classes(content),
        content["img_size"],
        content["in_chans"],
        **stored["model_args"],
    )
    weights = checkpoint.selected_weights(content, kind)
    if weights is None:
        raise BadRequest(f"{path}: holds no averaged weights, only raw ones")
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadRequest(f"{path}: its weights are not those of a {stored['model']} ({reason})") from None
    return model.eval(), content


def read_alike(s: SimpleNamespace, stored: dict[str, Any]) -> None:
    """Images are read as the run that stored these settings read its own. Which are too large may be asked for anew."""
    if s.max_pixels is not None:
        stored["max_pixels"] = s.max_pixels
    vars(s).update({key: stored[key] for key in SETTINGS})


def batches_for(
    content: dict[str, Any],
    split: Split,
    device: torch.device,
    batch_size: int,
    workers: int,
    report: Report | None = None,
) -> EvalBatches:
    """Evaluation batches of a split as the model of a checkpoint wants them."""
    mean, std = (tuple(content[key]) for key in ("mean", "std"))
    reading = replace(Reading.of(content["settings"]), max_pixels=split.reading.max_pixels)
    split = replace(split.with_channels(content["in_chans"]), reading=reading)
    crop = content["eval_crop"]
    mode = content["settings"]["resize_mode"]
    return EvalBatches(
        split, content["img_size"], mean, std, device, batch_size, workers, crop, report=report, resize_mode=mode
    )


def check_stored_data(s: SimpleNamespace, given: dict[str, Any], stored: dict[str, Any], source: str) -> LocatedDataset:
    """`options.check_data`; where no data set is named it is that of the run whose checkpoint is `source`."""
    own = {}
    if s.dataset is None and s.data_path is None:
        own["data_path"] = s.data_path = stored["data_path"]
    s.dataset = s.dataset or stored["dataset"]
    read_alike(s, stored)
    with blaming(source, own):
        return options.check_data(s, given)


@logged()
def run_evaluation(s: SimpleNamespace, given: dict[str, Any]) -> None:
    """Scores a checkpoint on the test split of a data set, its own if no other is named."""
    with processes.one_line_failures(lambda: f"--batch-size {s.batch_size}; try half of it"):
        _run_evaluation(s, given)


def _run_evaluation(s: SimpleNamespace, given: dict[str, Any]) -> None:
    model, content = read_for_use(s.evaluate, given.get("model"))
    stored = content["settings"]
    found = check_stored_data(s, given, stored, s.evaluate)
    named = s.run_name is not None
    if not named:
        s.run_name = f"{stored['run_name']}-on-{s.dataset}"
    directory = RunDirectory(Path(s.runs_dir) / s.run_name)
    options.check_run_directory(directory.path, None, s.overwrite, needed=s.evaluate)
    device = processes.set_up(s.device, s.gpu, eval_precision=s.eval_precision)
    other = "dataset" in given or "data_path" in given
    dataset, known = membership.load_scored(found, s.evaluate, content, other, s.accept_changed_data, s.num_workers)
    checkpoint.settle_classes(s.evaluate, content, dataset.class_names, dataset.name)
    flops = cost.count_flops(model, content["img_size"], content["in_chans"], stored["model"])
    bad_images = BadImages()
    report = bad_images.of("test") if s.on_bad_image == "skip" else None
    batches = batches_for(content, dataset.test, device, s.batch_size, s.num_workers, report)
    say(f"model         {stored['model']} from {s.evaluate}, epoch {content['best']['epoch']}")
    say(f"data          {dataset.name}: {dataset.test_name}, {len(batches.split):,} images")
    for note in known["notes"]:
        say(f"note          {note}")
    say(f"device        {processes.describe(device)}, {s.eval_precision}")
    model = model.to(device, memory_format=torch.channels_last)
    scores = results.score(model, content, batches, dataset.class_names, s.eval_precision)
    settings = {
        **stored,
        "run_name": s.run_name,
        "dataset": s.dataset,
        "data_path": s.data_path,
        "on_bad_image": s.on_bad_image,
        "eval_precision": s.eval_precision,
        "evaluated": s.evaluate,
    }
    facts = {
        "split": dataset.test_name,
        "selected_on": content["selected_on"],
        "selected_by": stored["select_by"] if content["best"].get("score") else None,
        **results.precisions(stored.get("precision"), bool(content["best"].get("score")), s.eval_precision),
        "params": cost.count_parameters(model),
        "flops": flops,
        "epochs": stored["epochs"],
        "best_epoch": content["best"]["epoch"],
        "weights": content["best"]["weights"],
        "train_seconds": content["train_seconds"] and round(content["train_seconds"], 3),
        "peak_memory": processes.peak_memory(device),
        "images": {"test": len(batches.split)},
        "notes": dataset.notes + known.pop("notes"),
        **known,
        "settings": settings,
    }
    with lock.locked(directory.path):
        options.check_run_directory(directory.path, None, s.overwrite, needed=s.evaluate)  # another may have come first
        attempt = this_attempt(processes.device_name(device))
        run_id = directory.create(settings, s.overwrite, attempt)
        open_log(directory.log, attempt)
        if s.on_bad_image == "skip":
            bad_images.write_to(directory.bad_images)
        facts["bad_images"] = bad_images.finish()
        wandb = Wandb(s.wandb, s.wandb_project, s.run_name, run_id, directory.path, settings, s.wandb_group, named)
        summary = results.write(directory, scores, facts, dataset.class_names)
    wandb.finish(results.scalars(summary), {"confusion": directory.confusion})


@torch.inference_mode()
@processes.without_tf32()
def run_prediction(s: SimpleNamespace) -> None:
    """Prints the most probable classes of image files, with their probabilities."""
    path, *files = s.predict
    model, content = read_for_use(path, None)
    device = processes.set_up(s.device, s.gpu, eval_precision=s.eval_precision)
    fit = Fit.of(content["settings"]["resize_mode"], content["mean"])
    transform = image_transform(None, content["img_size"], content["eval_crop"], fit)
    read_alike(s, content["settings"])
    reading = Reading.of(vars(s))
    images = [transform(read_pixels(file, content["in_chans"], reading)) for file in files]
    normalize = Normalize(tuple(content["mean"]), tuple(content["std"]), device)
    with processes.autocast(device, s.eval_precision):
        logits = model.to(device)(normalize(torch.stack(images).to(device)))
    probabilities = logits.float().softmax(1).cpu()
    names = content["class_names"]
    top = probabilities.topk(min(5, probabilities.shape[1]))
    for file, values, classes in zip(files, top.values.tolist(), top.indices.tolist(), strict=True):
        print(file)
        for value, index in zip(values, classes, strict=True):
            print(f"  {100 * value:6.2f} %  {names[index] if names else f'class {index}'}")
