"""Every flag of every script, declared once: its help, its default, its check, and when it has an effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from image_datasets import list_datasets
from image_datasets.reading import MAX_PIXELS, NEWEST, OLDEST
from settings.flag_types import (
    COUNT,
    FRACTION,
    POSITIVE,
    PROBABILITY,
    channels,
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

TRAIN, EVALUATE, MEASURE, PREDICT = "train", "evaluate", "measure", "predict"
LIST, SUMMARY, INSPECT = "list", "summary", "inspect"
EVERY_RUN = (TRAIN, EVALUATE)
EVERY_READER = (TRAIN, EVALUATE, INSPECT)  # of a data set's images
EVERY_USER = (TRAIN, EVALUATE, PREDICT, MEASURE)  # of a model
EVERY_BUILDER = (TRAIN, SUMMARY)  # of a model
EVERY_AUGMENTER = (TRAIN, INSPECT)
SEED = number(int, 0, 2**31 - 1)


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: without the leading hyphens, words joined by hyphens.
        default: the value when it is not given; None: `default_text` says what happens then.
        check: turns the given text into the value, or raises argparse.ArgumentTypeError. None: a switch.
        negatable: a switch that also has a --no- form.
        modes: what main.py can be asked to do when this flag has an effect.
        may_change: a resumed run may be given another value, as its results do not depend on it.
        nargs: as in argparse; with "+" a flag that is given again adds to its values.
        const: with nargs "?", the value when it is given without one.
        positional: given as a bare word, without its name.
        variable: of the environment; where it is set it takes the default's place.
    """

    name: str
    help: str
    default: Any = None
    default_text: str = ""
    check: Callable | None = None
    metavar: str | None = None
    aliases: tuple[str, ...] = ()
    negatable: bool = False
    modes: tuple[str, ...] = (TRAIN,)
    may_change: bool = False
    nargs: str | None = None
    const: Any = None
    dest: str | None = None
    positional: bool = False
    variable: str | None = None

    @property
    def key(self) -> str:
        """Its name among the settings."""
        return self.dest or self.name.replace("-", "_")


GROUPS: dict[str, list[Flag]] = {
    "what to do (training, unless one of these is given)": [
        Flag("evaluate", "score the model in this checkpoint instead of training; writes a run directory",
             check=path, metavar="CHECKPOINT", default_text="train", modes=(EVALUATE,)),
        Flag("measure", "measure finished runs, given as run directories or as folders that hold some: writes"
             " robustness.json and cost.json into each, unless they are there", check=path, metavar="RUN", nargs="+",
             default_text="train", modes=(MEASURE,)),
        Flag("predict", "print the five most probable classes of images: the checkpoint, then the image files",
             check=path, metavar=("CHECKPOINT", "IMAGE"), nargs="+", default_text="train", modes=(PREDICT,)),
        Flag("list-models", "print a table of the models that match a pattern such as 'resnet*', their parameters and"
             " FLOPs for --dataset (here by default cifar100); the names of timm's or torchvision's for 'timm/vit*',"
             " 'torchvision/*'",
             check=text, metavar="PATTERN", nargs="?", default_text="train", modes=(LIST,)),
        Flag("summary", "print the layers of --model, with shapes and parameters, as it is built for --dataset",
             default=False, modes=(SUMMARY,)),
        Flag("inspect-data", "print the images per class and split, mean and deviation of --dataset, and which of them"
             " are nearly constant, and draw 25"
             " training images as they are augmented into this file, replacing it", check=path,
             metavar="PNG", default_text="train", modes=(INSPECT,)),
    ],
    "what to measure (with --measure; both, unless one of these is given)": [
        Flag("corruptions", "top-1 under eight corruptions, each at five strengths", default=False, modes=(MEASURE,)),
        Flag("speed", "training and inference rates, latency and memory; by default with --batch-size 128 on GPUs, 32"
             " elsewhere", default=False, modes=(MEASURE,)),
        Flag("corrupt-images", "number of images to corrupt, evenly spread over the split that is reported",
             check=COUNT, metavar="N", default_text="all", modes=(MEASURE,)),
    ],
    "data": [
        Flag("dataset", f"name of the data set: {', '.join(list_datasets())}",
             check=text, metavar="NAME", default_text="cifar100 with --datapath, else digits",
             modes=(*EVERY_READER, LIST, SUMMARY)),
        Flag("data-path", "folder that holds the data set", check=path, metavar="PATH", aliases=("datapath",),
             default_text="none; digits needs none", modes=(*EVERY_READER, MEASURE, LIST, SUMMARY), may_change=True),
        Flag("download", "fetch CIFAR into --data-path if it is not there", default=False, modes=EVERY_READER,
             may_change=True),
        Flag("verify-checksum", "insist on the published checksums; --no-verify-checksum reads a re-saved copy of"
             " CIFAR, plain data only", default=True, negatable=True, modes=(*EVERY_READER, MEASURE), may_change=True),
        Flag("data-rules", "version of the rules by which image files are found and read (docs/data.md); 1: those of"
             " runs that store none", check=number(int, OLDEST, NEWEST), metavar="N",
             default_text="the newest; a run keeps its own", modes=(TRAIN, INSPECT)),
        Flag("exif-orientation", "turn photographs upright, as their EXIF data say", negatable=True,
             default_text="on; off with --data-rules 1", modes=(TRAIN, INSPECT)),
        Flag("max-pixels", "refuse images of more pixels, which take as many bytes and more to decode", check=COUNT,
             metavar="N", default_text=f"{MAX_PIXELS:,}; a run keeps its own", modes=(*EVERY_READER, PREDICT, MEASURE),
             may_change=True),
        Flag("img-size", "side of the square images that the model gets, in pixels, or height,width", check=image_size,
             metavar="PX|H,W",
             default_text="that of the data set's images where they are squares of one size, up to 224; else 224, and"
             " for some models",
             modes=(*EVERY_BUILDER, LIST, INSPECT)),
        Flag("resize-mode", "how images of another shape become the model's, in training and evaluation: crop, their"
             " aspect ratio is kept, and the margin lost; squeeze, all of them in the model's aspect ratio; letterbox,"
             " all of them in their own, on the mean colour", default="crop",
             check=one_of("crop", "squeeze", "letterbox"), metavar="MODE", modes=(TRAIN, INSPECT)),
        Flag("in-chans", "channels of the images that the model gets (1: grey, 3: colour)", check=channels,
             metavar="N", default_text="the data set's", modes=(*EVERY_BUILDER, LIST, INSPECT)),
        Flag("normalization", "mean and deviation that pixels are normalised with: those of the dataset's training"
             " images (of sets that are streamed: imagenet's), imagenet's, half (both 0.5), or"
             " those of the --pretrained weights", check=one_of("dataset", "imagenet", "half", "pretrained"),
             metavar="KIND", default_text="dataset; pretrained with --pretrained", modes=EVERY_AUGMENTER),
        Flag("val-fraction", "share of the training images that selects the checkpoint; 0: train on all of them and"
             " report the last epoch", check=FRACTION, metavar="F",
             default_text="0.1; a data set's own validation split, where it has that besides a test split",
             modes=EVERY_AUGMENTER),
        Flag("train-fraction", "share of the remaining training images to use; smaller shares lie within larger ones",
             default=1.0, check=number(float, 0, 1, open_low=True), metavar="F", modes=EVERY_AUGMENTER),
        Flag("select-on", "what selects the checkpoint: validation, images held out of the training set; reported, the"
             " split that is reported on, as some published protocols do: all training images are used, and the"
             " result is optimistic", default="validation", check=one_of("validation", "reported"), metavar="SPLIT"),
        Flag("drop-duplicates", "leave training images out that also stand in the validation or the test split",
             default=False, modes=EVERY_AUGMENTER),
        Flag("accept-changed-data", "score a run on its data set although images of its test split are missing or"
             " changed; the summary says so, and compare.py does not pair such scores", default=False,
             modes=(EVALUATE, MEASURE)),
        Flag("on-bad-image", "what an image file that cannot be read does: error, it stops the run; skip, it alone is"
             " left out of its batch, and bad_images.txt in the run directory lists it", default="error",
             check=one_of("error", "skip"), metavar="WHAT", modes=EVERY_READER, may_change=True),
        Flag("check-images", "decode every image file before anything else, and name those that are broken",
             default=False, modes=EVERY_AUGMENTER, may_change=True),
        Flag("cache-resized", "train from a copy of the training images that is quicker to read, jpeg or raw (quicker"
             " still, and ten times as large): short side 256 px, or --img-size / 0.875 where that is more; what is"
             " missing of the copy is made first", check=one_of("jpeg", "raw"), metavar="KIND", default_text="off"),
        Flag("cache-dir", "folder of that copy, which any number of runs may share", check=path, metavar="PATH",
             default_text=".resized in --data-path", may_change=True),
        Flag("num-workers", "processes (threads, for sets kept in memory) that decode image files",
             check=number(int, 0, 256), metavar="N", default_text="one per processor, at most 8",
             modes=(*EVERY_READER, MEASURE), may_change=True),
    ],
    "augmentation (of training images only)": [
        Flag("augmentation", "mixing of images: none, cutmix, mixup, or cutmix+mixup (either, by chance)",
             default="none", check=one_of("none", "cutmix", "mixup", "cutmix+mixup"), metavar="KIND",
             modes=EVERY_AUGMENTER),
        Flag("cutmix-alpha", "CutMix draws the kept share from Beta(alpha, alpha)", default=1.0, check=POSITIVE,
             metavar="A", modes=EVERY_AUGMENTER),
        Flag("mixup-alpha", "MixUp draws the kept share from Beta(alpha, alpha)", default=0.8, check=POSITIVE,
             metavar="A", modes=EVERY_AUGMENTER),
        Flag("mix-prob", "probability that a batch is mixed", default=1.0, check=PROBABILITY, metavar="P",
             modes=EVERY_AUGMENTER),
        Flag("rand", "RandAugment, random resized crops and random erasing", default=False, negatable=True,
             modes=EVERY_AUGMENTER),
        Flag("crop", "pad: random crop after padding with black; resized: random area and aspect ratio; none",
             check=one_of("pad", "resized", "none"), metavar="KIND",
             default_text="pad; resized for large images or with --rand", modes=EVERY_AUGMENTER),
        Flag("crop-padding", "padding of --crop pad, in pixels", check=number(int, 0, 512), metavar="PX",
             default_text="an eighth of the image's side", modes=EVERY_AUGMENTER),
        Flag("flip", "mirror images left-right at random", negatable=True,
             default_text="on, but for digits", modes=EVERY_AUGMENTER),
        Flag("random-erasing", "probability of erasing a random rectangle of an image", check=PROBABILITY, metavar="P",
             default_text="0; 0.25 with --rand", modes=EVERY_AUGMENTER),
    ],
    "model": [
        Flag("model", "name of the model, from --list-models, or timm/NAME or torchvision/NAME", default="resnet18",
             check=text, metavar="NAME", modes=(TRAIN, EVALUATE, SUMMARY)),
        Flag("model-arg", "arguments of the model's constructor that have no flag; values are Python's",
             check=key_value, metavar="NAME=VALUE", dest="model_args", nargs="+", default_text="none",
             modes=EVERY_BUILDER),
        Flag("pretrained", "start from the published ImageNet weights, with a new head", default=False),
        Flag("weights", "start from this checkpoint or state dict; a head for another number of classes is replaced",
             check=path, metavar="FILE", default_text="random initialisation"),
        Flag("weights-kind", "which weights of the --weights file, where it holds both: raw, or ema: averaged",
             check=one_of("raw", "ema"), metavar="KIND", default_text="ema; of this suite's checkpoints those that were"
             " selected"),
        Flag("freeze", "what is not trained: none, or backbone: all but the head, in evaluation mode", default="none",
             check=one_of("none", "backbone"), metavar="WHAT"),
    ],
    "optimisation": [
        Flag("recipe", f"values for a set of flags, of which those that are given win: {', '.join(RECIPES)}",
             check=one_of(*RECIPES), metavar="NAME", default_text="none", modes=EVERY_AUGMENTER),
        Flag("epochs", "passes over the training images", default=100, check=COUNT, metavar="N"),
        Flag("batch-size", "images per batch, of each process; auto: in training, the largest power of two up to"
             " 1,024 that fits into memory", default=128, check=count_or_auto, metavar="N",
             modes=(*EVERY_RUN, MEASURE)),
        Flag("accumulate", "batches whose gradients make up one step of the optimiser", default=1, check=COUNT,
             metavar="N"),
        Flag("optimizer", "sgd; muon-sgd, which is Muon for the filters of convolutions and Nesterov SGD for all else;"
             " adam, adamw, or any other that timm knows, such as lamb or lion", default="sgd",
             check=str.lower, metavar="NAME"),
        Flag("lr", "peak learning rate, per step of the optimiser", check=POSITIVE, metavar="LR",
             default_text="0.1 for sgd and muon-sgd, 0.001 for others"),
        Flag("scale-lr", "multiply --lr by the number of processes (torchrun), as the batches are so much larger",
             default=False),
        Flag("head-lr", "peak learning rate of the head, where it differs from --lr", check=POSITIVE, metavar="LR",
             default_text="--lr"),
        Flag("layer-decay", "factor of the learning rate from each layer to the one below it, 1 at the head",
             check=number(float, 0, 1, open_low=True), metavar="F", default_text="no decay"),
        Flag("momentum", "momentum of sgd and of those of timm's optimisers that have one", default=0.9,
             check=FRACTION, metavar="M"),
        Flag("nesterov", "Nesterov momentum, with sgd", default=False),
        Flag("weight-decay", "L2 penalty (decoupled in adamw), not on biases, normalisation and position embeddings",
             check=number(float, 0), metavar="WD", default_text="0.0005 for sgd and muon-sgd, 0.05 for adamw, else 0"),
        Flag("decay-all", "weight decay on these too", default=False),
        Flag("clip-grad", "scale gradients down to this global L2 norm", check=POSITIVE, metavar="NORM",
             default_text="no clipping"),
        Flag("on-nonfinite", "where a loss or weight is no longer finite: stop, or rollback: go on from the last"
             " checkpoint without the batches since, at most three times", default="stop",
             check=one_of("stop", "rollback"), metavar="WHAT"),
        Flag("schedule", "learning rate over the epochs: cosine, linear, step, multistep or constant",
             default="cosine", check=one_of("cosine", "linear", "step", "multistep", "constant"), metavar="KIND"),
        Flag("warmup-epochs", "epochs over which the learning rate first grows linearly, part of --epochs", default=0.0,
             check=number(float, 0), metavar="N"),
        Flag("step-size", "epochs between decays, with --schedule step", check=COUNT, metavar="N",
             default_text="a third of --epochs"),
        Flag("milestones", "epochs of the decays, with --schedule multistep", check=milestones, metavar="N,N,...",
             default_text="at 30, 60 and 80 percent of --epochs"),
        Flag("gamma", "factor of each decay, with --schedule step or multistep", default=0.1,
             check=number(float, 0, 1, open_low=True), metavar="G"),
        Flag("min-lr", "learning rate that no schedule goes below (before the factors of --layer-decay and --head-lr)",
             default=0.0, check=number(float, 0), metavar="LR"),
        Flag("ema", "also keep an exponential moving average of the weights, with this decay per step; 0: none",
             check=FRACTION, metavar="DECAY", default_text="none"),
        Flag("select-by", "the best epoch is that with the highest validation top1, map (mean average precision), f1"
             " (macro-averaged), or with the lowest loss", default="top1", check=one_of("top1", "map", "f1", "loss"),
             metavar="METRIC"),
    ],
    "loss": [
        Flag("loss", "CE: cross-entropy; BCE: binary cross-entropy of each class, summed over classes", default="CE",
             check=one_of("CE", "BCE"), metavar="NAME"),
        Flag("label-smoothing", "share of the target that is spread over all classes", default=0.0, check=FRACTION,
             metavar="S"),
        Flag("bce-target-threshold", "with mixed images, BCE's target is 1 for classes with more than this share",
             check=FRACTION, metavar="T", default_text="the shares themselves"),
    ],
    "distillation": [
        Flag("teacher", "a trained model, whose answers to the same images the student learns too: a name, with the"
             " published ImageNet weights where the data's classes are ImageNet's, else with --teacher-weights",
             check=text, metavar="NAME", default_text="none"),
        Flag("teacher-weights", "checkpoint or state dict of the teacher", check=path, metavar="FILE",
             default_text="the published ImageNet weights"),
        Flag("teacher-weights-kind", "as --weights-kind, of the --teacher-weights file", check=one_of("raw", "ema"),
             metavar="KIND", default_text="as there"),
        Flag("teacher-epochs", "first train the teacher for so many epochs on the same data, with the same flags, as a"
             " run of its own named RUN-NAME-teacher", check=COUNT, metavar="N", default_text="it is trained already"),
        Flag("cache-teacher", "ask the teacher once for each image; for images that are kept on the device and not"
             " augmented", default=False),
        Flag("distill", "what is learnt from the teacher: hard, the class that it finds most probable; soft, its"
             " probabilities", check=one_of("soft", "hard", "none"), metavar="KIND",
             default_text="hard with --teacher, else none"),
        Flag("distill-alpha", "weight of the teacher's part of the loss; the labels' part has the rest", default=0.5,
             check=PROBABILITY, metavar="A"),
        Flag("distill-temp", "temperature of --distill soft, by which both sides' logits are divided", default=3.0,
             check=POSITIVE, metavar="T"),
    ],
    "hardware": [
        Flag("device", "cpu, cuda, cuda:N or mps", check=text, metavar="NAME", default_text="a GPU if there is one",
             modes=EVERY_USER, may_change=True),
        Flag("gpu", "number of the GPU to use; without GPUs the CPU is used, with a warning", check=number(int, 0),
             metavar="N", default_text="the first", modes=EVERY_USER, may_change=True),
        Flag("precision", "of training and its validation: fp32 (with TF32 matrix products on GPUs, unless"
             " --deterministic), bf16, fp16, or auto: bf16 on GPUs and CPUs that have matrix units for it, but fp32 on"
             " CPUs for depthwise convolutions; with --measure --speed: the precision that is timed",
             default="auto",
             check=one_of("auto", "fp32", "bf16", "fp16"), metavar="KIND", modes=(TRAIN, MEASURE)),
        Flag("eval-precision", "of everything that is reported: test scores, predictions, robustness; fp32 (never"
             " TF32), bf16 or fp16", default="fp32", check=one_of("fp32", "bf16", "fp16"), metavar="KIND",
             modes=EVERY_USER),
        Flag("channels-last", "keep images and convolutions in channels-last memory", default=True, negatable=True),
        Flag("sync-bn", "batch normalisation over the batches of all processes (GPUs only)", default=False),
        Flag("compile", "compile the model with torch.compile (minutes, once)", default=False),
        Flag("deterministic", "insist on deterministic algorithms on GPUs too, at some cost in speed", default=False),
        Flag("split-seed", "seed of the carved validation split and of --train-fraction's images alone", check=SEED,
             metavar="N", default_text="--seed", modes=EVERY_AUGMENTER),
        Flag("seed", "seed of every random draw: split, initialisation, order, augmentation, dropout", default=0,
             check=SEED, metavar="N", modes=EVERY_AUGMENTER),
    ],
    "run directory and tracking": [
        Flag("run-name", "name of the run and of its folder below --runs-dir", check=plain_name, metavar="NAME",
             aliases=("wandb-run-name",), default_text="DATASET-MODEL-seedN", modes=EVERY_RUN),
        Flag("runs-dir", "folder of the run directories", default="runs", check=path, metavar="PATH", modes=EVERY_RUN,
             may_change=True),
        Flag("resume", "continue the stopped run of this name, or of the name that the flags give it; its own flags are"
             " taken up again. --resume auto: start it if it is not there, and continue it with the same flags if it"
             " is, as jobs do that are requeued",
             check=one_of("auto"), nargs="?", const=True, metavar="auto", default_text="start a new run",
             may_change=True),
        Flag("checkpoint-every", "optimiser steps (500), or seconds (600s), between two checkpoints, besides those at"
             " the end of each epoch", default="600s", check=interval, metavar="N|Ns", may_change=True),
        Flag("max-minutes", "time after which the run is saved and leaves with status 143, to be resumed; in a SLURM"
             " job also two minutes before its time limit", check=POSITIVE, metavar="M", default_text="no limit",
             may_change=True),
        Flag("overwrite", "delete the run directory of this name, if there is one; with --measure: measure anew",
             default=False, modes=(*EVERY_RUN, MEASURE), may_change=True),
        Flag("wandb", "Weights & Biases: online, offline, disabled, or auto: what WANDB_MODE says, else online with"
             " credentials and offline without",
             default="auto", check=one_of("auto", "online", "offline", "disabled"), metavar="MODE", modes=EVERY_RUN,
             may_change=True),
        Flag("wandb-project", "project of the run at Weights & Biases", default="image-classification", check=text,
             metavar="NAME", modes=EVERY_RUN, may_change=True, variable="WANDB_PROJECT"),
        Flag("wandb-group", "group of the run at Weights & Biases; the runs of a study have its name", check=text,
             metavar="NAME", default_text="none", modes=EVERY_RUN, may_change=True, variable="WANDB_RUN_GROUP"),
    ],
}  # fmt: skip

FLAGS: dict[str, Flag] = {flag.key: flag for flags in GROUPS.values() for flag in flags}


def training_groups(defaults: dict[str, Any], without: tuple[str, ...]) -> dict[str, list[Flag]]:
    """The flags of a training, for a script that does nothing else.

    Args:
        defaults: by flag, where they are not those of main.py.
        without: flags that the script does not offer.
    """
    groups = {
        title: [replace(flag, default=defaults.get(flag.key, flag.default)) for flag in flags
                if TRAIN in flag.modes and flag.key not in without]
        for title, flags in GROUPS.items()
    }  # fmt: skip
    return {title: flags for title, flags in groups.items() if flags}
