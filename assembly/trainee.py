"""From settings to a training: model, optimiser, state, and how its steps are made."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import models
from analysis import cost
from assembly.data import Data, make_mix
from models import weights as model_weights
from records.log import say
from records.run_directory import RunDirectory
from settings.flags import FLAGS, TRAIN
from training import batch_size, devices, distributed
from training.config import TrainConfig
from training.distillation import Distillation
from training.losses import make_criterion
from training.metrics import Totals
from training.optim import ModelEMA, freeze_backbone, learning_rate, make_optimizer, parameter_groups, train_mode
from training.state import RunState, resume
from utils import (
    BadRequest,
    RunFailed,
    derive_seed,
    sides,
    world_size,
)

# Asks of one command, not properties of the run.
NOT_STORED = ("resume", "overwrite", "download", "check_images", "max_minutes")


def settle_batch_size(s: SimpleNamespace, data: Data, device: torch.device, step: Callable[[int], None]) -> None:
    """Makes a number of --batch-size auto."""
    if s.batch_size == "auto":
        if device.type == "cpu" and batch_size.available_memory() is None:
            raise BadRequest("--batch-size auto: this system does not tell how much memory is free; give a number")
        first = min(batch_size.LARGEST, 2 ** int(math.log2(len(data.train))))
        s.batch_size = -distributed.all_reduce_max(-(batch_size.largest_that_fits(step, first, device) or 0))
        if not s.batch_size:
            raise RunFailed("not enough memory for a batch of one image; a smaller --img-size or --model may help")
        say(f"batch size    {s.batch_size}, the largest power of two up to {first} that fits")


def trial_step(s: SimpleNamespace, data: Data, device: torch.device, count: int) -> None:
    """A training step of `count` images with a model that is thrown away, as far as memory is concerned: without a
    teacher."""
    chans, num_classes = data.dataset.in_chans, len(data.dataset.class_names)
    model = models.create_model(s.model, num_classes, data.img_size, chans, **s.model_args)
    model = _to_device(s, model, device)
    if s.freeze == "backbone":
        freeze_backbone(model)
    train_mode(model)
    if count == 1:
        model.eval()  # batch normalisation of one image may be undefined; `unfit_for_one_image` says where it is
    optimizer = _make_optimizer(s, model)
    precision = devices.choose_precision(s.precision, device, model)
    images = torch.zeros(count, chans, *sides(data.img_size), device=device)
    with devices.autocast(device, precision):
        outputs = make_forward(model, s.channels_last, False)(images.contiguous(memory_format=torch.channels_last))
    sum(logits.float().mean() for logits in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()
    optimizer.step()


def _to_device(s: SimpleNamespace, model: nn.Module, device: torch.device) -> nn.Module:
    return model.to(device, memory_format=torch.channels_last if s.channels_last else torch.contiguous_format)


def _smallest_batch(s: SimpleNamespace, data: Data, model: nn.Module, sizes: list[int]) -> int | None:
    """The images that a batch must have left for a step, where those that cannot be read are left out; else None.

    Args:
        sizes: of this process's parts of the batches.

    Raises BadRequest where there are batches of one image, and the model needs two.
    """
    if 1 in sizes:
        cost.check_batch_of_one(model, data.img_size, data.dataset.in_chans)
    if s.on_bad_image == "error":
        return None
    return 2 if cost.unfit_for_one_image(model, data.img_size, data.dataset.in_chans) else 1


def make_state(
    s: SimpleNamespace, data: Data, device: torch.device, directory: RunDirectory
) -> tuple[RunState, int, bool]:
    """(the state that training starts from, the model's FLOPs per image, whether it is that of a checkpoint)."""
    continued = s.resume and (directory.last.is_file() or directory.previous.is_file())
    model = _build_model(s, data, with_weights=not continued)
    flops = cost.count_flops(model, data.img_size, data.dataset.in_chans, s.model)
    model = _to_device(s, model, device)
    s.precision = precision = devices.choose_precision(s.precision, device, model)
    state = RunState(
        model,
        _make_optimizer(s, model),
        Totals(len(data.dataset.class_names), device),
        ema=None if s.ema is None else ModelEMA(model, s.ema),
        scaler=devices.make_scaler(device, precision),
    )
    if continued:
        with distributed.main_process_first():
            resume(state, directory, data.dataset.class_names, data.image_digests)
    return state, flops, continued


def stored_settings(s: SimpleNamespace) -> dict[str, Any]:
    """The settings that belong to the run, for settings.json, checkpoints and wandb."""
    return {key: value for key, value in vars(s).items() if TRAIN in FLAGS[key].modes and key not in NOT_STORED}


def _build_model(s: SimpleNamespace, data: Data, with_weights: bool) -> nn.Module:
    """With `with_weights` it starts from what --pretrained or --weights name; a continued run has its own."""
    torch.manual_seed(derive_seed(s.seed, "init"))
    model = models.create_model(
        s.model,
        len(data.dataset.class_names),
        data.img_size,
        data.dataset.in_chans,
        s.pretrained and with_weights,
        **s.model_args,
    )
    notes = list(model.load_notes)
    if s.weights and with_weights:
        weights = model_weights.read_weights(Path(s.weights), s.weights_kind)
        if weights.others:
            s.weights_kind = kind = weights.kind
            notes.append(f"{s.weights} holds raw and averaged ones: the {model_weights.KINDS[kind]} ones are taken,"
                         f" --weights-kind {model_weights.other_kind(kind)} takes the others")  # fmt: skip
        notes += weights.notes
        notes += model_weights.load(model, weights.state, source=s.weights, img_size=weights.img_size)
    for note in notes:
        say(f"weights       {note}")
    if s.freeze == "backbone":
        if not model.head_names:
            raise BadRequest(f"--freeze backbone: {s.model} does not tell which of its layers is the head")
        freeze_backbone(model)
    return model


def _make_optimizer(s: SimpleNamespace, model: nn.Module) -> torch.optim.Optimizer:
    for flag in ("head_lr", "layer_decay"):
        if getattr(s, flag) is not None and not model.head_names:
            raise BadRequest(f"--{flag.replace('_', '-')}: {s.model} does not tell which of its layers is the head")
    head_scale = 1.0 if s.head_lr is None else s.head_lr / s.lr
    groups = parameter_groups(model, s.weight_decay, s.decay_all, s.layer_decay, head_scale)
    return make_optimizer(groups, s.optimizer, s.lr, s.momentum, s.nesterov)


def make_recipe(
    s: SimpleNamespace,
    data: Data,
    precision: str,
    batches_per_epoch: int,
    distillation: Distillation | None,
    smallest_batch: int | None = None,
) -> TrainConfig:
    return TrainConfig(
        criterion=make_criterion(s.loss, len(data.dataset.class_names), s.label_smoothing, s.bce_target_threshold),
        mix=make_mix(s, data),
        learning_rate=functools.partial(
            learning_rate,
            steps_per_epoch=math.ceil(batches_per_epoch / s.accumulate),
            epochs=s.epochs,
            lr=s.lr * (world_size() if s.scale_lr else 1),
            schedule=s.schedule,
            warmup_epochs=s.warmup_epochs,
            min_lr=s.min_lr,
            step_size=s.step_size,
            milestones=s.milestones,
            gamma=s.gamma,
        ),
        seed=s.seed,
        epochs=s.epochs,
        precision=precision,
        accumulate=s.accumulate,
        clip_grad=s.clip_grad,
        distillation=distillation,
        smallest_batch=smallest_batch,
        roll_back=s.on_nonfinite == "rollback",
        select_by=s.select_by,
    )


def make_forward(model: nn.Module, channels_last: bool, compile_model: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """Batches arrive in channels-last memory; without `channels_last` they are laid out anew."""
    forward = torch.compile(model) if compile_model else model
    if channels_last:
        return forward

    def laid_out(images: torch.Tensor) -> torch.Tensor:
        return forward(images.contiguous())

    if hasattr(model, "no_sync"):
        laid_out.no_sync = model.no_sync
    return laid_out


def _shared(model: nn.Module, sync_bn: bool, device: torch.device) -> nn.Module:
    """The model as several processes train it, with gradients, and if asked for the statistics of batch normalisation,
    of the whole batch."""
    if sync_bn:
        from timm.layers import convert_sync_batchnorm

        if device.type != "cuda":
            raise BadRequest("--sync-bn needs GPUs: torch has no synchronised batch normalisation for other devices")
        model = convert_sync_batchnorm(model)
    return distributed.wrap_ddp(model, device)
