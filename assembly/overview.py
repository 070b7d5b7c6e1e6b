"""What a run prints before it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from analysis import cost
from assembly import trainee
from assembly.data import RunData
from records.log import say
from settings import defaults
from settings.groups import Settings
from training import devices
from utils import human, is_distributed, world_size


def print_overview(settings: Settings, data: RunData, model: nn.Module, flops: int, device: torch.device) -> None:
    """Prints what is trained, on which images, and how."""
    dataset, hardware = data.dataset, settings.hardware
    name, images = settings.model.model, settings.optimization.batch_size
    colour = "colour" if dataset.in_chans == 3 else "grey"
    params, trained = cost.count_parameters(model), cost.count_parameters(model, trainable=True)
    say(f"model         {name}: {params:,} parameters{'' if trained == params else f' ({trained:,} trained)'},"
        f" {human(flops)}FLOPs per image")  # fmt: skip
    say(f"data          {dataset.name}: {len(dataset.class_names)} classes, {colour} images of {data.sizes()},"
        f" {'kept on the device' if data.resident else f'streamed by {data.workers} processes'}")  # fmt: skip
    val = "none" if data.val is None else f"{len(data.val):,}"
    say(f"splits        train {len(data.train):,}, validation {val}, {dataset.test_name} {len(dataset.test):,};"
        f" selected on: {data.selected_on}")  # fmt: skip
    for note in dataset.notes:
        say(f"note          {note}")
    if settings.optimization.recipe:
        say(f"recipe        {defaults.describe_recipe(settings)}")
    if settings.distillation.teacher is None and len(cast(Any, model).head_names) > 1:
        say(f"note          {name} has a distillation token, but no --teacher is given: both heads learn the labels")
    tested = "" if hardware.precision == hardware.eval_precision else f"; tested in {hardware.eval_precision}"
    say(f"device        {devices.describe_device(device)}, {hardware.precision}{tested}")
    if is_distributed():
        ranks = world_size()
        say(f"processes     {ranks}: batches of {images} images each, {images * ranks} in all")
    factor, lr = trainee.lr_factor(settings.optimization), settings.optimization.lr
    if factor != 1:
        say(f"learning rate {lr * factor:g} at its peak: --lr {lr:g} times {factor:g}")
    say(f"run           {Path(settings.run.runs_dir) / settings.run.run_name}, seed {hardware.seed}")
