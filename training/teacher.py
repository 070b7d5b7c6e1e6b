"""Teachers: trained models of any architecture that give logits for a student's images."""

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
    """A trained model that gets the student's images in its own normalisation and size.

    Called with images (N, C, H, W) it returns float32 logits (N, K) for the K classes of the data set, without
    gradients. It ignores epoch and batch.

    Args:
        img_size: side, or height and width, of the model's images in pixels. Others are resized to it.
        mean, std: per channel, with which the model's images were normalised.
        outputs: index of the model's output for each class of the data set. None: they are the same.

    Attributes:
        settings: of the run that trained it, if it is a checkpoint of this suite.
        precision: of its forward pass, "fp32" at first.
        kind: of its weights, "raw" or "ema", if its file holds both.
        normalize: factor and summand that turn the student's images into the teacher's; None: they are the same.
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
        """Moves the teacher to `device`, for images that are normalised with `mean` and `std`. Returns itself."""
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
    """The stored logits of a teacher for each image of a training set that is kept on the device.

    They are right for images that are not augmented. Called with (images, epoch, number of the batch) it returns the
    logits (N, K) of that batch.

    Args:
        logits: (n, K), of the images that can be read.
        given: indices of these images in the split, int64 (n,).
        batches: the batches that the student is trained on.
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
