"""Using a trained checkpoint: scoring it on a data set, and naming what is in an image."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from analysis import cost
from assembly.trained import batches_for, check_stored_data, read_for_use
from image_datasets.bad_images import BadImages
from records import checkpoint, lock, membership, run_directory, summary
from records.log import logged, open_log, say
from records.run_directory import RunDirectory, this_attempt
from records.wandb_run import Wandb
from training import devices, evaluation


@logged()
def run_evaluation(s: SimpleNamespace, given: dict[str, Any]) -> None:
    """Scores a checkpoint on the test split of a data set, its own if no other is named."""
    with devices.machine_errors_as_run_failed(lambda: f"--batch-size {s.batch_size}; try half of it"):
        _run_evaluation(s, given)


def _run_evaluation(s: SimpleNamespace, given: dict[str, Any]) -> None:
    model, content = read_for_use(s.evaluate, given.get("model"))
    stored = content["settings"]
    found = check_stored_data(s, given, stored, s.evaluate)
    named = s.run_name is not None
    if not named:
        s.run_name = f"{stored['run_name']}-on-{s.dataset}"
    directory = RunDirectory(Path(s.runs_dir) / s.run_name)
    run_directory.check_run_directory(directory.path, None, s.overwrite, needed=s.evaluate)
    device = devices.set_up(s.device, s.gpu, eval_precision=s.eval_precision)
    other = "dataset" in given or "data_path" in given
    dataset, known = membership.load_scored(found, s.evaluate, content, other, s.accept_changed_data, s.num_workers)
    checkpoint.match_classes(s.evaluate, content, dataset.class_names, dataset.name)
    flops = cost.count_flops(model, content["img_size"], content["in_chans"], stored["model"])
    bad_images = BadImages()
    report = bad_images.of("test") if s.on_bad_image == "skip" else None
    batches = batches_for(content, dataset.test, device, s.batch_size, s.num_workers, report)
    say(f"model         {stored['model']} from {s.evaluate}, epoch {content['best']['epoch']}")
    say(f"data          {dataset.name}: {dataset.test_name}, {len(batches.split):,} images")
    for note in known["notes"]:
        say(f"note          {note}")
    say(f"device        {devices.describe_device(device)}, {s.eval_precision}")
    model = model.to(device, memory_format=torch.channels_last)
    scores = evaluation.score(model, content, batches, dataset.class_names, s.eval_precision)
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
        **summary.precisions(stored.get("precision"), bool(content["best"].get("score")), s.eval_precision),
        "params": cost.count_parameters(model),
        "flops": flops,
        "epochs": stored["epochs"],
        "best_epoch": content["best"]["epoch"],
        "weights": content["best"]["weights"],
        "train_seconds": content["train_seconds"] and round(content["train_seconds"], 3),
        "peak_memory": devices.peak_memory(device),
        "images": {"test": len(batches.split)},
        "notes": dataset.notes + known.pop("notes"),
        **known,
        "settings": settings,
    }
    with lock.locked(directory.path):
        run_directory.check_run_directory(
            directory.path, None, s.overwrite, needed=s.evaluate
        )  # another may have come first
        attempt = this_attempt(devices.device_name(device))
        run_id = directory.create(settings, s.overwrite, attempt)
        open_log(directory.log, attempt)
        if s.on_bad_image == "skip":
            bad_images.keep_in(directory.bad_images)
        facts["bad_images"] = bad_images.finish()
        wandb = Wandb(s.wandb, s.wandb_project, s.run_name, run_id, directory.path, settings, s.wandb_group, named)
        written = summary.write(directory, scores, facts, dataset.class_names)
    wandb.finish(summary.scalars(written), {"confusion": directory.confusion})
