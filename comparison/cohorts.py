"""Groups runs into models (repetitions of one run) and models into cohorts (those that may be compared)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from comparison import statistics
from comparison.formats import folds_and_seeds, percent
from comparison.metric_names import METRICS
from comparison.runs import Run
from image_datasets.reading import OLDEST
from settings.flag import TRAIN
from settings.groups import FLAGS
from utils import BadRequest

# Repetitions may differ in these, and in flags that results do not depend on.
FREE = {"seed", "run_name", "train_fraction", "val_fold", "evaluated", "data_rules"}
# For flags that are newer than a run.
DEFAULTS = {key: flag.default for key, flag in FLAGS.items() if TRAIN in flag.modes}


@dataclass
class Model:
    """The runs of one model (or of one variant of a study) on one share of the training data, by rising seed.

    Attributes:
        label: the variant, followed by the share in brackets if the cohort has several shares.
    """

    variant: str
    fraction: float
    runs: list[Run]
    label: str = ""

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def trainings(self) -> list[Run]:
        """The runs; of a cross-validation those of every fold."""
        return [part for run in self.runs for part in run.folds or [run]]

    @property
    def folds(self) -> int:
        """The number of folds; 0 without cross-validation."""
        return len(self.runs[0].folds)

    @property
    def over(self) -> str:
        """What means and their intervals are over: `seeds` or `folds`."""
        return "folds" if self.folds else "seeds"

    @property
    def count(self) -> str:
        """What the mean is over: `3` seeds, `5 folds`, or `5 folds x 2 seeds`."""
        return folds_and_seeds(self.folds, len(self.runs)) if self.folds else str(len(self.runs))

    @property
    def held_out(self) -> float:
        """Of a cross-validation: images of a fold, divided by those that its network trains on, at most 1/(K - 1)."""
        # Nadeau and Bengio train on all the rest. Shares of it overlap less, so that folds are correlated less.
        shares = [run.summary["images"]["test"] / run.summary["images"]["train"] for run in self.runs]
        return min(max(shares), 1 / (self.folds - 1))

    def values(self, metric: str, seeds: list[int] | None = None) -> np.ndarray:
        """(n,), one value per seed; of a cross-validation one per fold, the mean over seeds.

        Args:
            seeds: of these runs. None: of all.
        """
        runs = self.runs if seeds is None else [self.of_seed(seed) for seed in seeds]
        if self.folds:
            return np.mean([[fold.metric(metric) for fold in run.folds] for run in runs], axis=0)
        return np.array([run.metric(metric) for run in runs])

    def interval(self, metric: str) -> statistics.Interval:
        """The 95 % interval of the mean over seeds, or over folds; NaN if there is none."""
        values = self.values(metric)
        if self.folds:
            return statistics.over_folds(values, self.held_out).interval
        return statistics.seed_interval(values)

    def mean(self, metric: str) -> float:
        return float(self.values(metric).mean())

    def show(self, metric: str) -> str:
        """The mean over seeds or folds, ± half of its 95 % interval if it has one."""
        half = self.interval(metric).half
        kind = METRICS[metric]
        return kind.show(self.mean(metric)) + ("" if np.isnan(half) else f" ± {kind.show(half)}")

    def of_seed(self, seed: int) -> Run:
        return self.runs[self.seeds.index(seed)]


@dataclass
class Cohort:
    """Models that may be compared: they were scored on the same images, by the same protocol.

    Attributes:
        split: the split that they are scored on.
        selected_on: what their checkpoints were selected on, without the seed.
    """

    split: str
    selected_on: str
    models: list[Model]

    @property
    def runs(self) -> list[Run]:
        return [run for model in self.models for run in model.runs]

    @property
    def trainings(self) -> list[Run]:
        """The runs; of a cross-validation those of every fold."""
        return [run for model in self.models for run in model.trainings]

    @property
    def folds(self) -> int:
        """The number of folds; 0 without cross-validation."""
        return self.models[0].folds

    @property
    def over(self) -> str:
        """What means and their intervals are over: `seeds` or `folds`."""
        return self.models[0].over

    @property
    def targets(self) -> np.ndarray:
        return self.runs[0].targets

    @property
    def class_names(self) -> list[str]:
        return self.runs[0].class_names

    @property
    def digests(self) -> set[str | None]:
        """Digests of the test images; None for runs of earlier versions, which store none."""
        return {run.image_digest for run in self.runs}

    @property
    def fractions(self) -> list[float]:
        """Shares of the training images, largest first."""
        return sorted({model.fraction for model in self.models}, reverse=True)

    def at(self, fraction: float) -> list[Model]:
        return [model for model in self.models if model.fraction == fraction]

    @property
    def main(self) -> list[Model]:
        """The models trained on the largest share of the images."""
        return self.at(self.fractions[0])

    def best(self, metric: str, fraction: float) -> Model:
        """The model with the best mean at this share of the training images."""
        sign = 1 if METRICS[metric].more_is_better else -1
        return max(self.at(fraction), key=lambda model: sign * model.mean(metric))

    @property
    def title(self) -> str:
        images = f"{len(self.targets):,} images of {self.split}"
        return f"{images}, checkpoints selected on: {self.selected_on}"


def make_cohorts(runs: list[Run], variants: dict[int, str | None], order: list[str]) -> list[Cohort]:
    """Sorts runs into models, and models into cohorts, the largest cohort first.

    Args:
        variants: the study's name for each run, by its index. None: its settings, without the seed, identify the model.
        order: the variants in the order in which the report shows them.

    Raises BadRequest for runs of different data sets, and for repetitions with the same seed.
    """
    same_data(runs)
    cohorts: dict[tuple, dict[tuple, list[Run]]] = {}
    digests: dict[tuple, set[str]] = {}
    for run in runs:
        digests.setdefault(_scored(run), set()).update([] if run.image_digest is None else [run.image_digest])
    keys = {i: variants[i] or fingerprint(run) for i, run in enumerate(runs)}
    named = [key for key in order if key in keys.values()]
    ranks = {key: rank for rank, key in enumerate(dict.fromkeys([*named, *keys.values()]))}
    for i in sorted(keys, key=lambda i: (ranks[keys[i]], -runs[i].fraction, runs[i].seed)):
        run = runs[i]
        # Runs of earlier versions store no digest: they count as scored on the same images unless digests differ.
        alike = _scored(run)
        protocol = (*alike, run.image_digest if len(digests[alike]) > 1 else None)
        cohorts.setdefault(protocol, {}).setdefault((keys[i], run.fraction), []).append(run)
    made = []
    for (split, selected_on, *_), members in cohorts.items():
        models = [Model("", fraction, runs) for (_, fraction), runs in members.items()]
        names = [key if isinstance(key, str) else None for key, _ in members]
        _name(models, names, [key for key, _ in members])
        for model in models:
            _distinct_seeds(model)
        made.append(Cohort(split, selected_on, models))
    return sorted(made, key=lambda cohort: -len(cohort.runs))


def why_apart(first: Cohort, other: Cohort) -> str:
    """The reason why models of two cohorts are not compared."""
    if first.split != other.split:
        what = "by the folds of another cross-validation" if first.folds and other.folds else "on another split"
        return f"they are scored {what} ({other.split}, not {first.split})"
    if len(first.targets) != len(other.targets):
        return f"they are scored on other images ({len(other.targets):,}, not {len(first.targets):,})"
    if not np.array_equal(first.targets, other.targets):
        return "they are scored on other images, or on the same in another order"
    if first.digests != other.digests:
        return "they are scored on other images, whose number and classes are the same"
    return f"their checkpoints are selected on: {other.selected_on} (not on: {first.selected_on})"


def same_data(runs: list[Run]) -> None:
    """Raises BadRequest for runs of different data sets."""
    first = runs[0]
    for run in runs[1:]:
        ours, theirs = first.settings["dataset"], run.settings["dataset"]
        if ours != theirs:
            raise BadRequest(f"{run.path / 'summary.json'}: 'dataset' is {theirs}, but {ours} in {first.path}; runs of"
                             " different data sets cannot be compared")  # fmt: skip
        if run.class_names != first.class_names:
            raise BadRequest(f"{run.path / 'predictions.npz'}: 'class_names' are not those of {first.path}; runs of"
                             " different data sets cannot be compared")  # fmt: skip


def _protocol(run: Run) -> str:
    """What the checkpoint, or each of those averaged, was selected on, without the seed of the validation split."""
    return re.sub(r"^average of \d+ checkpoints; |, seed \d+$", "", str(run.summary["selected_on"]))


def _scored(run: Run) -> tuple:
    """The protocol of a run's scores: split, selection, and the classes of the images."""
    return run.summary["split"], _protocol(run), run.targets.tobytes()


def fingerprint(run: Run) -> tuple[tuple[str, str], ...]:
    """All settings that results depend on, except seed and fold."""
    return tuple(sorted((key, str(value)) for key, value in _flat(run).items()))


def _flat(run: Run) -> dict[str, Any]:
    """The settings that tell models apart, with the architecture's arguments as keys of their own."""
    flat = {key: value for key, value in {**DEFAULTS, **run.settings}.items()
            if key not in FREE and not (key in FLAGS and FLAGS[key].may_change)}  # fmt: skip
    # The oldest rules turn no images and have no flag for it, so there it may differ.
    flat["exif_orientation"] = run.settings["exif_orientation"] or run.settings["data_rules"] == OLDEST
    if flat.get("teacher_weights"):  # a study's students have the teacher of their own seed, and are one model
        own = rf"(-f[\d.e-]+)?(-fold\d+)?-seed{run.seed}(?=[/\\]best\.pth$)"
        flat["teacher_weights"] = re.sub(own, "", flat["teacher_weights"])
    arguments = flat.pop("model_args", None) or {}
    return {**flat, "eval_precision": run.precision("test"), **arguments}


def _distinct_seeds(model: Model) -> None:
    for first, second in zip(model.runs, model.runs[1:], strict=False):
        if first.seed == second.seed:
            raise BadRequest(f"{first.path} and {second.path}: the same settings with the same 'seed'"
                             f" {first.seed}; they are one result, not two")  # fmt: skip


def _name(models: list[Model], names: list[str | None], keys: list) -> None:
    """Names each model by its variant, or else by its architecture and the settings in which it differs."""
    kinds: dict[Any, Model] = {}
    for key, model in zip(keys, models, strict=True):
        kinds.setdefault(key, model)
    titles = {}
    for key, model in kinds.items():
        name = model.runs[0].settings["model"]
        alike = [other for other in kinds.values() if other.runs[0].settings["model"] == name]
        titles[key] = name if len(alike) == 1 else ", ".join([name, *_differences(model, alike)])
    several = len({model.fraction for model in models}) > 1
    for key, name, model in zip(keys, names, models, strict=True):
        model.variant = name or titles[key]
        model.label = f"{model.variant} ({percent(model.fraction)})" if several else model.variant


def _differences(model: Model, alike: list[Model]) -> list[str]:
    flats = [_flat(other.runs[0]) for other in alike]
    own = _flat(model.runs[0])
    keys = [key for key in dict.fromkeys(key for flat in flats for key in flat)
            if len({str(flat.get(key)) for flat in flats}) > 1]  # fmt: skip
    return [f"{key} {_value(own.get(key))}" for key in keys]


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
