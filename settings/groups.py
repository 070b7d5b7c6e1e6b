"""The settings of a run: a frozen dataclass for each group of --help, a field for each flag.

Settings are declared here and nowhere else. On disk (settings.json, checkpoints) and in wandb they are one flat object.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from image_datasets import list_datasets
from image_datasets.reading import MAX_PIXELS, NEWEST, OLDEST
from settings.flag import (
    EVALUATE,
    EVERY_AUGMENTER,
    EVERY_BUILDER,
    EVERY_READER,
    EVERY_RUN,
    EVERY_USER,
    INSPECT,
    LIST,
    MEASURE,
    PREDICT,
    SUMMARY,
    TRAIN,
    Groups,
    flag,
)
from settings.flag_types import (
    COUNT,
    FRACTION,
    POSITIVE,
    PROBABILITY,
    channels,
    class_names,
    count_or_auto,
    image_size,
    interval,
    key_value,
    milestones,
    number,
    one_of,
    path,
    plain_name,
    text,
)
from settings.recipes import RECIPES

SEED = number(int, 0, 2**31 - 1)
NOT_STORED = ("resume", "overwrite", "download", "check_images", "max_minutes")  # flags of one invocation

# fmt: off


@dataclass(frozen=True, kw_only=True)
class Data:
    """data"""

    dataset: str = flag(f"name of the data set: {', '.join(list_datasets())} (the last of these forms:"
        " torchvision/NAME, hf/NAME, csv/FILE, npz/FILE, webdataset/FOLDER)", check=text, metavar="NAME",
        default_text="cifar100 with --datapath, else digits", modes=(*EVERY_READER, LIST, SUMMARY))
    data_path: str | None = flag("folder that holds the data set", check=path, metavar="PATH", aliases=("datapath",),
        default_text="none; digits needs none", modes=(*EVERY_READER, MEASURE, LIST, SUMMARY), may_change=True)
    download: bool = flag("fetch CIFAR or a data set of torchvision into --data-path, or hf/NAME into its cache, if it"
        " is not there", False, modes=EVERY_READER, may_change=True)
    verify_checksum: bool = flag("insist on the published checksums; --no-verify-checksum reads a re-saved copy of"
        " CIFAR, plain data only", True, negatable=True, modes=(*EVERY_READER, MEASURE), may_change=True)
    classes: list[str] | None = flag("use these classes alone: their names, or a file with a name on each line",
        check=class_names, metavar="NAMES", default_text="all", modes=(*EVERY_READER, SUMMARY))
    image_column: str | None = flag("column of a table (csv, hf) that holds the images", check=text, metavar="NAME",
        default_text="found by its type or name", modes=(*EVERY_READER, SUMMARY))
    label_column: str | None = flag("column of a table (csv, hf) that holds the classes", check=text, metavar="NAME",
        default_text="found by its type or name", modes=(*EVERY_READER, SUMMARY))
    dataset_args: dict[str, Any] | None = flag("arguments of the library's data set, such as split=letters of"
        " torchvision/EMNIST; csv takes root=FOLDER of its files; values are Python's", name="dataset-arg",
        check=key_value, metavar="NAME=VALUE", nargs="+", default_text="none", modes=(*EVERY_READER, SUMMARY))
    data_rules: int = flag(
        "version of the rules by which image files are found and read (docs/data.md); 1: those of"
        " runs that store none", check=number(int, OLDEST, NEWEST), metavar="N",
        default_text="the newest; a run keeps its own", modes=(TRAIN, INSPECT))
    exif_orientation: bool = flag("turn photographs upright, as their EXIF data say", negatable=True,
        default_text="on; off with --data-rules 1", modes=(TRAIN, INSPECT))
    max_pixels: int = flag("refuse images of more pixels, which take as many bytes and more to decode",
        check=COUNT, metavar="N", default_text=f"{MAX_PIXELS:,}; a run keeps its own",
        modes=(*EVERY_READER, PREDICT, MEASURE), may_change=True)
    img_size: int | list[int] = flag("side of the square images that the model gets, in pixels, or height,width",
        check=image_size, metavar="PX|H,W",
        default_text="that of the data set's images where they are squares of one size, up to 224; else 224, and"
        " for some models",
        modes=(*EVERY_BUILDER, LIST, INSPECT))
    resize_mode: str = flag("how images of another shape become the model's, in training and evaluation: crop, their"
        " aspect ratio is kept, and the margin lost; squeeze, all of them in the model's aspect ratio; letterbox,"
        " all of them in their own, on the mean colour", "crop", check=one_of("crop", "squeeze", "letterbox"),
        metavar="MODE", modes=(TRAIN, EVALUATE, INSPECT))
    in_chans: int = flag("channels of the images that the model gets (1: grey, 3: colour)", check=channels,
        metavar="N", default_text="the data set's", modes=(*EVERY_BUILDER, LIST, INSPECT))
    normalization: str = flag(
        "mean and deviation that pixels are normalised with: those of the dataset's training"
        " images (of sets that are streamed: imagenet's), imagenet's, half (both 0.5), or"
        " those of the --pretrained weights", check=one_of("dataset", "imagenet", "half", "pretrained"),
        metavar="KIND", default_text="dataset; pretrained with --pretrained", modes=EVERY_READER)
    val_fraction: float | None = flag(
        "share of the training images that selects the checkpoint; 0: train on all of them and"
        " report the last epoch", check=FRACTION, metavar="F",
        default_text="0.1; a data set's own validation split, where it has that besides a test split",
        modes=EVERY_AUGMENTER)
    train_fraction: float = flag("share of the remaining training images to use; smaller shares lie within larger ones",
        1.0, check=number(float, 0, 1, open_low=True), metavar="F", modes=EVERY_AUGMENTER)
    select_on: str = flag("what selects the checkpoint: validation, images held out of the training set; reported, the"
        " split that is reported on, as some published protocols do: all training images are used, and the"
        " result is optimistic", "validation", check=one_of("validation", "reported"), metavar="SPLIT")
    drop_duplicates: bool = flag("leave training images out that also stand in the validation or the test split", False,
        modes=EVERY_AUGMENTER)
    accept_changed_data: bool = flag("score a run on its data set although images of its test split are missing or"
        " changed; the summary says so, and compare.py does not pair such scores", False, modes=(EVALUATE, MEASURE))
    on_bad_image: str = flag("what an image file that cannot be read does: error, it stops the run; skip, it alone is"
        " left out of its batch, and bad_images.txt in the run directory lists it", "error",
        check=one_of("error", "skip"), metavar="WHAT", modes=EVERY_READER, may_change=True)
    check_images: bool = flag("decode every image file before anything else, and name those that are broken", False,
        modes=EVERY_AUGMENTER, may_change=True)
    cache_resized: str | None = flag(
        "train from a copy of the training images that is quicker to read, jpeg or raw (quicker"
        " still, and ten times as large): short side 256 px, or --img-size / 0.875 where that is more; what is"
        " missing of the copy is made first", check=one_of("jpeg", "raw"), metavar="KIND", default_text="off")
    cache_dir: str | None = flag("folder of that copy, which any number of runs may share", check=path, metavar="PATH",
        default_text=".resized in --data-path", may_change=True)
    num_workers: int = flag("processes (threads, for sets kept in memory) that decode image files",
        check=number(int, 0, 256), metavar="N", default_text="one per processor, at most 24",
        modes=(*EVERY_READER, PREDICT, MEASURE), may_change=True)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """augmentation of training images; --tta is of test images"""

    augmentation: str = flag("mixing of images: none, cutmix, mixup, or cutmix+mixup (either, by chance)", "none",
        check=one_of("none", "cutmix", "mixup", "cutmix+mixup"), metavar="KIND", modes=EVERY_AUGMENTER)
    cutmix_alpha: float = flag("CutMix draws the kept share from Beta(alpha, alpha)", 1.0, check=POSITIVE, metavar="A",
        modes=EVERY_AUGMENTER)
    mixup_alpha: float = flag("MixUp draws the kept share from Beta(alpha, alpha)", 0.8, check=POSITIVE, metavar="A",
        modes=EVERY_AUGMENTER)
    mix_prob: float = flag("probability that a batch is mixed", 1.0, check=PROBABILITY, metavar="P",
        modes=EVERY_AUGMENTER)
    rand: bool = flag("RandAugment, random resized crops, random erasing", False, negatable=True, modes=EVERY_AUGMENTER)
    crop: str = flag("pad: random crop after padding with black; resized: random area and aspect ratio; none",
        check=one_of("pad", "resized", "none"), metavar="KIND",
        default_text="pad; resized for large images or with --rand", modes=EVERY_AUGMENTER)
    crop_padding: int | None = flag("padding of --crop pad, in pixels", check=number(int, 0, 512), metavar="PX",
        default_text="an eighth of the image's side", modes=EVERY_AUGMENTER)
    flip: bool = flag("mirror images left-right at random", negatable=True, default_text="on, but for digits",
        modes=EVERY_AUGMENTER)
    random_erasing: float = flag("probability of erasing a random rectangle of an image", check=PROBABILITY,
        metavar="P", default_text="0; 0.25 with --rand", modes=EVERY_AUGMENTER)
    tta: str = flag("score the test split a second time, by the mean logits of each image and its mirror image (flip),"
        " or of both shifted by a pixel, too (shift)", "none", check=one_of("none", "flip", "shift"), metavar="KIND",
        modes=(TRAIN, EVALUATE), may_change=True)


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
        " needs the shape and the last part of the name of the model's", False, modes=EVERY_RUN)
    freeze: str = flag("what is not trained: none, or backbone: all but the head, in evaluation mode", "none",
        check=one_of("none", "backbone"), metavar="WHAT")


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """optimisation"""

    recipe: str | None = flag(f"values for a set of flags, of which those that are given win: {', '.join(RECIPES)}",
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
    on_nonfinite: str = flag("where a loss or weight is no longer finite: stop, or rollback: go on from the last"
        " checkpoint without the batches since, at most three times", "stop", check=one_of("stop", "rollback"),
        metavar="WHAT")
    schedule: str = flag("learning rate over the epochs: cosine, linear, step, multistep or constant", "cosine",
        check=one_of("cosine", "linear", "step", "multistep", "constant"), metavar="KIND")
    warmup_epochs: float = flag("epochs over which the learning rate first grows linearly, part of --epochs", 0.0,
        check=number(float, 0), metavar="N")
    step_size: int | None = flag("epochs between decays, with --schedule step", check=COUNT, metavar="N",
        default_text="a third of --epochs")
    milestones: list[int] | None = flag("epochs of the decays, with --schedule multistep", check=milestones,
        metavar="N,N,...", default_text="at 30, 60 and 80 percent of --epochs")
    gamma: float = flag("factor of each decay, with --schedule step or multistep", 0.1,
        check=number(float, 0, 1, open_low=True), metavar="G")
    min_lr: float = flag(
        "learning rate that no schedule goes below (before the factors of --layer-decay and --head-lr)", 0.0,
        check=number(float, 0), metavar="LR")
    ema: float | None = flag(
        "also keep an exponential moving average of the weights, with this decay per step; 0: none", check=FRACTION,
        metavar="DECAY", default_text="none")
    select_by: str = flag("the best epoch is that with the highest validation top1, map (mean average precision), f1"
        " (macro-averaged), or with the lowest loss", "top1", check=one_of("top1", "map", "f1", "loss"),
        metavar="METRIC")


@dataclass(frozen=True, kw_only=True)
class Loss:
    """loss"""

    loss: str = flag("CE: cross-entropy; BCE: binary cross-entropy of each class, summed over classes", "CE",
        check=one_of("CE", "BCE"), metavar="NAME")
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


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """hardware"""

    device: str | None = flag("cpu, cuda, cuda:N or mps", check=text, metavar="NAME",
        default_text="a GPU if there is one", modes=EVERY_USER, may_change=True)
    gpu: int | None = flag("number of the GPU to use; without GPUs the CPU is used, with a warning",
        check=number(int, 0), metavar="N", default_text="the first", modes=EVERY_USER, may_change=True)
    precision: str = flag("of training and its validation: fp32 (with TF32 products on GPUs, unless --deterministic),"
        " bf16, fp16, or auto: bf16 where all layers are fast in it; with --measure --speed: what is timed", "auto",
        check=one_of("auto", "fp32", "bf16", "fp16"), metavar="KIND", modes=(TRAIN, MEASURE))
    eval_precision: str = flag("of everything that is reported: test scores, predictions, robustness; fp32 (never"
        " TF32), bf16 or fp16", "fp32", check=one_of("fp32", "bf16", "fp16"), metavar="KIND", modes=EVERY_USER)
    channels_last: bool = flag("keep images and convolutions in channels-last memory", True, negatable=True)
    sync_bn: bool = flag("batch normalisation over the batches of all processes (GPUs only)", False)
    compile: bool = flag("compile the model with torch.compile (minutes, once)", False)
    deterministic: bool = flag("insist on deterministic algorithms on GPUs too, at some cost in speed", False)
    split_seed: int | None = flag("seed of the carved validation split and of --train-fraction's images alone",
        check=SEED, metavar="N", default_text="--seed", modes=EVERY_AUGMENTER)
    seed: int = flag("seed of every random draw: split, initialisation, order, augmentation, dropout", 0, check=SEED,
        metavar="N", modes=EVERY_AUGMENTER)

    @property
    def seed_of_split(self) -> int:
        """Seed of the carved validation split and of the images of --train-fraction."""
        return self.seed if self.split_seed is None else self.split_seed


@dataclass(frozen=True, kw_only=True)
class Run:
    """run directory and tracking"""

    run_name: str = flag("name of the run and of its folder below --runs-dir", check=plain_name, metavar="NAME",
        aliases=("wandb-run-name",), default_text="DATASET-MODEL-seedN", modes=EVERY_RUN)
    runs_dir: str = flag("folder of the run directories", "runs", check=path, metavar="PATH", modes=EVERY_RUN,
        may_change=True)
    resume: bool | None = flag(
        "continue the stopped run of this name, or of the name that the flags give it; its own flags are"
        " taken up again. --resume auto: start it if it is not there, and continue it with the same flags if it"
        " is, as jobs do that are requeued", check=one_of("auto"), nargs="?", const=True, metavar="auto",
        default_text="start a new run", may_change=True)
    checkpoint_every: str = flag("optimiser steps (500), or seconds (600s), between two checkpoints, besides those at"
        " the end of each epoch", "600s", check=interval, metavar="N|Ns", may_change=True)
    max_minutes: float | None = flag(
        "time after which the run is saved and leaves with status 143, to be resumed; in a SLURM"
        " job also two minutes before its time limit", check=POSITIVE, metavar="M", default_text="no limit",
        may_change=True)
    overwrite: bool = flag("delete the run directory of this name, if there is one; with --measure: measure anew",
        False, modes=(*EVERY_RUN, MEASURE), may_change=True)
    wandb: str = flag("Weights & Biases: online, offline, disabled, or auto: what WANDB_MODE says, else online with"
        " credentials and offline without", "auto", check=one_of("auto", "online", "offline", "disabled"),
        metavar="MODE", modes=(*EVERY_RUN, PREDICT), may_change=True)
    wandb_project: str = flag("project of the run at Weights & Biases", "image-classification", check=text,
        metavar="NAME", modes=EVERY_RUN, may_change=True, variable="WANDB_PROJECT")
    wandb_group: str | None = flag("group of the run at Weights & Biases; the runs of a study have its name",
        check=text, metavar="NAME", default_text="none", modes=EVERY_RUN, may_change=True, variable="WANDB_RUN_GROUP")


@dataclass(frozen=True, kw_only=True)
class Settings(Groups):
    """All settings of a run."""

    data: Data = field(default_factory=Data)
    augmentation: Augmentation = field(default_factory=Augmentation)
    model: Model = field(default_factory=Model)
    optimization: Optimization = field(default_factory=Optimization)
    loss: Loss = field(default_factory=Loss)
    distillation: Distillation = field(default_factory=Distillation)
    hardware: Hardware = field(default_factory=Hardware)
    run: Run = field(default_factory=Run)

    def stored(self) -> dict[str, Any]:
        """Returns the values that describe the run, by key, for settings.json, checkpoints and wandb."""
        return {key: value for key, value in self.flat().items() if TRAIN in FLAGS[key].modes and key not in NOT_STORED}


FLAGS = Settings.flags()
