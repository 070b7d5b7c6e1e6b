"""Averages the weights of checkpoints: model soups (Wortsman et al., arXiv:2203.05482) of runs, stochastic weight
averaging (Izmailov et al., arXiv:1803.05407) of the epochs of one run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from assembly import trainee
from assembly.data import RunData, make_data, make_mix, read_dataset
from assembly.trained import read_trained
from image_datasets.reading import SETTINGS
from records import checkpoint, membership
from records.run_directory import RunDirectory
from settings import defaults
from settings.flag import with_defaults
from settings.groups import FLAGS, Settings
from settings.locate import locate_data
from settings.settle import settle
from settings.stored import blaming
from training.devices import without_tf32
from utils import BadRequest, derive_seed

SHAPE = ("img_size", "in_chans", "mean", "std", "eval_crop")  # of the images, in a checkpoint
OF_RUN = ("run_name", "seed", "split_seed", "eval_precision")  # settings in which repetitions of a soup may differ
OF_DATA = ("data_path", "download", "verify_checksum", "max_pixels", "on_bad_image")  # flags that replace a run's


@dataclass(frozen=True)
class Part:
    """A checkpoint whose weights are averaged.

    Attributes:
        content: of the file, without weights and optimiser.
        kind: of its weights, "raw" or "ema".
        weights: state dict on the CPU.
    """

    path: str
    content: dict[str, Any]
    kind: str
    weights: dict[str, torch.Tensor]


def read_parts(paths: Sequence[str], kind: str | None = None) -> tuple[nn.Module, list[Part]]:
    """Returns (the model of the checkpoints in eval mode, the checkpoints).

    Args:
        kind: weights to take of files with both, "raw" or "ema"; None for the selected ones.

    Raises BadRequest, naming the files, if one is no checkpoint with finite weights, or if two differ in architecture,
    classes, preparation of the images, or in the images of a split.
    """
    parts, model, has_both = [], None, False
    for path in paths:
        model, content = read_trained(path, kind=kind)
        checkpoint.check_selected(path, content)
        weights = checkpoint.selected_weights(content, kind)
        if not all(bool(value.isfinite().all()) for value in weights.values()):
            raise BadRequest(f"{path}: its weights are not all finite")
        has_both |= content.get("ema") is not None
        rest = {key: value for key, value in content.items() if key not in ("model", "ema", "optimizer")}
        parts.append(Part(path, rest, kind or checkpoint.selected_kind(content), weights))
        _check_alike(parts[0], parts[-1])
    if kind is not None and not has_both:
        raise BadRequest(f"--weights-kind {kind} has no effect: none of the checkpoints holds averaged weights")
    assert model is not None, "no paths"
    return model, parts


def _check_alike(first: Part, other: Part) -> None:
    ours, theirs = _traits(first.content), _traits(other.content)
    for key in {**ours, **theirs}:
        own, others = ours.get(key), theirs.get(key)
        if own != others:
            raise BadRequest(f"--average: {key} is {own} in {first.path}, but {others} in {other.path}; only weights of"
                             " one model for images of one form can be averaged")  # fmt: skip
    for part in (first, other):
        if not part.content.get("image_digests"):
            raise BadRequest(f"--average: {part.path} does not store its training images (an earlier version, or"
                             " --data-rules 1), so what validates one model may have trained another")  # fmt: skip
    checkpoint.match_classes(other.path, other.content, first.content["class_names"], first.path)
    ours, theirs = first.content["image_digests"], other.content["image_digests"]
    names = {"train": "training", "val": "validation", "test": "test"}
    differing = [name for key, name in names.items() if ours.get(key) != theirs.get(key)]
    if differing:
        raise BadRequest(f"--average: {first.path} and {other.path} have other {differing[0]} images, so images that"
                         " validate or test one may have trained the other")  # fmt: skip


def _traits(content: dict[str, Any]) -> dict[str, str]:
    """What checkpoints must agree in besides classes and images, as text."""
    stored = content["settings"]
    values = {"model": stored["model"], **stored["model_args"], **{key: content[key] for key in SHAPE}}
    values |= {key: stored.get(key) for key in ("resize_mode", *SETTINGS) if key != "max_pixels"}
    return {key: json.dumps(value, default=str) for key, value in values.items()}  # tuples and lists are the same


def mean_weights(states: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Returns the mean of state dicts, computed in float64. Tensors of whole numbers are those of the first."""
    return {
        key: torch.stack([state[key].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for key, value in states[0].items()
    }


def describe(parts: Sequence[Part]) -> tuple[str, Part]:
    """Returns (what is averaged, the part whose settings the average takes), whatever the order of the parts.

    Soups that repeat each other with other seeds have one text: "3 epochs" of a run, "2 seeds", "lr 0.01 + lr 0.1".
    """
    flats = [_settings_of(part.content["settings"]) for part in parts]
    keys = sorted({key for flat in flats for key in flat})
    differing = [key for key in keys if len({flat.get(key) for flat in flats}) > 1]
    seeds = [part.content["settings"]["seed"] for part in parts]
    texts = [", ".join(f"{key} {flat.get(key)}" for key in differing) for flat in flats]
    epochs = Counter(zip(texts, seeds, strict=True))  # of each run
    runs = Counter(_joined(", ", text, n > 1 and f"{n} epochs") for (text, _), n in epochs.items())
    soup = " + ".join(f"{n} x {text}" if n > 1 else text for text, n in sorted(runs.items()) if text)
    count = len(set(seeds))
    first = min(range(len(parts)), key=lambda i: (texts[i], seeds[i]))
    return _joined("; ", soup, count > 1 and f"{count} seeds"), parts[first]


def _joined(separator: str, *texts: str | bool) -> str:
    return separator.join(str(text) for text in texts if text)


def _settings_of(stored: dict[str, Any]) -> dict[str, str]:
    """The settings that tell runs apart, as text, with the arguments of the model as keys of their own."""
    flat = {**with_defaults({}, FLAGS), **stored, **stored["model_args"]}
    return {
        key: "none" if value is None else json.dumps(value, default=str).strip('"')  # tuples and lists are the same
        for key, value in flat.items()
        if key not in (*OF_RUN, "model_args") and not (key in FLAGS and FLAGS[key].may_change)
    }


def data_of_run(part: Part, workers: int, given: dict[str, Any]) -> tuple[Settings, RunData]:
    """Returns the settings of the run of a checkpoint, and its data as training had them.

    Args:
        workers: processes that decode images.
        given: the given flags, by key; those on the place and reading of the data replace the run's.

    Raises BadRequest if the data are missing or have changed.
    """
    stored = part.content["settings"]
    settings = Settings.of({**with_defaults({}, FLAGS), **stored, "num_workers": workers})
    settings = settings.replace(**defaults.augmentation_defaults(settings))  # for flags that are newer than the run
    settings = settings.replace(**{key: given[key] for key in OF_DATA if key in given})
    with blaming(part.path, {key: value for key, value in stored.items() if key not in given}):
        group, found = locate_data(settings.data, given)
    found, notes = membership.of_resumed(found, RunDirectory(Path(part.path).parent), workers)
    dataset = read_dataset(group, found)
    settings = settle(settings.replace(**vars(group)), dataset)
    data = make_data(settings.data, dataset, found, settings.model.model, settings.hardware.seed_of_split)
    data.dataset.notes += notes
    membership.check_resumed(part.content, Path(part.path), data.dataset.class_names, data.image_digests)
    return settings, data


def has_statistics(model: nn.Module, settings: Settings) -> bool:
    """Whether the model has batch norm whose statistics follow from its weights: not those of a frozen backbone."""
    return settings.model.freeze == "none" and any(isinstance(module, _BatchNorm) for module in model.modules())


@without_tf32()
def update_statistics(model: nn.Module, settings: Settings, data: RunData, device: torch.device) -> None:
    """Recomputes the statistics of batch norm: the means over the batches of the run's first epoch, in fp32.

    Izmailov et al., section 3.2: statistics of the averaged weights are not the average of statistics.

    Args:
        model: on the device.
        settings: of the run.
    """
    seed = settings.hardware.seed
    batches = data.train_batches(settings.augmentation, device, int(settings.optimization.batch_size), seed)
    smallest = trainee.smallest_batch_of(model, data, batches.local_sizes) or 1
    mix = make_mix(settings.augmentation, len(data.dataset.class_names))

    def images() -> Iterator[torch.Tensor]:
        for number, (images, targets) in enumerate(batches.epoch(0)):
            if len(images) >= smallest:
                torch.manual_seed(derive_seed(seed, "step", 0, number))  # of mixing and dropout, as the training loop
                yield mix(images, targets)[0]

    update_bn(images(), model)
