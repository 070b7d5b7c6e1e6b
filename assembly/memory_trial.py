"""The largest batch that fits into memory: trial steps with a throwaway model and teacher."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import nn

import models
from assembly import trainee
from assembly.data import RunData
from models.memory import lacks_memory
from models.train_size import check_train_size
from records.log import say
from settings.groups import Settings
from training import batch_size, devices, distributed
from training.optim import train_mode
from utils import BadRequest, RunFailed, sides


def memory_probe(settings: Settings, data: RunData, device: torch.device) -> Callable[[int], int | None]:
    """Returns a function from a number of images to the first of it, its half, its quarter... that fits into memory."""
    step = functools.partial(_trial_step, settings, data, device)
    reserved = data.stored_bytes(settings.augmentation, device)
    return lambda first: batch_size.largest_that_fits(step, first, device, reserved)


def _trial_step(settings: Settings, data: RunData, device: torch.device, count: int) -> None:
    """One training step on `count` blank images with a throwaway model and teacher."""
    settings = settings.replace(batch_size=count)
    model, optimization, hardware = settings.model, settings.optimization, settings.hardware
    chans, num_classes = data.dataset.in_chans, len(data.dataset.class_names)
    module = models.create_model(model.model, num_classes, data.img_size, chans, **model.model_args)
    if data.train_size is not None:
        check_train_size(module, model.model, data.train_size, chans)
    trainee.prepare(module, model)
    precision = trainee.choose_precision(hardware, device, module)
    state = trainee.make_state(module, optimization, num_classes, device, precision, hardware.channels_last)
    train_mode(state.model)
    if count == 1:
        state.model.eval()  # batch norm may be undefined for one image; `smallest_batch_of` reports that
    forward = trainee.make_forward(state.model, hardware.channels_last, compile_model=False)
    dtype = devices.input_dtype(device, precision)
    images = torch.zeros(count, chans, *sides(data.train_size or data.img_size), dtype=dtype, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    with devices.autocast(device, precision):
        teacher = _trial_teacher(settings.distillation.teacher, num_classes, images)
        outputs = forward(images)
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.stack([logits.float().mean() for logits in heads]).sum().backward()
    state.optimizer.step()
    del teacher  # it kept its memory for the whole step


@torch.no_grad()
def _trial_teacher(name: str | None, num_classes: int, images: torch.Tensor) -> nn.Module | None:
    """The teacher of that name, after a forward pass; None if there is none or it needs images of another size."""
    if name is None:
        return None
    try:
        teacher = models.create_model(name, num_classes, list(images.shape[2:]), images.shape[1]).eval()
        teacher.to(images.device)(images)
    except (BadRequest, RuntimeError) as error:
        if lacks_memory(error):
            raise
        return None
    return teacher


def settle_batch_size(
    given: int | str, images: int, device: torch.device, largest_that_fits: Callable[[int], int | None]
) -> int:
    """Returns the batch size. For "auto", the largest power of two up to 1,024 that fits into the memory of every rank.

    Args:
        given: value of --batch-size, which is returned if it is a number.
        images: number of training images.
        largest_that_fits: from `memory_probe`.

    Raises BadRequest if the free memory is unknown, and RunFailed if not even one image fits.
    """
    if given != "auto":
        return int(given)
    if device.type == "cpu" and batch_size.available_memory() is None:
        raise BadRequest("--batch-size auto: this system does not tell how much memory is free; give a number")
    first = min(batch_size.LARGEST, 2 ** int(math.log2(images)))
    size = -distributed.all_reduce_max(-(largest_that_fits(first) or 0))
    if not size:
        raise RunFailed("not enough memory for a batch of one image; a smaller --img-size or --model may help")
    say(f"batch size    {size}, the largest power of two up to {first} that fits")
    return size
