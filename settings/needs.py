"""Conditions under which a flag has an effect, and the reason given if they fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from image_datasets.reading import OLDEST
from settings.groups import FLAGS, Augmentation, Settings
from utils import BadRequest, is_distributed


def check_needs(settings: Settings, given: dict[str, Any]) -> None:
    """Raises BadRequest for the first given flag that has no effect."""
    for key, has_effect, reason in NEEDS:
        if key in given and not has_effect(settings):
            raise BadRequest(f"--{FLAGS[key].name} has no effect: {reason}")


def _pads(group: Augmentation) -> bool:
    return group.crop == "pad" or (group.crop is None and not group.rand)


def _selects(settings: Settings) -> bool:
    """Whether validation images select the epoch."""
    return settings.data.val_fraction != 0 and settings.data.val_fold is None


# (flag, whether it has an effect, the reason if it has none)
NEEDS: list[tuple[str, Callable[[Settings], bool], str]] = [
    ("exif_orientation", lambda s: s.data.data_rules != OLDEST, "--data-rules 1 turns no images"),
    (
        "cutmix_alpha",
        lambda s: "cutmix" in s.augmentation.augmentation,
        "it needs --augmentation cutmix or cutmix+mixup",
    ),
    ("mixup_alpha", lambda s: "mixup" in s.augmentation.augmentation, "it needs --augmentation mixup or cutmix+mixup"),
    (
        "mix_prob",
        lambda s: s.augmentation.augmentation != "none",
        "it needs --augmentation cutmix, mixup or cutmix+mixup",
    ),
    ("mixup_off_epoch", lambda s: s.augmentation.augmentation != "none", "no images are mixed without --augmentation"),
    (
        "auto_augment_magnitude",
        lambda s: s.augmentation.auto_augment == "randaugment",
        "it needs --auto-augment randaugment",
    ),
    (
        "auto_augment_ops",
        lambda s: s.augmentation.auto_augment == "randaugment",
        "it needs --auto-augment randaugment",
    ),
    ("eval_crop", lambda s: s.data.resize_mode == "crop", "it needs --resize-mode crop"),
    ("crop_padding", lambda s: _pads(s.augmentation), "it needs --crop pad"),
    ("step_size", lambda s: s.optimization.schedule == "step", "it needs --schedule step"),
    ("milestones", lambda s: s.optimization.schedule == "multistep", "it needs --schedule multistep"),
    ("gamma", lambda s: s.optimization.schedule in ("step", "multistep"), "it needs --schedule step or multistep"),
    ("decay_epochs", lambda s: s.optimization.schedule == "wsd", "it needs --schedule wsd"),
    ("lr_base_scale", lambda s: s.optimization.lr_base_size is not None, "it needs --lr-base-size"),
    ("scale_lr", lambda s: s.optimization.lr_base_size is None, "--lr-base-size scales the learning rate already"),
    ("clip_mode", lambda s: s.optimization.clip_grad is not None, "it needs --clip-grad"),
    ("ema_warmup", lambda s: s.optimization.ema is not None, "it needs --ema"),
    ("average_last", lambda s: s.optimization.ema is None, "--ema keeps averaged weights already"),
    ("early_stopping", _selects, "no validation images select an epoch, and the last one is reported"),
    ("extend", lambda s: bool(s.run.resume), "it needs --resume"),
    ("focal_gamma", lambda s: s.loss.loss == "focal", "it needs --loss focal"),
    ("compile_mode", lambda s: s.hardware.compile, "it needs --compile"),
    ("min_lr", lambda s: s.optimization.schedule != "constant", "--schedule constant does not decay"),
    (
        "normalization",
        lambda s: s.data.normalization != "pretrained" or s.model.pretrained,
        "pretrained needs --pretrained",
    ),
    ("weights_kind", lambda s: s.model.weights is not None, "it needs --weights"),
    ("weights_by_order", lambda s: s.model.weights is not None, "it needs --weights"),
    ("teacher_weights_kind", lambda s: s.distillation.teacher_weights is not None, "it needs --teacher-weights"),
    (
        "teacher_weights_by_order",
        lambda s: s.distillation.teacher_weights is not None,
        "it needs --teacher-weights",
    ),
    ("teacher_weights", lambda s: s.distillation.teacher is not None, "it needs --teacher"),
    ("teacher_epochs", lambda s: s.distillation.teacher is not None, "it needs --teacher"),
    (
        "teacher_epochs",
        lambda s: s.distillation.teacher_weights is None,
        "the teacher is trained already (--teacher-weights)",
    ),
    ("cache_teacher", lambda s: s.distillation.teacher is not None, "it needs --teacher"),
    ("distill", lambda s: s.distillation.teacher is not None or s.distillation.distill == "none", "it needs --teacher"),
    ("distill_alpha", lambda s: s.distillation.teacher is not None, "it needs --teacher"),
    ("distill_temp", lambda s: s.distillation.distill == "soft", "it needs --distill soft"),
    ("cache_dir", lambda s: s.data.cache_resized is not None, "it needs --cache-resized"),
    ("nesterov", lambda s: s.optimization.optimizer == "sgd", "it needs --optimizer sgd"),
    ("select_by", _selects, "no validation images select an epoch, and the last one is reported"),
    ("val_fraction", lambda s: s.data.val_fold is None, "--val-fold says which images are held out"),
    ("select_on", lambda s: s.data.val_fold is None, "with --val-fold nothing is selected: the last epoch is reported"),
    ("head_lr", lambda s: s.model.freeze == "none", "with --freeze backbone only the head is trained, at --lr"),
    ("layer_decay", lambda s: s.model.freeze == "none", "with --freeze backbone only the head is trained, at --lr"),
    ("decay_all", lambda s: s.optimization.weight_decay > 0, "the weight decay is 0"),
    ("val_fraction", lambda s: s.data.select_on == "validation", "--select-on reported holds nothing out"),
    ("bce_target_threshold", lambda s: s.loss.loss == "BCE", "it needs --loss BCE"),
    (
        "bce_target_threshold",
        lambda s: s.augmentation.augmentation != "none",
        "without mixed images targets are 0 or 1 already",
    ),
    ("sync_bn", lambda s: is_distributed(), "there is a single process (torchrun starts several)"),
    ("wandb_project", lambda s: s.run.wandb != "disabled", "--wandb is disabled"),
    ("wandb_group", lambda s: s.run.wandb != "disabled", "--wandb is disabled"),
]
