"""Reads a run directory for a comparison, and checks all of it, so that no later code meets a damaged file."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from comparison.metric_names import METRICS
from comparison.metrics import ScoredSplit
from records.run_directory import RunDirectory
from records.stored_settings import complete_older
from utils import BadRequest, read_json

NEEDED = ("split", "selected_on", "params", "flops", "epochs", "best_epoch", "settings", *METRICS)
COST_KEYS = ("train_images_per_second", "inference_images_per_second", "inference_latency_ms", "peak_memory")
STALE = 0.005  # largest difference between top-1 in predictions.npz and summary.json: ties are broken by chance


@dataclass
class Run:
    """A finished run.

    Attributes:
        settings: as its summary stores them, completed if an earlier version wrote them.
        summary: the content of summary.json.
        logits: float32 (N, K).
        targets: int64 (N,).
        history: the columns of metrics.csv, with NaN for an empty cell; {} for a run that did not train.
        cost: the content of cost.json; None if there is no such file.
        robustness: the content of robustness.json; None if there is no such file.
        folds: of a cross-validation, the runs that this one is pooled from, see folds.py; else empty.
    """

    path: Path
    settings: dict[str, Any]
    summary: dict[str, Any]
    logits: np.ndarray
    targets: np.ndarray
    class_names: list[str]
    history: dict[str, np.ndarray]
    cost: dict[str, Any] | None = None
    robustness: dict[str, Any] | None = None
    folds: list[Run] = field(default_factory=list)

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    @property
    def fraction(self) -> float:
        """The share of the training images that the run used."""
        return float(self.settings.get("train_fraction") or 1.0)

    @cached_property
    def scores(self) -> ScoredSplit:
        return ScoredSplit(self.logits, self.targets)

    def resampled(self, counts: np.ndarray, with_map: bool) -> np.ndarray:
        """(metrics, B): each metric of B resampled splits, of a cross-validation the mean over its folds.

        Args:
            counts: (B, N), how often each split contains each image.
            with_map: if False, "map" is NaN.
        """
        parts = self.folds or [self]
        edges = np.cumsum([len(part.targets) for part in parts])[:-1]
        by_part = zip(parts, np.split(counts, edges, axis=1), strict=True)
        return np.mean([list(part.scores.values(own, with_map).values()) for part, own in by_part], axis=0)

    def precision(self, of: str) -> str | None:
        """The precision of "train", "select" or "test"; None: unknown. Earlier versions had one for all three."""
        return self.summary.get(f"{of}_precision", self.settings.get("precision"))

    @property
    def image_digest(self) -> str | None:
        """Digest of the test images' content and classes; None for runs of earlier versions."""
        digests = self.summary.get("image_digests")
        return digests.get("test") if isinstance(digests, dict) else None

    @property
    def commits(self) -> list[str]:
        """Commits of the suite that made the run's attempts; "unknown" if it stores none."""
        found = self.summary.get("commits") or [{"commit": None}]
        names = [(one.get("commit") or "unknown")[:10] + " with changes" * bool(one.get("changed")) for one in found]
        return list(dict.fromkeys(names))

    def metric(self, name: str) -> float:
        """The value in the summary; NaN if it is not defined."""
        value = self.summary[name]
        return np.nan if value is None else float(value)


def epochs_of(runs: list[Run]) -> str:
    """The best epochs of runs of one model, as `3 of 10` or `3–7 of 10`; a dash if the weights come from others."""
    epochs = [run.summary["best_epoch"] for run in runs]
    if None in epochs:
        return "–"
    span = f"{min(epochs)}" if min(epochs) == max(epochs) else f"{min(epochs)}–{max(epochs)}"
    return f"{span} of {runs[0].summary['epochs']}"


def read_run(path: Path) -> Run:
    """Reads and checks a run. Raises BadRequest, naming the file and what is wrong with it."""
    directory = RunDirectory(path)
    if not directory.settings.is_file():
        raise BadRequest(f"{path}: is no run directory (no {directory.settings.name})")
    if not directory.summary.is_file():
        raise BadRequest(
            f"{path}: the run is not finished (no {directory.summary.name}); main.py --resume continues it"
        )
    summary = _object(directory.summary)
    for key in NEEDED:
        if key not in summary:
            raise BadRequest(f"{directory.summary}: has no {key!r}, so it is no summary of a run")
    settings = summary["settings"]
    if not isinstance(settings, dict) or not {"model", "dataset", "seed"} <= settings.keys():
        raise BadRequest(f"{directory.summary}: its 'settings' lack model, dataset or seed")
    for key in ("top1", "loss"):
        if not isinstance(summary[key], (int, float)):
            raise BadRequest(f"{directory.summary}: {key!r} is {summary[key]!r}, not a number")
    settings = complete_older(settings)
    _check_commits(directory.summary, summary.get("commits"))
    _check_facts(directory.summary, summary)
    logits, targets, class_names = _predictions(directory.predictions)
    run = Run(
        path, settings, summary, logits, targets, class_names, _history(directory.metrics),
        _optional(directory.cost, _check_cost), _optional(directory.robustness, _check_robustness),
    )  # fmt: skip
    found = float(run.scores.right.mean())
    if abs(found - summary["top1"]) > STALE:
        raise BadRequest(f"{directory.predictions}: its top-1 is {found:.4f}, but 'top1' in {directory.summary.name} is"
                         f" {summary['top1']:.4f}; they are not of the same run")  # fmt: skip
    return run


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise BadRequest(f"{path}: is no JSON object")
    return content


def _check_commits(path: Path, commits: Any) -> None:
    listed = commits is None or isinstance(commits, list)
    if not listed or not all(
        isinstance(one, dict) and isinstance(one.get("commit"), str | None) for one in commits or []
    ):
        raise BadRequest(f"{path}: 'commits' is {json.dumps(commits)[:60]}, not a list of commits")


def _check_facts(path: Path, summary: dict[str, Any]) -> None:
    notes, teacher = summary.get("notes") or [], summary.get("teacher") or {}
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise BadRequest(f"{path}: 'notes' is {json.dumps(notes)[:60]}, not a list of texts")
    if not isinstance(teacher, dict) or not isinstance(teacher.get("train_seconds"), (int, float, type(None))):
        raise BadRequest(f"{path}: 'teacher' is {json.dumps(teacher)[:60]}, not what a run says of its teacher")


def _predictions(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    if not path.is_file():
        raise BadRequest(f"{path}: no such file; main.py --evaluate on the run's best.pth writes predictions anew")
    try:
        with np.load(path, allow_pickle=False) as file:
            logits, targets, names = (file[key] for key in ("logits", "targets", "class_names"))
    except KeyError as error:
        raise BadRequest(f"{path}: has no {error.args[0].split()[0]!r}") from None
    except Exception as error:  # zipfile, zlib and numpy raise many kinds for damaged files
        # Only numpy's first sentence: the rest advises what would run a stranger's code.
        reason = " ".join(str(error).split()).split(". ")[0]
        raise BadRequest(f"{path}: cannot be read ({reason})") from None
    fits = logits.ndim == 2 and logits.dtype.kind == "f" and targets.shape == logits.shape[:1]
    fits = fits and targets.dtype.kind == "i" and names.shape == logits.shape[1:] and len(targets)
    if not fits:
        raise BadRequest(f"{path}: 'logits' {logits.shape}, 'targets' {targets.shape} and 'class_names' {names.shape}"
                         " do not fit together")  # fmt: skip
    if targets.min() < 0 or targets.max() >= logits.shape[1]:
        raise BadRequest(f"{path}: 'targets' has classes outside 0 to {logits.shape[1] - 1}")
    if not np.isfinite(logits).all():
        raise BadRequest(f"{path}: 'logits' are not all finite")
    return logits, targets.astype(np.int64), [str(name) for name in names]


def _history(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        numeric = [key for key in (rows[0] if rows else {}) if _numbers(rows, key) is not None]
        return {key: np.array(_numbers(rows, key)) for key in numeric}
    except (OSError, ValueError, csv.Error) as error:
        raise BadRequest(f"{path}: cannot be read ({error})") from None


def _numbers(rows: list[dict[str, str]], key: str) -> list[float] | None:
    """A column as numbers; None if it contains text."""
    try:
        return [float(row[key]) if row[key] else np.nan for row in rows]
    except (TypeError, ValueError):
        if key == "epoch":
            raise ValueError("its column 'epoch' is no number everywhere") from None
        return None


def _optional(path: Path, check) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content = _object(path)
    check(path, content)
    return content


def _check_cost(path: Path, content: dict[str, Any]) -> None:
    for key in COST_KEYS:
        if not isinstance(content.get(key), (int, float, type(None))):
            raise BadRequest(f"{path}: {key!r} is {content[key]!r}, not a number")


def _check_robustness(path: Path, content: dict[str, Any]) -> None:
    for key, kind in (("clean", dict), ("corruptions", dict), ("mean_corruption_error", (int, float))):
        if not isinstance(content.get(key), kind):
            raise BadRequest(f"{path}: has no {key!r} as robustness.json has it")
    for name, values in content["corruptions"].items():
        fits = isinstance(values, list) and values and all(isinstance(value, (int, float)) for value in values)
        if not fits:
            raise BadRequest(f"{path}: corruptions: {name!r} is {json.dumps(values)[:60]}, not a list of accuracies")
    lengths = {len(values) for values in content["corruptions"].values()}
    if len(lengths) != 1:
        raise BadRequest(f"{path}: 'corruptions' have different numbers of strengths, or there are none")
