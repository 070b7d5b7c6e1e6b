"""Cross-validation: pools the runs of one model and seed, one for each fold, into a single run.

Every training image is predicted once, by the network that did not train on it. A metric is the mean over the folds.
"""

from __future__ import annotations

import argparse
import hashlib

import numpy as np

from comparison.cohorts import fingerprint, same_data
from comparison.formats import percent
from comparison.metric_names import METRICS
from comparison.runs import Run
from image_datasets.dataset import name_of_fold
from settings.flag_types import fold
from utils import BadRequest, shorten


def pool(runs: list[Run], variants: list[str | None]) -> tuple[list[Run], list[str | None], list[str]]:
    """Replaces the runs of each complete set of folds by one run; leaves out incomplete sets, and evaluations of folds.

    Args:
        variants: the study's name for each run. None: its settings, without seed and fold, identify the model.

    Returns (runs, their variants, a sentence for all that is left out).

    Raises BadRequest if nothing is left, for two runs of the same fold and seed, and for runs of different data sets.
    """
    same_data(runs)
    kept: list[tuple[Run, str | None]] = []
    sets: dict[tuple, dict[int, Run]] = {}
    left_out = []
    for run, variant in zip(runs, variants, strict=True):
        place = _place(run)
        if place is None:
            kept.append((run, variant))
            continue
        if "evaluated" in run.settings:
            left_out.append(f"{run.path.name} evaluates a checkpoint on a fold and is no training, so it is left out.")
            continue
        number, count = place
        found = sets.setdefault((variant, variant or fingerprint(run), run.fraction, run.seed, count), {})
        if number in found:
            raise BadRequest(f"{found[number].path} and {run.path}: the same settings with the same 'seed' {run.seed}"
                             f" and the same 'val_fold'; they are one result, not two")  # fmt: skip
        found[number] = run
    for (variant, *_, count), found in sets.items():
        if len(found) == count:
            kept.append((_pooled([found[number] for number in sorted(found)]), variant))
        else:
            left_out.append(_incomplete(found, count, variant))
    if not kept:
        raise BadRequest(f"{runs[0].path}: no set of folds is complete ({shorten(left_out, 3)})")
    return [run for run, _ in kept], [variant for _, variant in kept], left_out


def _place(run: Run) -> tuple[int, int] | None:
    """(the run's fold, from 1; the number of folds); None for a run that is not scored on a fold."""
    text = run.settings.get("val_fold")
    if text is None:
        return None
    try:
        number, count = map(int, fold(str(text)).split("/"))
    except argparse.ArgumentTypeError as error:
        raise BadRequest(f"{run.path / 'summary.json'}: 'val_fold': {error}") from None
    if run.summary["split"] != name_of_fold(f"{number}/{count}"):
        return None  # an evaluation on other images
    images = run.summary.get("images")
    known = isinstance(images, dict) and isinstance(images.get("train"), int) and images["train"] > 0
    if not known and "evaluated" not in run.settings:
        raise BadRequest(f"{run.path / 'summary.json'}: 'images' has no number of training images")
    return number, count


def _incomplete(found: dict[int, Run], count: int, variant: str | None) -> str:
    run = next(iter(found.values()))
    share = f" ({percent(run.fraction)})" if run.fraction < 1 else ""
    missing = [str(number) for number in range(1, count + 1) if number not in found]
    which = f"fold {missing[0]} of {count} is" if len(missing) == 1 else f"folds {', '.join(missing)} of {count} are"
    return f"{variant or run.settings['model']}{share}, seed {run.seed}: {which} missing, and the others are left out."


def _pooled(folds: list[Run]) -> Run:
    """One run from those of all folds, in their order. It has no history, cost and robustness of its own."""
    first = folds[0]
    seconds = [run.summary["train_seconds"] for run in folds if run.summary.get("train_seconds") is not None]
    digests = [run.image_digest for run in folds if run.image_digest is not None]
    digest = hashlib.sha256("".join(digests).encode()).hexdigest() if len(digests) == len(folds) else None
    summary = {
        **first.summary,
        **{name: float(np.mean([run.metric(name) for run in folds])) for name in METRICS},
        "split": f"{len(folds)} folds",
        "selected_on": "last epoch",  # nothing is selected, also where its weights are averaged
        "images": {
            "train": sum(run.summary["images"]["train"] for run in folds),
            "val": 0,
            "test": sum(len(run.targets) for run in folds),
        },
        "train_seconds": sum(seconds) if len(seconds) == len(folds) else None,
        "image_digests": {"test": digest},
    }
    return Run(
        first.path, first.settings, summary, np.concatenate([run.logits for run in folds]),
        np.concatenate([run.targets for run in folds]), first.class_names, {}, folds=folds,
    )  # fmt: skip
