"""Builds a training from settings: the one builder, for runs, dry runs, measurements of speed and benchmarks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import models
from analysis import cost
from assembly.data import RunData, make_mix
from assembly.foreign import note_on_kind, notes_on_weights
from models import weight_files
from models import weights as model_weights
from models.checkpointing import checkpoint_blocks
from models.train_size import check_train_size
from settings.groups import Augmentation, Hardware, Loss, Model, Optimization
from training import devices, distributed
from training.averaging import ModelAverage
from training.config import TrainConfig
from training.distillation import Distillation
from training.losses import make_criterion
from training.metrics import Totals
from training.optim import freeze_backbone, make_clip, make_optimizer, parameter_groups
from training.schedules import ema_decay, last_epochs_decay, learning_rate
from training.state import RunState
from utils import BadRequest, derive_seed, world_size


@dataclass
class Trainee:
    """The inputs of `training.loop`.

    Attributes:
        forward: the model as a function of images (N, C, H, W), returning logits, or a tuple with those of each head.
    """

    state: RunState
    forward: Callable[[torch.Tensor], Any]
    config: TrainConfig


@dataclass(frozen=True)
class BuiltModel:
    """A model on the CPU, with the weights that training starts from.

    Attributes:
        weights_kind: "raw" or "ema", if the weights file holds both.
        model_args: arguments of the constructor, with those that follow from the weights.
        notes: how the weights fit, to print.
        pairs: (name in the file, name of the model) of tensors that were taken by their order.
    """

    module: nn.Module
    weights_kind: str | None
    model_args: dict[str, Any]
    notes: list[str]
    pairs: list[tuple[str, str]]


def build_model(
    group: Model, optimization: Optimization, data: RunData, seed: int, with_weights: bool = True
) -> BuiltModel:
    """Builds the model with the weights that training starts from. The seed decides its random initialisation.

    Args:
        with_weights: load the weights of --pretrained or --weights. A resumed run has its own.

    Raises BadRequest if the weights do not fit, or a flag needs a head that the model does not name.
    """
    kind, args, notes, pairs, weights = group.weights_kind, group.model_args, [], [], None
    if group.weights and with_weights:
        weights = weight_files.read_weights(Path(group.weights), kind, group.weights_by_order)
        kind = weights.kind if weights.others else kind
        args = models.settle_arguments(group.model, args, weights.state)
        notes = note_on_kind(group.weights, weights) + notes_on_weights(group.weights, weights, args, group.model_args)
    torch.manual_seed(derive_seed(seed, "init"))
    num_classes, chans = len(data.dataset.class_names), data.dataset.in_chans
    pretrained = group.pretrained and with_weights
    model: Any = models.create_model(group.model, num_classes, data.img_size, chans, pretrained, **args)
    notes += model.load_notes
    if weights is not None:
        notes += model_weights.load(model, weights.state, source=str(group.weights), img_size=weights.img_size,
                                    by_order=group.weights_by_order)  # fmt: skip
        pairs = model.load_pairs
    by_head = {"freeze backbone": group.freeze == "backbone", "head-lr": optimization.head_lr is not None,
               "layer-decay": optimization.layer_decay is not None}  # fmt: skip
    for flag, used in by_head.items():
        if used and not model.head_names:
            raise BadRequest(f"--{flag}: {group.model} does not tell which of its layers is the head")
    prepare(model, group)
    if data.train_size is not None:
        check_train_size(model, group.model, data.train_size, chans)
    return BuiltModel(model, kind, args, notes, pairs)


def prepare(model: nn.Module, group: Model) -> None:
    """Makes a model train as the flags say: with a frozen backbone, with fewer activations kept.

    Raises BadRequest if the model cannot do without its activations.
    """
    if group.freeze == "backbone":
        freeze_backbone(model)
    if group.grad_checkpointing:
        checkpoint_blocks(model, group.model)


def choose_precision(hardware: Hardware, device: torch.device, model: nn.Module) -> str:
    """Resolves --precision. The ways of models/fast_layers.py need channels-last memory, and no compiler."""
    fast = hardware.channels_last and not hardware.compile
    return devices.choose_precision(hardware.precision, device, model, fast)


def make_state(
    model: nn.Module,
    group: Optimization,
    num_classes: int,
    device: torch.device,
    precision: str,
    channels_last: bool = True,
) -> RunState:
    """Returns the initial training state: the model on the device, optimiser, averaged weights and loss scaler."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(device, memory_format=memory_format)  # pyright: ignore[reportCallIssue]  # torch's stubs lack it
    return RunState(
        model,
        _make_optimizer(model, group),
        Totals(num_classes, device),
        average=ModelAverage(model) if averages(group) else None,
        scaler=devices.make_scaler(device, precision),
    )


def averages(group: Optimization) -> bool:
    """Whether a run keeps averaged weights."""
    return group.ema is not None or group.average_last is not None


def _make_optimizer(model: nn.Module, group: Optimization) -> torch.optim.Optimizer:
    head_scale = None if group.head_lr is None else group.head_lr / group.lr
    by_gradient = group.optimizer in ("sgd", "muon-sgd")  # others scale the steps of each parameter themselves
    groups = parameter_groups(
        model, group.weight_decay, group.decay_all, group.layer_decay, head_scale, own_scales=by_gradient
    )
    lr = group.lr * lr_factor(group)  # some of timm's optimisers take it as the peak
    return make_optimizer(groups, group.optimizer, lr, group.momentum, group.nesterov)


def make_config(
    group: Optimization,
    loss: Loss,
    augmentation: Augmentation,
    num_classes: int,
    batches_per_epoch: int,
    seed: int,
    precision: str,
    distillation: Distillation | None = None,
    smallest_batch: int | None = None,
    class_weights: torch.Tensor | None = None,
    class_names: list[str] | None = None,
) -> TrainConfig:
    """Returns the configuration of the training loop.

    Args:
        batches_per_epoch: of each rank, before --accumulate groups them into steps.
        smallest_batch: see `smallest_batch_of`.
        class_weights, class_names: see `imbalance`.

    Raises BadRequest if --lr-base-size brings the learning rate below --min-lr.
    """
    peak = group.lr * lr_factor(group)
    if group.min_lr > peak:
        raise BadRequest(f"--min-lr {group.min_lr:g}: must not be above the peak, {peak:g} (--lr {group.lr:g} with"
                         f" --lr-base-size {group.lr_base_size})")  # fmt: skip
    steps_per_epoch = math.ceil(batches_per_epoch / group.accumulate)
    return TrainConfig(
        criterion=make_criterion(
            loss.loss, num_classes, loss.label_smoothing, loss.bce_target_threshold, class_weights, loss.focal_gamma
        ),
        mix=make_mix(augmentation, num_classes),
        learning_rate=functools.partial(
            learning_rate,
            steps_per_epoch=steps_per_epoch,
            epochs=group.epochs,
            lr=peak,
            schedule=group.schedule,
            warmup_epochs=group.warmup_epochs,
            min_lr=group.min_lr,
            step_size=group.step_size,
            milestones=group.milestones,
            gamma=group.gamma,
            decay_epochs=group.decay_epochs,
            start=group.extend or 0,
        ),
        average_decay=_average_decay(group, steps_per_epoch),
        seed=seed,
        epochs=group.epochs,
        precision=precision,
        accumulate=group.accumulate,
        clip_grad=make_clip(group.clip_grad, group.clip_mode),
        distillation=distillation,
        smallest_batch=smallest_batch,
        roll_back=group.on_nonfinite == "rollback",
        select_by=group.select_by,
        patience=group.early_stopping or math.inf,
        class_names=class_names,
    )


def lr_factor(group: Optimization) -> float:
    """The factor of the learning rate by --scale-lr or --lr-base-size."""
    if group.lr_base_size is None:
        return world_size() if group.scale_lr else 1
    ratio = int(group.batch_size) * group.accumulate * world_size() / group.lr_base_size
    return ratio**0.5 if group.lr_base_scale == "sqrt" else ratio


def _average_decay(group: Optimization, steps_per_epoch: int) -> Callable[[int], float]:
    if group.average_last is not None:
        return functools.partial(
            last_epochs_decay, steps_per_epoch=steps_per_epoch, epochs=group.epochs, last=group.average_last
        )
    return functools.partial(ema_decay, decay=group.ema or 0.0, warmup=group.ema_warmup)


def share(model: nn.Module, sync_bn: bool, device: torch.device) -> nn.Module:
    """Wraps the model in DDP if there are several processes, with synchronised batch norm if asked for.

    Raises BadRequest for synchronised batch norm without a GPU.
    """
    if sync_bn:
        from timm.layers import convert_sync_batchnorm

        if device.type != "cuda":
            raise BadRequest("--sync-bn needs GPUs: torch has no synchronised batch normalisation for other devices")
        model = convert_sync_batchnorm(model)
    return distributed.wrap_ddp(model, device)


def make_forward(
    model: nn.Module,
    channels_last: bool,
    compile_model: bool,
    batch_size: int | None = None,
    compile_mode: str = "default",
) -> Callable[[torch.Tensor], Any]:
    """Returns the model as a function of images, compiled if asked for.

    Images arrive in channels-last memory; without `channels_last` they are copied to contiguous memory.

    Args:
        batch_size: only batches of this size run compiled, and only for them cuDNN searches for the fastest algorithm.
            For the last batch of an epoch either takes longer than it saves. None: all batches.
        compile_mode: see torch.compile.
    """
    compiled = torch.compile(model, mode=compile_mode) if compile_model else model
    search = not torch.are_deterministic_algorithms_enabled()

    def forward(images: torch.Tensor) -> Any:
        usual = batch_size in (None, len(images))
        torch.backends.cudnn.benchmark = search and usual  # for the backward pass too
        return (compiled if usual else model)(images if channels_last else images.contiguous())

    if hasattr(model, "no_sync"):
        cast(Any, forward).no_sync = model.no_sync
    return forward


def smallest_batch_of(model: nn.Module, data: RunData, sizes: list[int]) -> int | None:
    """Returns the smallest number of readable images a batch needs for a step. None unless --on-bad-image skip.

    Args:
        sizes: of this rank's batches.

    Raises BadRequest if there are batches of one image and the model needs two.
    """
    chans, size = data.dataset.in_chans, data.train_size or data.img_size
    if 1 in sizes:
        cost.check_batch_of_one(model, size, chans)
    if not data.skip_bad:
        return None
    return 2 if cost.unfit_for_one_image(model, size, chans) else 1
