"""Loads weights that others trained, as a teacher or to be scored."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import image_datasets
import models
from assembly.data import NORMALIZATIONS, check_shape, normalized
from assembly.trained import batches_for
from data_transform import EVAL_CROP
from image_datasets import manifest
from image_datasets.dataset import Dataset, LocatedDataset
from models import weight_files
from models import weights as model_weights
from settings.groups import Augmentation, Distillation, Loss, Optimization, Settings
from settings.settle import settle
from training.devices import without_tf32
from training.evaluation import evaluate
from utils import BadRequest, shorten

IMAGENET_CLASSES = 1000
LOOKED_AT = 512  # images on which the normalisations are compared
NOT_KNOWN = (Optimization, Loss, Distillation, Augmentation)  # groups of settings that describe a training


class OfClasses(nn.Module):
    """A model of more classes than the data set has. (N, C, H, W) -> (N, K), the K outputs for the data set's classes.

    Args:
        outputs: index of the model's output for each class of the data set.
    """

    def __init__(self, model: nn.Module, outputs: list[int]):
        super().__init__()
        self.model = model
        self.register_buffer("outputs", torch.tensor(outputs), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)[:, self.outputs]


@dataclass(frozen=True)
class ForeignModel:
    """A model with the weights of a file.

    Attributes:
        outputs: index of the model's output for each class of the data set; None: they are the same.
        model_args: arguments of the constructor, with those that follow from the weights.
        notes: how the weights fit, to print.
        pairs: (name in the file, name of the model) of tensors that were taken by their order.
    """

    module: nn.Module
    img_size: int | list[int]
    outputs: list[int] | None
    model_args: dict[str, Any]
    weights: weight_files.Weights
    notes: list[str]
    pairs: list[tuple[str, str]]


def load_foreign(
    name: str,
    file: str,
    dataset: Dataset,
    img_size: int | list[int],
    model_args: dict[str, Any],
    kind: str | None = None,
    by_order: bool = False,
    teacher: bool = False,
) -> ForeignModel:
    """Loads a state dict into the model `name`. Its head has the data set's classes, or ImageNet-1k's 1000.

    Args:
        kind: of the file's weights, "raw" or "ema", see `weight_files.read_weights`.
        by_order: take the tensors in their order, whatever their names.
        teacher: messages name the flags of a teacher, and a head of ImageNet's classes gets images of 224 px.

    Raises BadRequest if the weights or the classes do not fit.
    """
    weights = weight_files.read_weights(Path(file), kind, by_order)
    args = models.settle_arguments(name, model_args, weights.state)
    notes = notes_on_weights(file, weights, args, model_args)
    num_classes, outputs = len(dataset.class_names), None
    model: Any = models.create_model(name, num_classes, img_size, dataset.in_chans, **args)
    classes = model_weights.classes_of(model, weights.state, file, by_order)
    if classes is not None and classes != num_classes:
        outputs, unknown = imagenet_outputs(dataset)
        if classes != IMAGENET_CLASSES or unknown:
            flag = "--teacher-weights " if teacher else ""
            raise BadRequest(f"{flag}{file}: has {classes} classes, {dataset.name} has {num_classes}")
        notes.append(f"of the {classes} outputs those of the data set's {num_classes} classes are used, by WordNet id")
        img_size = 224 if teacher else img_size
        model = models.create_model(name, classes, img_size, dataset.in_chans, **args)
    notes += model_weights.load(model, weights.state, file, weights.img_size, False, by_order, teacher)
    return ForeignModel(model, img_size, outputs, args, weights, notes, model.load_pairs)


def notes_on_weights(
    file: str, weights: weight_files.Weights, args: dict[str, Any], given: dict[str, Any]
) -> list[str]:
    """Returns a sentence for each choice that a file of weights makes, besides that of their kind.

    Args:
        args: arguments of the model, with those that follow from the weights; `given`: without.
    """
    follows = {key: value for key, value in args.items() if key not in given}
    shortcut = [f"{file} has convolutions as shortcuts: the model is built with shortcut B"]
    return weights.notes + (shortcut if follows.get("shortcut") == "B" else [])


def note_on_kind(file: str, weights: weight_files.Weights) -> list[str]:
    """Returns a sentence on which weights are taken, if the file holds raw and averaged ones."""
    if not weights.others:
        return []
    return [f"{file} holds raw and averaged ones: the {weight_files.KINDS[weights.kind]} ones are taken,"
            f" --weights-kind {weight_files.other_kind(weights.kind)} takes the others"]  # fmt: skip


def imagenet_outputs(dataset: Dataset) -> tuple[list[int], list[str]]:
    """Returns (the ImageNet-1k index of each class of the data set, by WNID; the classes that ImageNet lacks)."""
    from timm.data import ImageNetInfo

    index = {wnid: i for i, wnid in enumerate(ImageNetInfo("imagenet-1k").label_names())}
    wnids = dataset.wnids or dataset.class_names
    return [index[wnid] for wnid in wnids if wnid in index], [wnid for wnid in wnids if wnid not in index]


# ------------------------------------------------------------------------------------------------------------- scoring


def read_scored(
    settings: Settings, found: LocatedDataset, given: dict[str, Any], device: torch.device
) -> tuple[nn.Module, dict[str, Any], Dataset, dict[str, Any]]:
    """Loads the data set, and the model of --evaluate with weights that others trained.

    Returns:
        (model in eval mode, what a checkpoint of this suite would hold, data set, facts for the summary).

    Raises BadRequest if the weights or a flag do not fit the data set.
    """
    file = str(settings.model.weights)
    dataset = image_datasets.load_dataset(found, workers=settings.data.num_workers)
    settings = settle(_normalization(settings, dataset, given), dataset)
    data, group = settings.data, settings.model
    stored = dataset.with_channels(data.in_chans)
    dataset = dataclasses.replace(normalized(stored, data.normalization, group.model), notes=list(dataset.notes))
    check_shape(data, dataset)
    loaded = load_foreign(group.model, file, dataset, data.img_size, group.model_args, group.weights_kind,
                          group.weights_by_order)  # fmt: skip
    model = loaded.module if loaded.outputs is None else OfClasses(loaded.module, loaded.outputs)
    weights, keeps_size = loaded.weights, dataset.test.images is not None or dataset.streamed_side == data.img_size
    settings = settings.replace(model_args=loaded.model_args, weights_kind=weights.kind if weights.others else None)
    unknown = {key: None for kind in NOT_KNOWN for key in kind.__dataclass_fields__}
    unknown |= dict.fromkeys(("val_fraction", "train_fraction", "select_on", "precision"))
    name = f"{Path(file).stem}"
    content = {
        "model": model.state_dict() if weights.kind == "raw" else None,
        "ema": model.state_dict() if weights.kind == "ema" else None,
        "best": {"epoch": None, "weights": weights.kind},
        "settings": {**settings.stored(), **unknown, "run_name": name},
        "class_names": dataset.class_names,
        "wnids": dataset.wnids,
        "mean": dataset.mean,
        "std": dataset.std,
        "img_size": data.img_size,
        "in_chans": dataset.in_chans,
        "eval_crop": 1.0 if keeps_size else EVAL_CROP,
        "selected_on": "not known (weights of others)",
        "train_seconds": None,
    }
    model = model.eval().to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    notes = [*note_on_kind(file, weights), *loaded.notes, _compare(model, content, stored, settings, device)]
    digests = manifest.digests({"test": dataset.test}, dataset.class_names)
    return model, content, dataset, {"notes": notes, "image_digests": digests, "pairs": loaded.pairs}


def _normalization(settings: Settings, dataset: Dataset, given: dict[str, Any]) -> Settings:
    """Replaces the statistics of training images that are not there. Raises BadRequest if they are asked for."""
    if len(dataset.train) or settings.data.normalization != "dataset":
        return settings
    if "normalization" in given:
        raise BadRequest(f"--normalization dataset: {dataset.name} has no training images; imagenet and half are left")
    return settings.replace(normalization="imagenet")


@without_tf32()
def _compare(
    model: nn.Module, content: dict[str, Any], stored: Dataset, settings: Settings, device: torch.device
) -> str:
    """Returns a sentence with the top-1 of each normalisation on training images, as the file does not tell its own.

    Args:
        stored: the data set as it is stored, with the model's channels.
    """
    used = settings.data.normalization
    split, which = (stored.train, "training") if len(stored.train) else (stored.val, "validation")
    kinds = [kind for kind in NORMALIZATIONS if kind != "dataset" or len(stored.train)]
    chooses = "--normalization chooses another"
    if split is None or not len(split):
        return f"the file does not tell how its images were normalised: {used}, of {shorten(kinds)}; {chooses}"
    index = np.unique(np.linspace(0, len(split) - 1, LOOKED_AT).astype(np.int64))
    found: dict[tuple, str] = {}
    for kind in sorted(kinds, key=lambda kind: kind != used):
        of_kind = normalized(stored, kind, settings.model.model)
        if (of_kind.mean, of_kind.std) not in found:
            batches = batches_for({**content, "mean": of_kind.mean, "std": of_kind.std}, split.subset(index), device,
                                  int(settings.optimization.batch_size), settings.data.num_workers)  # fmt: skip
            top1 = evaluate(model, batches, len(stored.class_names), "fp32")[0]["top1"]
            found[of_kind.mean, of_kind.std] = f"{kind} {100 * top1:.1f} %{' (used)' if kind == used else ''}"
    return (f"the file does not tell how its images were normalised; top-1 on {len(index)} {which} images:"
            f" {', '.join(found.values())}; {chooses}")  # fmt: skip
