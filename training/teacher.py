"""Teachers: trained models that answer a student's images, for any student and of any architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from image_datasets.batches import ResidentTrainBatches
from training.devices import autocast
from utils import sides


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
        self.normalize: tuple[torch.Tensor, torch.Tensor] | None = None
        self.precision = "fp32"

    def adapt(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Teacher:
        """Moves to `device`, for images that come normalised with `mean` and `std`."""
        if (tuple(mean), tuple(std)) != (self.mean, self.std):
            # Normalised for the student -> pixels from 0 to 1 -> normalised for the teacher.
            theirs = [torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (self.mean, self.std)]
            ours = [torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (mean, std)]
            self.normalize = ours[1] / theirs[1], (ours[0] - theirs[0]) / theirs[1]
        if self.outputs is not None:
            self.outputs = torch.as_tensor(self.outputs, device=device)
        self.model = self.model.to(device).to(memory_format=torch.channels_last)
        return self

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, epoch: int = 0, batch: int = 0) -> torch.Tensor:
        if self.normalize is not None:
            scale, shift = self.normalize
            images = images * scale + shift
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
