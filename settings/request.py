"""The request to main.py. Unlike settings, it does not describe a run and is not stored with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from settings.flag import AVERAGE, EVALUATE, INSPECT, LIST, MEASURE, PREDICT, SUMMARY, TRAIN, Groups, flag
from settings.flag_types import COUNT, path, text

# fmt: off


@dataclass(frozen=True, kw_only=True)
class ToDo:
    """what to do (training, unless one of these is given)"""

    evaluate: str | None = flag("score the model in this checkpoint instead of training; writes a run directory. For"
        " weights of others --model and --dataset are needed, and flags of the model and of its images are accepted",
        check=path, metavar="CHECKPOINT", default_text="train", modes=(EVALUATE,))
    average: list[str] | None = flag("average the weights of these checkpoints, of runs of one model with the same"
        " training and validation images, recompute the statistics of batch norm, and score the average; writes a run"
        " directory", check=path, metavar="CHECKPOINT", nargs="+", default_text="train", modes=(AVERAGE,))
    measure: list[str] | None = flag(
        "measure finished runs, given as run directories or as folders that hold some: writes"
        " robustness.json and cost.json into each, unless they are there", check=path, metavar="RUN", nargs="+",
        default_text="train", modes=(MEASURE,))
    predict: list[str] | None = flag(
        "print the five most probable classes of images: the checkpoint, then image files, folders, or patterns in"
        " quotes such as 'photos/**/*.jpg'; if a file cannot be read, the others are answered, and the exit status"
        " is 1", check=path, metavar=("CHECKPOINT", "PATH"), nargs="+", default_text="train", modes=(PREDICT,))
    list_models: str | None = flag(
        "print a table of the models that match a pattern such as 'resnet*', their parameters and"
        " FLOPs for --dataset (here by default cifar100); the names of timm's or torchvision's for 'timm/vit*',"
        " 'torchvision/*'", check=text, metavar="PATTERN", nargs="?", default_text="train", modes=(LIST,))
    summary: bool = flag("print the layers of --model, with shapes and parameters, as it is built for --dataset", False,
        modes=(SUMMARY,))
    inspect_data: str | None = flag(
        "print the images per class and split, mean and deviation of --dataset, and which of them"
        " are nearly constant, and draw 25"
        " training images as they are augmented into this file, replacing it", check=path, metavar="PNG",
        default_text="train", modes=(INSPECT,))


@dataclass(frozen=True, kw_only=True)
class ToMeasure:
    """what to measure (with --measure; both, unless one of these is given)"""

    corruptions: bool = flag("top-1 under eight corruptions, each at five strengths", False, modes=(MEASURE,))
    speed: bool = flag("training and inference rates, latency and memory; by default with --batch-size 128 on GPUs, 32"
        " elsewhere", False, modes=(MEASURE,))
    corrupt_images: int | None = flag("number of images to corrupt, evenly spread over the split that is reported",
        check=COUNT, metavar="N", default_text="all", modes=(MEASURE,))


@dataclass(frozen=True, kw_only=True)
class ToPredict:
    """where predictions go (with --predict)"""

    output: str | None = flag("write them to this file, .csv or .jsonl, replacing it: a row per image, with path,"
        " class_1, probability_1 and so on, and error where a file cannot be read", check=path, metavar="FILE",
        default_text="print them", modes=(PREDICT,))


@dataclass(frozen=True, kw_only=True)
class FromFile:
    """configuration file (flags on the command line win)"""

    config: str | None = flag("take flags from FILE.toml, which has them at its top level (epochs = 20); or repeat the"
        " run that left this settings.json, on the same machine bit for bit: values that followed from others stay as"
        " they were, but name, folder, device, workers and wandb are this command line's", check=path,
        metavar="FILE.toml|settings.json", default_text="none", modes=(TRAIN,))


@dataclass(frozen=True, kw_only=True)
class Request(Groups):
    """All groups."""

    to_do: ToDo = field(default_factory=ToDo)
    from_file: FromFile = field(default_factory=FromFile)
    to_predict: ToPredict = field(default_factory=ToPredict)
    to_measure: ToMeasure = field(default_factory=ToMeasure)
