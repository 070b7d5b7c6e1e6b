"""Sheets of test images that only one of two models gets right, for the section "Common errors"."""

from __future__ import annotations

import numpy as np

import image_datasets
from comparison.cohorts import Cohort, Model
from comparison.context import Context
from comparison.document import Picture
from comparison.pairs import Pair, matched
from image_datasets.dataset import Dataset, Wanted
from records import answer_sheet, membership
from settings.stored import blaming
from utils import BadRequest

IMAGES = 10  # on one sheet
SIDE = 256  # largest side of an image on a sheet, in pixels


def load(cohort: Cohort, data_path: str | None) -> Dataset:
    """The data set of the runs.

    Args:
        data_path: its folder; None: the folder that the runs store.

    Raises BadRequest for a cross-validation, or if the data set is missing or is not what the runs were scored on: by
    the images' digests, or for runs of earlier versions by the classes of the images.
    """
    if cohort.folds:
        raise BadRequest("--images: it shows test images, but the runs of a cross-validation are scored on folds of the"
                         " training images")  # fmt: skip
    run = cohort.runs[0]
    settings = run.settings
    path = data_path or settings.get("data_path")
    wanted = Wanted.of({**settings, "data_path": path}, with_train=False)
    with blaming(run.path / "summary.json", {} if data_path else {"data_path": path}):
        found = image_datasets.locate(wanted)
    content = {"image_digests": run.summary.get("image_digests"), "class_names": cohort.class_names,
               "settings": settings}  # fmt: skip
    try:
        dataset, _ = membership.load_scored(found, str(run.path / "best.pth"), content, False, False, 0)
        if dataset.class_names == cohort.class_names and np.array_equal(dataset.test.targets, cohort.targets):
            return dataset
        reason = "other classes"
    except BadRequest as error:
        reason = str(error)
    raise BadRequest(f"--images: {run.summary['split']} of {path or found.name} is not what the runs were scored on"
                     f" ({reason}); --data-path names the folder of their data set")  # fmt: skip


def make_sheets(context: Context, dataset: Dataset) -> list[str | Picture]:
    """Two sheets, one for each model, for every pair that the confusion matrices show."""
    parts: list[str | Picture] = []
    for i, pair in enumerate(context.few_pairs):
        for better, worse in ((pair.first, pair.second), (pair.second, pair.first)):
            parts.append(_sheet(context, dataset, pair, better, worse, f"only_{i + 1}{'ab'[better is pair.second]}"))
    return parts


def _sheet(context: Context, dataset: Dataset, pair: Pair, better: Model, worse: Model, name: str) -> str | Picture:
    """Images that only `better` gets right with the first common seed, or a sentence if there are none."""
    runs = matched(better, worse)[1]
    share = np.mean([a.scores.right.astype(float) - b.scores.right for a, b in runs], axis=0)
    first, second = (run.scores for run in runs[0])
    only = np.flatnonzero(first.right & ~second.right)
    if not len(only):
        return f"With seed {runs[0][0].seed} there is no image that only {better.variant} gets right, of the two."
    rows = np.arange(len(share))
    surer = first.probabilities[rows, dataset.test.targets] - second.probabilities[rows, dataset.test.targets]
    chosen = only[np.lexsort((-surer[only], -share[only]))][:IMAGES]
    names = context.cohort.class_names
    title = f"{len(chosen)} of {len(only)} images that only {better.variant} gets right"
    figure = answer_sheet.draw_answers(
        [_pixels(dataset, i) for i in chosen],
        [names[dataset.test.targets[i]] for i in chosen],
        [better.variant, worse.variant],
        [
            [(names[s.predictions[i]], float(s.confidence[i]), bool(s.right[i])) for i in chosen]
            for s in (first, second)
        ],
        f"{title} ({worse.variant} does not)",
    )
    text = (f"Seed {runs[0][0].seed}; first those on which most seeds agree, then those on which the two are furthest"
            f" apart. ✓ right, ✗ wrong, with the probability of the answer.{context.restriction}")  # fmt: skip
    return context.picture(name, figure, title, text, vector=False)


def _pixels(dataset: Dataset, index: int) -> np.ndarray:
    """A test image (H, W, C) with values in [0, 1]."""
    if dataset.test.images is not None:
        return dataset.test.images[index] / 255
    from image_datasets.image_files import read_image

    image = read_image(dataset.test.paths[index], dataset.in_chans, dataset.test.reading)
    image.thumbnail((SIDE, SIDE))
    return np.atleast_3d(np.asarray(image)) / 255
