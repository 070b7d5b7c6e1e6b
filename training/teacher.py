"""Teachers: trained models that answer a student's images, for any student and of any architecture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import models
from image_datasets.batches import ResidentTrainBatches
from image_datasets.dataset import Dataset, statistics_for
from models.weights import load, read_weights
from training import options
from training.checkpoint import is_checkpoint, settle_classes
from training.processes import autocast
from training.tracking import say
from training.use import read_for_use
from utils import BadRequest, shorten, sides

IMAGENET_CLASSES = 1000


class Teacher:
    """A trained model that gets the student's images, normalised and sized as it was trained on them.

    Called with (N, C, H, W) it gives float32 logits (N, K) for the data set's K classes, without gradients. Which batch
    of which epoch the images are makes no difference.

    Args:
        img_size: of the images that the model wants, in pixels; those of another size or shape are resized to it.
        mean, std: per channel, that the model's images were normalised with.
        outputs: for each class of the data set the model's output; None where they are the same.

    Attributes:
        settings: of the run that trained it, where it is a checkpoint of this suite.
        precision: of its forward pass, "fp32" at first.
        kind: of its weights, "raw" or "ema", where its file holds both.
    """

    def __init__(
        self,
        model: nn.Module,
        img_size: int | Sequence[int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        outputs: list[int] | None = None,
    ):
        self.model = model.requires_grad_(False).eval()
        self.img_size, self.mean, self.std, self.outputs = img_size, tuple(mean), tuple(std), outputs
        self.settings: dict[str, Any] | None = None
        self.kind: str | None = None
        self.scale = self.shift = None
        self.precision = "fp32"

    def adapt(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Teacher:
        """Moves to `device`, for images that come normalised with `mean` and `std`."""
        if (tuple(mean), tuple(std)) != (self.mean, self.std):
            # Normalised for the student -> pixels from 0 to 1 -> normalised for the teacher.
            theirs = [torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (self.mean, self.std)]
            ours = [torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (mean, std)]
            self.scale, self.shift = ours[1] / theirs[1], (ours[0] - theirs[0]) / theirs[1]
        if self.outputs is not None:
            self.outputs = torch.as_tensor(self.outputs, device=device)
        self.model = self.model.to(device, memory_format=torch.channels_last)
        return self

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, epoch: int = 0, batch: int = 0) -> torch.Tensor:
        if self.scale is not None:
            images = images * self.scale + self.shift
        size = sides(self.img_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        with autocast(images.device, self.precision):
            logits = self.model(images).float()
        return logits if self.outputs is None else logits[:, self.outputs]


class CachedTeacher:
    """The answers of a teacher that was asked once for each image of a training set that is kept on the device.

    They are right for images that reach the student as they are stored. Called with (images, epoch, number of the
    batch) it gives the logits (N, K) of that batch.

    Args:
        logits: (n, K), of the images that can be read.
        given: which of the split's images these are, int64 (n,).
    """

    def __init__(self, logits: torch.Tensor, given: torch.Tensor, batches: ResidentTrainBatches):
        self.logits = logits.new_zeros(len(batches.split), logits.shape[1]).index_copy(0, given, logits)
        self.logits, self.batches = self.logits.to(batches.device), batches
        self.epoch, self.indices = None, []

    def __call__(self, images: torch.Tensor, epoch: int, batch: int) -> torch.Tensor:
        if epoch != self.epoch:
            self.epoch, self.indices = epoch, self.batches.batches(epoch)
        index, places = self.indices[batch]
        return self.logits[index if places is None else index[places.to(index.device)]]


def load_teacher(name: str, file: str | None, dataset: Dataset, kind: str | None = None) -> Teacher:
    """The trained model `name` as a teacher of `dataset`'s classes.

    Args:
        file: a checkpoint of this suite, or a state dict with the data set's classes or ImageNet-1k's; None: the
            published ImageNet weights. Outputs for ImageNet's 1000 classes are mapped by WNID.
        kind: of the file's weights, "raw" or "ema", see `models.weights.read_weights`.

    Raises BadRequest where the weights or the classes do not fit.
    """
    if file is not None and is_checkpoint(Path(file)):
        model, content = read_for_use(file, None, kind)
        if content["settings"]["model"] != name:
            raise BadRequest(f"--teacher {name}: {file} is a checkpoint of {content['settings']['model']}")
        settle_classes(f"--teacher-weights {file}", content, dataset.class_names, dataset.name)
        if content["in_chans"] != dataset.in_chans:
            raise BadRequest(f"--teacher-weights {file}: wants images of {content['in_chans']} channels, not of"
                             f" {dataset.in_chans}")  # fmt: skip
        teacher = Teacher(model, content["img_size"], content["mean"], content["std"])
        teacher.settings = content["settings"]
        if content["ema"] is not None:
            teacher.kind = kind or content["best"].get("weights", "raw")
        return teacher

    img_size = options.image_size(None, name, dataset.natural_side)
    mean, std = statistics_for(dataset.in_chans, *(models.published_statistics(name) or ()))
    if file is None:
        outputs = _imagenet_outputs(name, dataset)
        try:
            model = models.create_model(name, IMAGENET_CLASSES, 224, dataset.in_chans, pretrained=True)
        except BadRequest as error:
            reason = str(error).replace("--weights", "--teacher-weights")
            raise BadRequest(f"--teacher {name}: {reason}; --teacher-epochs N trains one") from None
        return Teacher(model, 224, mean, std, outputs)
    weights = read_weights(Path(file), kind)
    for note in weights.notes:
        say(f"teacher       {note}")
    state = weights.state
    num_classes = len(dataset.class_names)
    model = models.create_model(name, num_classes, img_size, dataset.in_chans)
    found = {state[f"{head}.weight"].shape[0] for head in model.head_names if f"{head}.weight" in state}
    outputs = None
    if found == {IMAGENET_CLASSES} != {num_classes}:
        outputs = _imagenet_outputs(name, dataset)
        model, img_size = models.create_model(name, IMAGENET_CLASSES, 224, dataset.in_chans), 224
    elif found and found != {num_classes}:
        raise BadRequest(f"--teacher-weights {file}: has {max(found)} classes, {dataset.name} has {num_classes}")
    load(model, state, file)
    teacher = Teacher(model, img_size, mean, std, outputs)
    teacher.kind = weights.kind if weights.others else None
    return teacher


def _imagenet_outputs(name: str, dataset: Dataset) -> list[int]:
    """For each class of the data set the index of its WNID among ImageNet-1k's classes."""
    from timm.data import ImageNetInfo

    index = {wnid: i for i, wnid in enumerate(ImageNetInfo("imagenet-1k").label_names())}
    wnids = dataset.wnids or dataset.class_names
    unknown = [wnid for wnid in wnids if wnid not in index]
    if unknown:
        raise BadRequest(f"--teacher {name}: ImageNet has no class {shorten(unknown, 2)} of {dataset.name}; give"
                         " --teacher-weights FILE, a checkpoint that was trained on this data set")  # fmt: skip
    return [index[wnid] for wnid in wnids]
