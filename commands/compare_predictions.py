"""Predictions of two trained models for the same images, as text and as a picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from analysis import explain
from assembly.trained import batches_for, locate_stored, read_trained
from data_transform import denormalize
from image_datasets.bad_images import BadImage
from image_datasets.batches import EvalBatches
from image_datasets.dataset import Dataset
from image_datasets.image_files import read_image
from image_datasets.splits import Split
from records import answer_sheet, checkpoint, membership
from records.log import say
from settings.two_models import TwoModels
from training import devices
from utils import RunFailed, derive_seed, sides


@dataclass
class TrainedModel:
    """A trained model and the content of its checkpoint.

    Attributes:
        name: in the output.
        path: file of the checkpoint.
        content: the checkpoint; it holds the model's image size and normalisation.
    """

    name: str
    path: str
    model: torch.nn.Module
    content: dict[str, Any]
    request: TwoModels

    def batches(self, dataset: Dataset, index: torch.Tensor, device: torch.device) -> EvalBatches:
        """Returns batches of the test images with these indices (N,), prepared for this model."""
        machine = self.request.hardware
        # The main process decodes a few images sooner than workers start.
        workers = machine.num_workers if len(index) >= machine.batch_size else 0
        return batches_for(self.content, dataset.test.subset(index.numpy()), device, machine.batch_size, workers)

    @torch.no_grad()
    def probabilities(self, batches: EvalBatches) -> torch.Tensor:
        """Returns the class probabilities (N, K), on the CPU."""
        with devices.autocast(batches.device, self.request.hardware.eval_precision):
            return torch.cat([self.model(images).float().softmax(1).cpu() for images, _ in batches])

    def maps(self, batches: EvalBatches, classes: torch.Tensor) -> tuple[str, torch.Tensor]:
        """Returns (kind of maps, maps (N, H, W) from 0 to 1) that explain the predictions `classes` (N,)."""
        found, kind = [], ""
        for part, (images, _) in zip(classes.split(batches.batch_size), batches, strict=True):
            maps, kind = explain.explain(self.model, images, part.to(images.device))
            found.append(maps.cpu())
        return kind, torch.cat(found)


def show_predictions(request: TwoModels, given: dict[str, Any]) -> None:
    """Prints and draws the predictions of two models for random images.

    Args:
        given: the given flags, by key.

    Raises BadRequest if a checkpoint or the data set does not fit, and RunFailed if no image can be drawn.
    """
    need = f"--batch-size {request.hardware.batch_size}; try half of it"
    with devices.machine_errors_as_run_failed(lambda: need):
        _show(request, given)


def _show(request: TwoModels, given: dict[str, Any]) -> None:
    machine, images = request.hardware, request.images
    device = devices.set_up(machine.device, machine.gpu, eval_precision=machine.eval_precision)
    paths = (request.models.first, request.models.second)
    pair = [TrainedModel("", path, *read_trained(path), request) for path in paths]
    _name(pair)
    dataset = _load(pair, request, given)
    for one in pair:
        checkpoint.match_classes(one.path, one.content, dataset.class_names, dataset.name)
        one.model = one.model.to(device)
    if images.on_bad_image == "skip":
        readable = _Readable(dataset.test)
        index, looked_at = _choose(request, pair, dataset, device, readable)
        for path, reason in readable.bad:
            say(f"left out: {path!r} ({' '.join(reason.split())})")
    else:
        index, looked_at = _choose(request, pair, dataset, device, lambda index: index)
    targets = torch.from_numpy(dataset.test.targets)[index]
    predictions = [one.probabilities(one.batches(dataset, index, device)).max(1) for one in pair]
    where = f"{dataset.test_name} of {dataset.name}"
    if images.disagreements:
        title = f"{len(index)} images of {where} on which the two differ"
        say(f"{title} (found among {looked_at:,}), seed {images.seed}")
    else:
        title = f"{len(index)} random images of {where}"
        say(f"{title}, seed {images.seed}")
    _print_predictions(pair, dataset, index, targets, predictions)
    maps = None
    if request.picture.attention:
        maps = [one.maps(one.batches(dataset, index, device), values.indices)
                for one, values in zip(pair, predictions, strict=True)]  # fmt: skip
    names = dataset.class_names
    answer_sheet.plot_answers(
        _pixels(pair, dataset, index),
        [names[target] for target in targets],
        [one.name for one in pair],
        [[(names[c], float(p), bool(c == t)) for p, c, t in zip(*values, targets, strict=True)]
         for values in predictions],
        f"{title}, seed {images.seed}",
        Path(request.picture.output),
        maps=maps and [(kind, values.numpy()) for kind, values in maps],
    )  # fmt: skip
    say(f"wrote {request.picture.output}")


def _load(pair: list[TrainedModel], request: TwoModels, given: dict[str, Any]) -> Dataset:
    """Loads the data set that is given, or else that of the first model's run."""
    first = pair[0]
    data, found = locate_stored(request.data(), given, first.content["settings"], first.path)
    named = "dataset" in given or "data_path" in given
    dataset, known = membership.load_scored(
        found, first.path, first.content, named, data.accept_changed_data, data.num_workers
    )
    for note in known["notes"]:
        say(f"note: {note}")
    return dataset


def _name(pair: list[TrainedModel]) -> None:
    """Names the pair by model; if that is the same, by run; if that is the same too, by file."""
    for key in ("model", "run_name", None):
        names = [one.content["settings"][key] if key else one.path for one in pair]
        if names[0] != names[1]:
            break
    for one, name in zip(pair, names, strict=True):
        one.name = name


class _Readable:
    """Filters indices of a split's images: returns those that can be read.

    Attributes:
        bad: (path, reason) of each unreadable image so far.
    """

    def __init__(self, split: Split):
        self.split, self.known = split, set(split.bad().tolist())
        self.bad: list[tuple[str, str]] = []

    def __call__(self, index: torch.Tensor) -> torch.Tensor:
        return torch.tensor([i for i in index.tolist() if self._is_readable(i)], dtype=torch.int64)

    def _is_readable(self, i: int) -> bool:
        reason = self.split.reasons[i] if i in self.known else None
        if self.split.images is None:
            try:
                read_image(self.split.paths[i], 3, self.split.reading)
            except BadImage as error:
                reason = error.reason
        if reason is not None:
            self.bad.append((self.split.paths[i], reason))
        return reason is None


def _choose(
    request: TwoModels,
    pair: list[TrainedModel],
    dataset: Dataset,
    device: torch.device,
    readable: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, int]:
    """Returns (indices of the images to draw, number of images looked at). Raises RunFailed if there are none.

    Args:
        readable: filters indices, keeping those of images that may be drawn.
    """
    generator = torch.Generator().manual_seed(derive_seed("answers", request.images.seed))
    order = torch.randperm(len(dataset.test), generator=generator)
    found, looked_at = torch.empty(0, dtype=torch.int64), 0
    wanted = request.images.num_images
    if not request.images.disagreements:
        for index in order.split(wanted):
            found = torch.cat([found, readable(index)])[:wanted]
            if len(found) == wanted:
                break
        if not len(found):
            raise RunFailed(f"not one of the {len(order):,} images can be read")
        return found, len(found)
    for index in map(readable, order.split(request.hardware.batch_size)):
        if not len(index):
            continue
        first, second = (one.probabilities(one.batches(dataset, index, device)).argmax(1) for one in pair)
        differ = (first != second).nonzero()[:, 0]
        missing = wanted - len(found)
        looked_at += len(index) if len(differ) < missing else int(differ[missing - 1]) + 1
        found = torch.cat([found, index[differ[:missing]]])
        if len(found) == wanted:
            break
    if not len(found):
        raise RunFailed(f"--disagreements: both models give the same answer to all {looked_at:,} images, so there is"
                        " nothing to draw")  # fmt: skip
    return found, looked_at


def _print_predictions(
    pair: list[TrainedModel], dataset: Dataset, index: torch.Tensor, targets: torch.Tensor, predictions: list[Any]
) -> None:
    width = max(len(one.name) for one in pair)
    names = dataset.class_names
    for i, (image, target) in enumerate(zip(index.tolist(), targets.tolist(), strict=True)):
        file = f"  {Path(*Path(dataset.test.paths[image]).parts[-2:])}" if dataset.test.paths else ""
        say(f"{i + 1:3}  {names[target]}{file}")
        for one, values in zip(pair, predictions, strict=True):
            answer = int(values.indices[i])
            mark = "right" if answer == target else "wrong"
            say(f"     {one.name:{width}}  {mark}  {100 * float(values.values[i]):5.1f} %  {names[answer]}")
    right = [values.indices == targets for values in predictions]
    for one, hits in zip(pair, right, strict=True):
        say(f"{one.name:{width}}  {int(hits.sum())} of {len(hits)} right  ({one.path})")
    say(f"{'both':{width}}  {int((right[0] & right[1]).sum())} of {len(targets)} right")


def _pixels(pair: list[TrainedModel], dataset: Dataset, index: torch.Tensor) -> list:
    """Returns the images, (H, W, C) from 0 to 1, as the model with the larger input sees them."""
    viewer = max(pair, key=lambda one: math.prod(sides(one.content["img_size"])))
    mean, std = viewer.content["mean"], viewer.content["std"]
    batches = viewer.batches(dataset, index, torch.device("cpu"))
    return [image.permute(1, 2, 0).numpy() for images, _ in batches for image in denormalize(images, mean, std)]
