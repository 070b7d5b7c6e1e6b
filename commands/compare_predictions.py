"""What two trained models answer to the same images, as text and as a picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from analysis import explain
from assembly.trained import batches_for, check_stored_data, read_for_use
from image_datasets.bad_images import BadImage
from image_datasets.batches import EvalBatches
from image_datasets.folder import read_image
from image_datasets.registry import Dataset
from image_datasets.splits import Split
from records import answer_sheet, checkpoint, membership
from records.log import say
from training import devices
from utils import RunFailed, derive_seed, sides


@dataclass
class TrainedModel:
    """A trained model and how it wants its images."""

    name: str
    path: str
    model: torch.nn.Module
    content: dict[str, Any]
    precision: str

    def batches(self, dataset: Dataset, index: torch.Tensor, s: SimpleNamespace, device: torch.device) -> EvalBatches:
        workers = s.num_workers if len(index) >= s.batch_size else 0  # a handful is decoded before they have started
        return batches_for(self.content, dataset.test.subset(index.numpy()), device, s.batch_size, workers)

    @torch.no_grad()
    def probabilities(self, batches: EvalBatches) -> torch.Tensor:
        """(N, K), on the CPU."""
        with devices.autocast(batches.device, self.precision):
            return torch.cat([self.model(images).float().softmax(1).cpu() for images, _ in batches])

    def maps(self, batches: EvalBatches, classes: torch.Tensor) -> tuple[str, torch.Tensor]:
        """(what they are, (N, H, W) from 0 to 1): what the answers `classes` (N,) rest on."""
        found, kind = [], ""
        for part, (images, _) in zip(classes.split(batches.batch_size), batches, strict=True):
            maps, kind = explain.explain(self.model, images, part.to(images.device))
            found.append(maps.cpu())
        return kind, torch.cat(found)


def show_answers(s: SimpleNamespace, given: dict[str, Any]) -> None:
    """Prints what the models s.first and s.second answer to s.num_images random images, and draws it into s.output."""
    with devices.machine_errors_as_run_failed(lambda: f"--batch-size {s.batch_size}; try half of it"):
        _show_answers(s, given)


@devices.without_tf32()
def _show_answers(s: SimpleNamespace, given: dict[str, Any]) -> None:
    device = devices.set_up(s.device, s.gpu, eval_precision=s.eval_precision)
    pair = [TrainedModel("", path, *read_for_use(path, None), s.eval_precision) for path in (s.first, s.second)]
    _name(pair)
    named = "dataset" in given or "data_path" in given
    found = check_stored_data(s, given, pair[0].content["settings"], s.first)
    dataset, known = membership.load_scored(
        found, s.first, pair[0].content, named, s.accept_changed_data, s.num_workers
    )
    for note in known["notes"]:
        say(f"note: {note}")
    for one in pair:
        checkpoint.match_classes(one.path, one.content, dataset.class_names, dataset.name)
        one.model = one.model.to(device)

    if s.on_bad_image == "skip":
        readable = _Readable(dataset.test)
        index, looked_at = _choose(s, pair, dataset, device, readable)
        for path, reason in readable.bad:
            say(f"left out: {path!r} ({' '.join(reason.split())})")
    else:
        index, looked_at = _choose(s, pair, dataset, device, lambda index: index)
    targets = torch.from_numpy(dataset.test.targets)[index]
    answers = [one.probabilities(one.batches(dataset, index, s, device)).max(1) for one in pair]
    where = f"{dataset.test_name} of {dataset.name}"
    if s.disagreements:
        title = f"{len(index)} images of {where} on which the two differ"
        say(f"{title} (found among {looked_at:,}), seed {s.seed}")
    else:
        title = f"{len(index)} random images of {where}"
        say(f"{title}, seed {s.seed}")
    _print_answers(pair, dataset, index, targets, answers)
    maps = None
    if s.attention:
        maps = [one.maps(one.batches(dataset, index, s, device), values.indices)
                for one, values in zip(pair, answers, strict=True)]  # fmt: skip
    names = dataset.class_names
    answer_sheet.plot_answers(
        _pixels(pair, dataset, index, s),
        [names[target] for target in targets],
        [one.name for one in pair],
        [[(names[c], float(p), bool(c == t)) for p, c, t in zip(*values, targets, strict=True)] for values in answers],
        f"{title}, seed {s.seed}",
        Path(s.output),
        maps=maps and [(kind, values.numpy()) for kind, values in maps],
    )
    say(f"wrote {s.output}")


def _name(pair: list[TrainedModel]) -> None:
    """By model; where that is the same, by run; where that is the same too, by file."""
    for key in ("model", "run_name", None):
        names = [one.content["settings"][key] if key else one.path for one in pair]
        if names[0] != names[1]:
            break
    for one, name in zip(pair, names, strict=True):
        one.name = name


class _Readable:
    """Called with indices of a split's images it gives those that can be read; `bad` holds the others' paths, and why
    they cannot."""

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
    s: SimpleNamespace,
    pair: list[TrainedModel],
    dataset: Dataset,
    device: torch.device,
    readable: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, int]:
    """(indices of the images to draw, how many were looked at). Raises RunFailed where there are none.

    Args:
        readable: gives those of some indices whose images may be drawn.
    """
    generator = torch.Generator().manual_seed(derive_seed("answers", s.seed))
    order = torch.randperm(len(dataset.test), generator=generator)
    found, looked_at = torch.empty(0, dtype=torch.int64), 0
    if not s.disagreements:
        for index in order.split(s.num_images):
            found = torch.cat([found, readable(index)])[: s.num_images]
            if len(found) == s.num_images:
                break
        if not len(found):
            raise RunFailed(f"not one of the {len(order):,} images can be read")
        return found, len(found)
    for index in map(readable, order.split(s.batch_size)):
        if not len(index):
            continue
        first, second = (one.probabilities(one.batches(dataset, index, s, device)).argmax(1) for one in pair)
        differ = (first != second).nonzero()[:, 0]
        missing = s.num_images - len(found)
        looked_at += len(index) if len(differ) < missing else int(differ[missing - 1]) + 1
        found = torch.cat([found, index[differ[:missing]]])
        if len(found) == s.num_images:
            break
    if not len(found):
        raise RunFailed(f"--disagreements: both models give the same answer to all {looked_at:,} images, so there is"
                        " nothing to draw")  # fmt: skip
    return found, looked_at


def _print_answers(pair: list[TrainedModel], dataset: Dataset, index, targets, answers) -> None:
    width = max(len(one.name) for one in pair)
    names = dataset.class_names
    for i, (image, target) in enumerate(zip(index.tolist(), targets.tolist(), strict=True)):
        file = f"  {Path(*Path(dataset.test.paths[image]).parts[-2:])}" if dataset.test.paths else ""
        say(f"{i + 1:3}  {names[target]}{file}")
        for one, values in zip(pair, answers, strict=True):
            answer = int(values.indices[i])
            mark = "right" if answer == target else "wrong"
            say(f"     {one.name:{width}}  {mark}  {100 * float(values.values[i]):5.1f} %  {names[answer]}")
    right = [values.indices == targets for values in answers]
    for one, hits in zip(pair, right, strict=True):
        say(f"{one.name:{width}}  {int(hits.sum())} of {len(hits)} right  ({one.path})")
    say(f"{'both':{width}}  {int((right[0] & right[1]).sum())} of {len(targets)} right")


def _pixels(pair: list[TrainedModel], dataset: Dataset, index: torch.Tensor, s: SimpleNamespace) -> list:
    """The images as the model with the larger ones sees them, (H, W, C) from 0 to 1."""
    viewer = max(pair, key=lambda one: math.prod(sides(one.content["img_size"])))
    mean, std = (torch.tensor(viewer.content[key]).view(-1, 1, 1) for key in ("mean", "std"))
    batches = viewer.batches(dataset, index, s, torch.device("cpu"))
    return [(image * std + mean).clamp(0, 1).permute(1, 2, 0).numpy() for images, _ in batches for image in images]
