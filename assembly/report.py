"""Writes the run directory of a model that was scored, but not trained: of an evaluation, or of averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from analysis import cost
from image_datasets.bad_images import BadImages
from records import checkpoint, lock, summary
from records.log import open_log
from records.run_directory import RunDirectory, check_run_directory, this_attempt
from records.wandb_run import Wandb
from settings.groups import Run
from training import devices


def check_new(directory: RunDirectory, overwrite: bool, needed: Sequence[str]) -> None:
    """Raises BadRequest if the run directory must not be created, or replaced.

    Args:
        needed: files that must not be deleted with it.
    """
    for file in needed:
        check_run_directory(directory.path, None, overwrite, needed=file)


def facts_of_checkpoint(
    model: nn.Module, content: dict[str, Any], flops: int, eval_precision: str, path: str | None = None
) -> dict[str, Any]:
    """Returns the summary's facts on the model of a checkpoint and its training.

    Args:
        path: the checkpoint's file; None if it has none yet.
    """
    stored = content["settings"]
    chosen, epoch = _is_selected(content, path), epoch_of(content)
    where = f"within epoch {content['epoch'] + 1}" if content.get("batch") else f"epoch {epoch}"
    selected = chosen and bool(content["best"].get("score"))
    seconds = content["train_seconds"]
    return {
        "selected_on": content["selected_on"] if chosen else f"{where}, not selected",
        "selected_by": stored["select_by"] if selected else None,
        **summary.precisions(stored.get("precision"), selected, eval_precision),
        "params": cost.count_parameters(model),
        "flops": flops,
        "epochs": stored["epochs"],
        "best_epoch": epoch,
        "weights": checkpoint.selected_kind(content),
        "train_seconds": seconds and round(seconds, 3),
    }


def _is_selected(content: dict[str, Any], path: str | None) -> bool:
    """Whether a checkpoint holds what its run selected. An epoch-N.pth may have been the best one of its time only."""
    if not checkpoint.holds_best(content):
        return False
    run = RunDirectory(Path(path or "").parent)
    kept = path is not None and Path(path) in run.kept_epochs().values()
    return not kept or not run.best.is_file() or checkpoint.load_checkpoint(run.best).get("epoch") == content["epoch"]


def epoch_of(content: dict[str, Any]) -> int | None:
    """The epoch of a checkpoint's weights, from 1; None if it is not known. Only in best.pth it is the best one."""
    return content.get("epoch", content["best"].get("epoch"))


def write_run(
    directory: RunDirectory,
    run: Run,
    device: torch.device,
    needed: Sequence[str],
    scores: dict[str, Any],
    facts: dict[str, Any],
    class_names: list[str],
    bad_images: BadImages | None,
    add_files: Callable[[], None] = lambda: None,
) -> None:
    """Creates the run directory, writes the results into it and logs them to wandb.

    Args:
        run: flags of the run directory and of wandb.
        needed: see `check_new`.
        scores, facts: see `summary.write`; the facts' "settings" are those of the run.
        bad_images: unreadable images that were left out; None: such an image stops the run.
        add_files: called between settings.json and the results.

    Raises BadRequest if the directory exists and must not be replaced, or cannot be written.
    """
    settings = facts["settings"]
    with lock.locked(directory.path):
        check_new(directory, run.overwrite, needed)  # another process may be first
        attempt = this_attempt(devices.device_name(device))
        run_id = directory.create(settings, run.overwrite, attempt)
        open_log(directory.log, attempt)
        add_files()
        if bad_images is not None:
            bad_images.write_to(directory.bad_images)
        facts = {**facts, "bad_images": (bad_images or BadImages()).finish()}
        wandb = Wandb(run.wandb, run.wandb_project, settings["run_name"], run_id, directory.path, settings,
                      run.wandb_group, run.run_name is not None)  # fmt: skip
        written = summary.write(directory, scores, facts, class_names)
    wandb.finish(summary.scalars(written), {"confusion": directory.confusion})
