"""Which images a run has: it resumes with these and is scored on these, and says what has changed."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import image_datasets
from image_datasets import manifest
from image_datasets.bad_images import unreadable
from image_datasets.dataset import Dataset, LocatedDataset, name_of_fold
from image_datasets.facts import hexadecimal
from image_datasets.reading import OLDEST
from records.run_directory import RunDirectory
from utils import BadRequest, shorten

NO_LIST = "the run stores no list of its images: that they are the same is known by classes and counts alone"
OTHER_IMAGES = "these are other images than those that the run was tested on"


def of_resumed(found: LocatedDataset, directory: RunDirectory, workers: int) -> tuple[LocatedDataset, list[str]]:
    """Returns (`found` without images added since the run began, notes).

    Raises BadRequest if images or classes of the run are missing or changed.
    """
    if not directory.images.is_file():
        return found, [NO_LIST] if found.reading.rules == OLDEST else []
    found, changes = manifest.restrict(found, manifest.read(directory.images), workers)
    if changes:
        raise BadRequest(
            f"{directory.path}: the images are not those that the run began with ({changes}); put them back, or start a"
            f" new run from its weights: --weights {directory.last} --run-name NAME"
        )
    return found, _added(changes.added)


def check_resumed(content: dict[str, Any], path: Path, class_names: list[str], digests: dict[str, str]) -> None:
    """Raises BadRequest if the checkpoint `content`, read from `path`, was trained on other classes or images."""
    if list(content["class_names"]) != list(class_names):
        lost = [name for name in content["class_names"] if name not in class_names]
        new = [name for name in class_names if name not in content["class_names"]]
        difference = f"gone: {shorten(lost, 3) or 'none'}; new: {shorten(new, 3) or 'none'}"
        raise BadRequest(f"{path}: the run has other classes than its data set has now ({difference}); put them back,"
                         f" or start a new run with --weights {path}")  # fmt: skip
    for split, digest in content.get("image_digests", {}).items():
        if digests.get(split) != digest:
            raise BadRequest(f"{path}: the {split} images are not those that the run began with; put them back, or"
                             f" start a new run with --weights {path}")  # fmt: skip


@dataclass
class _ScoredRun:
    """A run whose checkpoint is scored. The attributes are the arguments of `load_scored`."""

    checkpoint: str
    content: dict[str, Any]
    named: bool
    accept: bool

    def __post_init__(self):
        self.directory = RunDirectory(Path(self.checkpoint).parent)

    @functools.cached_property
    def listed(self) -> dict[str, manifest.Listed] | None:
        """The run's list of images, or None if it stores none."""
        return manifest.read(self.directory.images) if self.directory.images.is_file() else None


def load_scored(
    found: LocatedDataset, checkpoint: str, content: dict[str, Any], named: bool, accept: bool, workers: int
) -> tuple[Dataset, dict[str, Any]]:
    """Loads the data set that a checkpoint is scored on, with the test images of its run.

    Args:
        checkpoint: the file that `content` was read from. The run's list of images beside it decides which are its test
            images.
        named: the command line names the data set. If it has none of the run's test images, it is another data set.
        accept: continue if images are missing or changed.

    Returns:
        (data set, facts for the summary): "notes", "image_digests" and, with `accept`, "changed_data", the number of
        missing and of changed images.

    Raises:
        BadRequest: the test images are not the run's, and no flag said that others are meant.
    """
    run = _ScoredRun(checkpoint, content, named, accept)
    tested, facts = _restrict_to_tested(found, run, workers)
    dataset = image_datasets.load_dataset(tested, workers=workers)
    fold = content["settings"].get("val_fold")
    if fold is not None and tested is not found:  # the run's list names the images of the fold
        dataset = replace(dataset, test_name=name_of_fold(fold))
    elif fold is not None and not named:
        dataset = dataset.with_fold_held_out(fold)
    _check_scored(dataset, run, facts)
    return dataset, facts


def _restrict_to_tested(found: LocatedDataset, run: _ScoredRun, workers: int) -> tuple[LocatedDataset, dict[str, Any]]:
    """Makes the test images in the run's list the test split of `found`. Returns it with facts for the summary."""
    if not run.content.get("image_digests") or not found.has_files or run.listed is None:
        return found, {"notes": []}
    tested = {name: item for name, item in run.listed.items() if item.split == "test"}
    inside, changes = manifest.restrict(found, tested, workers)
    if run.named and len(changes.missing) + len(changes.changed) == len(tested):
        return found, {"notes": [OTHER_IMAGES]}
    reported = next(part for part in ("test", "val", "train") if part in found.layout.splits)
    if run.named and reported != "train" and inside.layout.splits.keys() - {reported}:
        return found, {"notes": [OTHER_IMAGES]}  # for example a list of the same files with other splits
    if changes and not run.accept:
        raise BadRequest(f"{run.checkpoint}: the images that the run was tested on have changed ({changes}); put them"
                         " back, or score it all the same with --accept-changed-data")  # fmt: skip
    if not inside.layout.splits:
        raise BadRequest(f"{run.checkpoint}: none of the images that the run was tested on is there")
    paths = [path for files, _ in inside.layout.splits.values() for path in files]
    classes = [inside.layout.class_names[label] for _, labels in inside.layout.splits.values() for label in labels]
    # The model does not know classes that were added later.
    known = set(run.content["class_names"])
    names = [name for name in found.layout.class_names if name in known]
    index = {name: i for i, name in enumerate(names)}
    taken, train = set(paths), ([], [])
    for path, label in zip(*found.layout.splits.get("train", ([], [])), strict=True):
        if path not in taken and (name := found.layout.class_names[label]) in index:
            train[0].append(path)
            train[1].append(index[name])
    reported = "val" if [*inside.layout.splits] == ["val"] else "test"
    splits = {**({"train": train} if train[0] else {}), reported: (paths, [index[name] for name in classes])}
    layout = found.layout.with_splits(splits, names)
    facts: dict[str, Any] = {"notes": _added([name for name in changes.added if name not in run.listed])}
    if changes:
        facts["changed_data"] = changes.counts()
        facts["notes"].append(f"the test images are not all those that the run was tested on: {changes}")
    return replace(found, layout=layout, has_val=False), facts


def _check_scored(dataset: Dataset, run: _ScoredRun, facts: dict[str, Any]) -> None:
    """Compares the test split with the run's by its digest, and adds to `facts`."""
    digests = manifest.digests({"test": dataset.test}, dataset.class_names)
    facts["image_digests"] = digests
    theirs = run.content.get("image_digests")
    if not theirs:
        _check_older(dataset, run, facts)
    elif digests and digests["test"] != theirs.get("test") and not facts["notes"]:
        if not (run.named or run.accept):
            images = f"the {dataset.test_name} images of {dataset.name} are not those that the run was tested on"
            raise BadRequest(f"{run.checkpoint}: {images}; --datapath names others, --accept-changed-data scores these")
        facts["notes"].append(OTHER_IMAGES)
    _note_trained_on(dataset, run, facts)


def _check_older(dataset: Dataset, run: _ScoredRun, facts: dict[str, Any]) -> None:
    """For a run without a list: compares with the targets in predictions.npz, if that lies beside the checkpoint."""
    facts["notes"].append(NO_LIST)
    file = run.directory.predictions
    if run.named or not file.is_file():
        return
    try:
        with np.load(file, allow_pickle=False) as stored:
            targets = stored["targets"]
    except Exception:  # a damaged file: numpy and zipfile raise many kinds
        return
    ours = dataset.test.targets
    if len(ours) == len(targets) + len(unreadable(run.directory.bad_images, "test")) != len(targets):
        return  # predictions leave out unreadable images
    if len(ours) != len(targets):
        difference = f"{len(ours):,} images, then {len(targets):,}"
    elif not np.array_equal(ours, targets):
        difference = "the same number, but of other classes or in another order"
    else:
        return
    if not run.accept:
        raise BadRequest(f"{run.checkpoint}: the {dataset.test_name} images of {dataset.name} are not those that the"
                         f" run was tested on ({difference}); --accept-changed-data scores these")  # fmt: skip
    facts["notes"].append(f"the test images are not those that the run was tested on ({difference})")


def _note_trained_on(dataset: Dataset, run: _ScoredRun, facts: dict[str, Any]) -> None:
    """Notes how many of the test images the run trained on or validated with."""
    if dataset.test.facts is None or run.listed is None:
        return
    trained = {item.digest for item in run.listed.values() if item.split in ("train", "val")}
    count = sum(digest in trained for digest in hexadecimal(dataset.test.facts["digest"]))
    if count:
        facts["notes"].append(f"of these images the run trained on or validated with: {count:,}")


def _added(names: list[str]) -> list[str]:
    return [f"images added since the run began, and left out: {len(names):,}"] if names else []
