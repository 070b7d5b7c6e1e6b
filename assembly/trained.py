"""From a checkpoint to a model that is ready to be used, and its data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import models
from image_datasets.bad_images import Report
from image_datasets.batches import EvalBatches
from image_datasets.reading import SETTINGS, Reading
from image_datasets.registry import Found
from image_datasets.splits import Split
from records import checkpoint
from settings import checks
from settings.stored import blaming, check_settings
from utils import BadRequest


def read_for_use(path: str, given_model: str | None, kind: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """(the model of a checkpoint, in eval mode; the checkpoint). Raises BadRequest for what is none.

    Args:
        kind: of its weights, "raw" or "ema"; None: those that were selected.
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


def check_stored_data(s: SimpleNamespace, given: dict[str, Any], stored: dict[str, Any], source: str) -> Found:
    """`options.check_data`; where no data set is named it is that of the run whose checkpoint is `source`."""
    own = {}
    if s.dataset is None and s.data_path is None:
        own["data_path"] = s.data_path = stored["data_path"]
    s.dataset = s.dataset or stored["dataset"]
    read_alike(s, stored)
    with blaming(source, own):
        return checks.check_data(s, given)
