"""Settings of a run: model, optimisation, loss and distillation. The other groups are in settings/groups.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from settings.flag import EVALUATE, EVERY_AUGMENTER, EVERY_BUILDER, EVERY_RUN, MEASURE, PREDICT, SUMMARY, TRAIN, flag
from settings.flag_types import (
    COUNT,
    FRACTION,
    POSITIVE,
    PROBABILITY,
    count_or_auto,
    key_value,
    milestones,
    number,
    one_of,
    path,
    text,
)
from settings.recipes import RECIPES

# fmt: off


@dataclass(frozen=True, kw_only=True)
class Model:
    """model"""

    model: str = flag("name of the model, from --list-models, or timm/NAME or torchvision/NAME", "resnet18", check=text,
        metavar="NAME", modes=(TRAIN, EVALUATE, SUMMARY))
    model_args: dict[str, Any] = flag(
        "arguments of the model's constructor that have no flag; values are Python's", name="model-arg",
        check=key_value, metavar="NAME=VALUE", nargs="+", default_text="none", modes=EVERY_BUILDER)
    pretrained: bool = flag("start from the published ImageNet weights, with a new head", False)
    weights: str | None = flag(
        "start from this checkpoint or state dict; a head for another number of classes is replaced", check=path,
        metavar="FILE", default_text="random initialisation")
    weights_kind: str | None = flag("which weights of the --weights file, where it holds both: raw, or ema: averaged",
        check=one_of("raw", "ema"), metavar="KIND",
        default_text="ema; of this suite's checkpoints those that were selected", modes=EVERY_RUN)
    weights_by_order: bool = flag("take the tensors of the --weights file in their order, whatever their names; each"
        " needs the shape and the last part of the name of the model's", False, modes=(TRAIN, EVALUATE))
    freeze: str = flag("what is not trained: none, or backbone: all but the head, in evaluation mode", "none",
        check=one_of("none", "backbone"), metavar="WHAT")
    grad_checkpointing: bool = flag("keep only the inputs of the model's blocks for the backward pass, and compute the"
        " rest again: less memory, more time, the same result", False)


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """optimisation"""

    recipe: str | None = flag(f"values for a set of flags; flags that you give win: {', '.join(RECIPES)}",
        check=one_of(*RECIPES), metavar="NAME", default_text="none", modes=EVERY_AUGMENTER)
    epochs: int = flag("passes over the training images", 100, check=COUNT, metavar="N")
    batch_size: int = flag("images per batch, of each process; auto: in training, the largest power of two up to"
        " 1,024 that fits into memory", 128, check=count_or_auto, metavar="N", modes=(*EVERY_RUN, PREDICT, MEASURE))
    accumulate: int = flag("batches whose gradients make up one step of the optimiser", 1, check=COUNT, metavar="N")
    optimizer: str = flag("sgd; muon-sgd, which is Muon for the filters of convolutions and Nesterov SGD for all else;"
        " adam, adamw, or any other that timm knows, such as lamb or lion", "sgd", check=str.lower, metavar="NAME")
    lr: float = flag("peak learning rate, per step of the optimiser", check=POSITIVE, metavar="LR",
        default_text="0.1 for sgd and muon-sgd, 0.001 for others")
    scale_lr: bool = flag("multiply --lr by the number of processes (torchrun), as the batches are so much larger",
        False)
    lr_base_size: int | None = flag("--lr and --head-lr are for so many images per step: they are multiplied by the"
        " images of a step, over all processes, divided by N", check=COUNT, metavar="N", default_text="no scaling")
    lr_base_scale: str | None = flag("how --lr-base-size scales: linear, or sqrt: by the square root",
        check=one_of("linear", "sqrt"), metavar="KIND",
        default_text="sqrt for optimisers with ada or lamb in their name, else linear")
    head_lr: float | None = flag("peak learning rate of the head, where it differs from --lr", check=POSITIVE,
        metavar="LR", default_text="--lr")
    layer_decay: float | None = flag("factor of the learning rate from each layer to the one below it, 1 at the head",
        check=number(float, 0, 1, open_low=True), metavar="F", default_text="no decay")
    momentum: float = flag("momentum of sgd and of those of timm's optimisers that have one", 0.9, check=FRACTION,
        metavar="M")
    nesterov: bool = flag("Nesterov momentum, with sgd", False)
    weight_decay: float = flag(
        "L2 penalty (decoupled in adamw), not on biases, normalisation and position embeddings",
        check=number(float, 0), metavar="WD", default_text="0.0005 for sgd and muon-sgd, 0.05 for adamw, else 0")
    decay_all: bool = flag("weight decay on these too", False)
    clip_grad: float | None = flag("scale gradients down to this global L2 norm", check=POSITIVE, metavar="NORM",
        default_text="no clipping")
    clip_mode: str = flag("what --clip-grad bounds: norm, the global L2 norm; value, each element", "norm",
        check=one_of("norm", "value"), metavar="KIND")
    on_nonfinite: str = flag("where a loss or weight is no longer finite: stop, or rollback: go on from the last"
        " checkpoint without the batches since, at most three times", "stop", check=one_of("stop", "rollback"),
        metavar="WHAT")
    schedule: str = flag("learning rate over the epochs: cosine, linear, step, multistep, constant, or wsd: constant,"
        " then linear over the last --decay-epochs", "cosine",
        check=one_of("cosine", "linear", "step", "multistep", "constant", "wsd"), metavar="KIND")
    warmup_epochs: float = flag("epochs over which the learning rate first grows linearly, part of --epochs", 0.0,
        check=number(float, 0), metavar="N")
    step_size: int | None = flag("epochs between decays, with --schedule step", check=COUNT, metavar="N",
        default_text="a third of --epochs")
    milestones: list[int] | None = flag("epochs of the decays, with --schedule multistep", check=milestones,
        metavar="N,N,...", default_text="at 30, 60 and 80 percent of --epochs")
    decay_epochs: float | None = flag("epochs of the decay, with --schedule wsd", check=POSITIVE, metavar="N",
        default_text="a fifth of --epochs")
    gamma: float = flag("factor of each decay, with --schedule step or multistep", 0.1,
        check=number(float, 0, 1, open_low=True), metavar="G")
    min_lr: float = flag(
        "learning rate that no schedule goes below (before the factors of --layer-decay and --head-lr)", 0.0,
        check=number(float, 0), metavar="LR")
    ema: float | None = flag(
        "also keep an exponential moving average of the weights, with this decay per step; 0: none", check=FRACTION,
        metavar="DECAY", default_text="none")
    ema_warmup: str = flag("how the decay of --ema grows to its value at step t: ratio, (1 + t) / (10 + t); power,"
        " 1 - (1 + t)^(-2/3) as timm's; none: it is constant", "ratio", check=one_of("ratio", "power", "none"),
        metavar="KIND")
    average_last: int | None = flag("also keep the mean of the weights after each of the last N epochs, and of batch"
        " normalisation's statistics", check=COUNT, metavar="N", default_text="none")
    early_stopping: int | None = flag("stop when the last N epochs were no better than the best before them, by"
        " --select-by; the schedule stays that of --epochs", check=COUNT, metavar="N", default_text="never")
    extend: int | None = flag("with --resume and more --epochs: the schedule starts anew for the epochs that are left;"
        " the run then stores the epoch at which it did", default_text="it goes on, where that is exact")
    select_by: str = flag("the best epoch is that with the highest validation top1, map (mean average precision), f1"
        " (macro-averaged), or with the lowest loss", "top1", check=one_of("top1", "map", "f1", "loss"),
        metavar="METRIC")


@dataclass(frozen=True, kw_only=True)
class Loss:
    """loss"""

    loss: str = flag("CE: cross-entropy; BCE: binary cross-entropy of each class, summed over classes; focal:"
        " cross-entropy that counts images less, the more probable their class is", "CE",
        check=one_of("CE", "BCE", "focal"), metavar="NAME")
    focal_gamma: float = flag("exponent of --loss focal: images count by (1 - probability)^gamma", 2.0,
        check=number(float, 0), metavar="G")
    class_weights: str | None = flag("weights of the classes in the loss, scaled to a mean of 1 over the training"
        " images: balanced, inverse to their number of images; or a CSV file with the columns class, weight",
        check=path, metavar="balanced|FILE", default_text="all the same")
    label_smoothing: float = flag("share of the target that is spread over all classes", 0.0, check=FRACTION,
        metavar="S")
    bce_target_threshold: float | None = flag(
        "with mixed images, BCE's target is 1 for classes with more than this share", check=FRACTION, metavar="T",
        default_text="the shares themselves")


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """distillation"""

    teacher: str | None = flag(
        "a trained model, whose answers to the same images the student learns too: a name, with the"
        " published ImageNet weights where the data's classes are ImageNet's, else with --teacher-weights", check=text,
        metavar="NAME", default_text="none")
    teacher_weights: str | None = flag("checkpoint or state dict of the teacher", check=path, metavar="FILE",
        default_text="the published ImageNet weights")
    teacher_weights_kind: str | None = flag("as --weights-kind, of the --teacher-weights file",
        check=one_of("raw", "ema"), metavar="KIND", default_text="as there")
    teacher_weights_by_order: bool = flag("as --weights-by-order, of the --teacher-weights file", False)
    teacher_epochs: int | None = flag(
        "first train the teacher for so many epochs on the same data, with the same flags, as a"
        " run of its own named RUN-NAME-teacher", check=COUNT, metavar="N", default_text="it is trained already")
    cache_teacher: bool = flag("ask the teacher once for each image; for images that are kept on the device and not"
        " augmented", False)
    distill: str | None = flag("what is learnt from the teacher: hard, the class that it finds most probable; soft, its"
        " probabilities", check=one_of("soft", "hard", "none"), metavar="KIND",
        default_text="hard with --teacher, else none")
    distill_alpha: float = flag("weight of the teacher's part of the loss; the labels' part has the rest", 0.5,
        check=PROBABILITY, metavar="A")
    distill_temp: float = flag("temperature of --distill soft, by which both sides' logits are divided", 3.0,
        check=POSITIVE, metavar="T")
