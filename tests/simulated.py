"""Run directories like those of finished trainings, with random predictions."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from comparison.metric_names import METRICS
from comparison.metrics import ScoredSplit


def targets(count: int = 300, classes: int = 10, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, count)


def logits(truth: np.ndarray, accuracy: float, classes: int = 10, seed: int = 0) -> np.ndarray:
    """float32 (N, K): right with probability `accuracy`, and more confident if right."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, (len(truth), classes))
    right = rng.random(len(truth)) < accuracy
    answer = np.where(right, truth, (truth + rng.integers(1, classes, len(truth))) % classes)
    values[np.arange(len(truth)), answer] = values.max(1) + rng.exponential(np.where(right, 2.0, 0.7))
    return values.astype(np.float32)


def write_run(
    path: Path,
    model: str = "resnet20",
    seed: int = 0,
    accuracy: float = 0.9,
    truth: np.ndarray | None = None,
    history: int = 3,
    class_names: list[str] | None = None,
    summary: dict[str, Any] | None = None,
    robustness: bool = False,
    cost: bool = False,
    **settings: Any,
) -> Path:
    """Writes a finished run directory at `path`.

    Args:
        accuracy: the probability that a prediction is right.
        truth: class indices (N,) of the test images.
        history: the number of epochs.
        summary: entries of summary.json, which override the usual ones.
        robustness: whether there is a robustness.json.
        cost: whether there is a cost.json.
        settings: stored settings, which override the usual ones.
    """
    path.mkdir(parents=True)
    truth = targets() if truth is None else truth
    names = np.array([f"class {i}" for i in range(10)] if class_names is None else class_names)
    answers = logits(truth, accuracy, seed=zlib.crc32(f"{model}{seed}{settings}".encode()))
    np.savez(path / "predictions.npz", logits=answers, targets=truth.astype(np.int64), class_names=names)
    scores = {name: float(value[0]) for name, value in ScoredSplit(answers, truth).values().items()}
    settings = {"dataset": "digits", "model": model, "seed": seed, "run_name": path.name, "data_path": None,
                "train_fraction": 1.0, "lr": 0.1, "model_args": {}, "epochs": history, **settings}  # fmt: skip
    content = {
        "split": "test", "selected_on": f"0.1 of train, stratified, seed {seed}", "selected_by": "top1",
        **{name: scores[name] for name in METRICS}, "params": 1000 * len(model), "flops": 5_000_000,
        "epochs": history, "best_epoch": history, "train_seconds": 10.0 + seed, "peak_memory": 10**8,
        "images": {"train": 1000, "val": 100, "test": len(truth)}, "settings": settings, **(summary or {}),
    }  # fmt: skip
    (path / "summary.json").write_text(json.dumps(content))
    (path / "settings.json").write_text(json.dumps({"settings": settings}))
    rows = ["epoch,lr,train_loss,val_loss,val_top1,weights"]
    rows += [
        f"{i + 1},0.1,{2 / (i + 1)},{2.2 / (i + 1) + seed / 50},{accuracy - 0.5 / (i + 1)},raw" for i in range(history)
    ]
    (path / "metrics.csv").write_text("\n".join(rows) + "\n")
    if robustness:
        tops = {
            name: [accuracy - 0.1 * i * k for i in range(1, 6)] for k, name in ((1, "gaussian_noise"), (1.5, "blur"))
        }
        error = 1 - float(np.mean(list(tops.values())))
        report = {
            "split": "test",
            "clean": {"top1": accuracy},
            "corruptions": tops,
            "mean_corruption_error": error,
            "seed": 0,
        }
        (path / "robustness.json").write_text(json.dumps(report))
    if cost:
        (path / "cost.json").write_text(json.dumps({
            "device": "a CPU", "batch_size": 32, "train_images_per_second": 900.0 / len(model),
            "inference_images_per_second": 3000.0, "inference_latency_ms": 10.7, "peak_memory": 2 * 10**8,
            "params": 1000 * len(model), "flops": 5_000_000,
        }))  # fmt: skip
    return path


def write_study(
    folder: Path, models: dict[str, float], seeds: int = 3, published: dict[str, Any] | None = None, **more: Any
):
    """Writes the folder of a study: study.json, and runs with accuracies that vary by seed. Returns `folder`."""
    rng = np.random.default_rng(1)
    runs = []
    for variant, accuracy in models.items():
        for seed in range(seeds):
            name = f"{variant}-s{seed}"
            write_run(folder / name, variant, seed, accuracy + rng.normal(0, 0.01), **more)
            runs.append({"name": name, "variant": variant, "seed": seed, "fraction": None, "flags": {}})
    (folder / "study.json").write_text(json.dumps({"name": folder.name, "runs": runs, "published": published or {}}))
    return folder
