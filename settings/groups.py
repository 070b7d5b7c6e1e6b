"""The settings of a run: a frozen dataclass for each group of --help, a field for each flag.

Settings are declared in this file, data_groups.py and training_groups.py, and nowhere else. On disk (settings.json,
checkpoints) and in wandb they are one flat object.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from settings.data_groups import Augmentation, Data
from settings.flag import EVERY_AUGMENTER, EVERY_RUN, EVERY_USER, MEASURE, PREDICT, TRAIN, Groups, flag
from settings.flag_types import POSITIVE, interval, kept, number, one_of, path, plain_name, text
from settings.training_groups import Distillation, Loss, Model, Optimization

__all__ = [
    "FLAGS",
    "Augmentation",
    "Data",
    "Distillation",
    "Hardware",
    "Loss",
    "Model",
    "Optimization",
    "Run",
    "Settings",
]

SEED = number(int, 0, 2**31 - 1)
NOT_STORED = ("resume", "overwrite", "download", "check_images", "max_minutes")  # flags of one invocation

# fmt: off


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
    compile_mode: str = flag("what --compile aims at, see torch.compile", "default", check=one_of("default",
        "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"), metavar="MODE")
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

    run_name: str = flag("name of the run and of its folder below --runs-dir; {lr}, {seed} and other flags in"
        " braces are filled in", check=plain_name, metavar="NAME", aliases=("wandb-run-name",),
        default_text="DATASET-MODEL-seedN", modes=EVERY_RUN)
    runs_dir: str = flag("folder of the run directories", "runs", check=path, metavar="PATH", modes=EVERY_RUN,
        may_change=True)
    resume: bool | None = flag(
        "continue the stopped run of this name, or of the name that the flags give it; its own flags are"
        " taken up again. --resume auto: start it if it is not there, and continue it with the same flags if it"
        " is, as jobs do that are requeued", check=one_of("auto"), nargs="?", const=True, metavar="auto",
        default_text="start a new run", may_change=True)
    checkpoint_every: str = flag("optimiser steps (500), or seconds (600s), between two checkpoints, besides those at"
        " the end of each epoch", "600s", check=interval, metavar="N|Ns", may_change=True)
    keep: list[str] | None = flag("also keep checkpoints as epoch-N.pth: best:N, those of the N best epochs; every:N,"
        " those of each N-th epoch", check=kept, metavar="best:N|every:N", nargs="+", default_text="last and best",
        may_change=True)
    max_minutes: float | None = flag(
        "time after which the run is saved and leaves with status 143, to be resumed; in a SLURM"
        " job also two minutes before its time limit", check=POSITIVE, metavar="M", default_text="no limit",
        may_change=True)
    overwrite: bool = flag("delete the run directory of this name, if there is one; with --measure: measure anew",
        False, modes=(*EVERY_RUN, MEASURE), may_change=True)
    tensorboard: bool = flag("also write metrics for TensorBoard, into tensorboard/ in the run directory", False,
        may_change=True)
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
