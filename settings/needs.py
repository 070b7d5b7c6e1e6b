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
    ("crop_padding", lambda s: _pads(s.augmentation), "it needs --crop pad"),
    ("step_size", lambda s: s.optimization.schedule == "step", "it needs --schedule step"),
    ("milestones", lambda s: s.optimization.schedule == "multistep", "it needs --schedule multistep"),
    ("gamma", lambda s: s.optimization.schedule in ("step", "multistep"), "it needs --schedule step or multistep"),
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
    ("select_by", lambda s: s.data.val_fraction != 0, "with --val-fraction 0 the last epoch is reported"),
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
