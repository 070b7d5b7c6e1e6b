"""Loads the model of a checkpoint in eval mode, and the data for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from image_datasets.bad_images import Report
from image_datasets.batches import EvalBatches
from image_datasets.dataset import CHOICE, LocatedDataset
from image_datasets.reading import SETTINGS, Reading
from image_datasets.splits import Split
from records import checkpoint
from settings.groups import Data
from settings.locate import locate_data
from settings.stored import blaming, check_settings
from utils import BadRequest


def read_trained(
    path: str, given_model: str | None = None, kind: str | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Returns (the model of a checkpoint in eval mode, the content of the checkpoint).

    Args:
        path: file of the checkpoint.
        given_model: value of --model, which must match the checkpoint.
        kind: weights to load, "raw" or "ema"; None for the selected ones.

    Raises BadRequest if the file is no checkpoint, is of another model, or lacks weights that fit.
    """
    content = checkpoint.load_checkpoint(Path(path))
    stored = content["settings"]
    if "earlier" not in stored:  # a legacy checkpoint stores the arguments of another script
        check_settings(stored, path)
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


def read_alike(group: Data, stored: dict[str, Any]) -> Data:
    """Returns the group with the reading rules of the run that stored these settings.

    A given --max-pixels replaces the stored one.
    """
    values = {key: stored[key] for key in SETTINGS}
    if group.max_pixels is not None:
        values["max_pixels"] = group.max_pixels
    return dataclasses.replace(group, **values)


def locate_stored(
    group: Data, given: dict[str, Any], stored: dict[str, Any], source: str
) -> tuple[Data, LocatedDataset]:
    """Locates the data set that is given, or else that of a run. Raises BadRequest like `locate_data`.

    Args:
        given: the given flags, by key.
        stored: settings of the run, whose reading rules are used.
        source: checkpoint of the run, for errors.
    """
    own = {}
    if group.dataset is None:
        own = {key: stored.get(key) for key in CHOICE if key not in given}
        if group.data_path is None:
            own["data_path"] = stored["data_path"]
        group = dataclasses.replace(group, dataset=stored["dataset"], **own)
    with blaming(source, own):
        return locate_data(read_alike(group, stored), given, with_train=False)


def batches_for(
    content: dict[str, Any],
    split: Split,
    device: torch.device,
    batch_size: int,
    workers: int,
    report: Report | None = None,
) -> EvalBatches:
    """Returns evaluation batches of a split with the image size, channels and normalisation of a checkpoint."""
    mean, std = (tuple(content[key]) for key in ("mean", "std"))
    stored = content["settings"]
    reading = dataclasses.replace(Reading.of(stored), max_pixels=split.reading.max_pixels)
    split = dataclasses.replace(split.with_channels(content["in_chans"]), reading=reading)
    return EvalBatches(split, content["img_size"], mean, std, device, batch_size, workers, content["eval_crop"],
                       report=report, resize_mode=stored["resize_mode"])  # fmt: skip
