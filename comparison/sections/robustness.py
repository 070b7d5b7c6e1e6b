"""The parts of a report about the amount of data, corrupted images, and the way of the training."""

from __future__ import annotations

import numpy as np

from comparison import curve_pictures, statistics
from comparison.document import Section
from comparison.groups import percent
from comparison.metric_names import METRICS
from comparison.sections import Context, _over_seeds


def amount_of_data(context: Context) -> Section | None:
    cohort, kind = context.cohort, context.kind
    if len(cohort.fractions) < 2:
        return None
    shares = sorted(cohort.fractions)
    rows = []
    for variant in dict.fromkeys(model.variant for model in cohort.models):
        found = {model.fraction: model for model in cohort.models if model.variant == variant}
        rows.append(
            [variant, *(_over_seeds(found[share], context.metric) if share in found else "–" for share in shares)]
        )
    columns = ["model", *(percent(share) for share in shares)]
    note = "Means over seeds ± half of their 95 % interval. Smaller shares lie within larger ones."
    table = context.table("data", f"{kind.heading} by share of the training images", columns, rows, note)
    figure = curve_pictures.draw_data(cohort, context.metric, f"{kind.title} over the amount of data")
    picture = context.picture(
        "data", figure, f"{kind.title} over the amount of data", "The horizontal axis is logarithmic."
    )
    return Section("Amount of data", [table, picture])


def robustness(context: Context) -> Section | None:
    models = [model for model in context.cohort.main if any(run.robustness for run in model.runs)]
    if not models:
        return None
    found = {id(model): [run.robustness for run in model.runs if run.robustness] for model in models}
    shared = [set(one["corruptions"]) for reports in found.values() for one in reports]
    names = [name for name in found[id(models[0])][0]["corruptions"] if all(name in one for one in shared)]
    if not names:
        return None
    rows, data = [], []
    for model in models:
        reports = found[id(model)]
        errors = np.array([1 - np.mean([one["corruptions"][name] for name in names], axis=1) for one in reports])
        mean = np.array([one["mean_corruption_error"] for one in reports])
        half = statistics.seed_interval(mean).half
        shown = f"{100 * mean.mean():.2f}" + ("" if np.isnan(half) else f" ± {100 * half:.2f}")
        clean = 100 * np.mean([one["clean"]["top1"] for one in reports])
        each = [f"{100 * value:.1f}" for value in errors.mean(0)]
        rows.append([model.variant, str(len(reports)), f"{clean:.2f}", shown, *each])
        data.append({"model": model.variant, "n": len(reports), "mean_corruption_error": mean.mean(),
                     **dict(zip(names, errors.mean(0).tolist(), strict=True))})  # fmt: skip
    columns = [
        "model",
        "n",
        "clean top-1 (%)",
        "mean corruption error (%)",
        *(f"{name.replace('_', ' ')} (%)" for name in names),
    ]
    note = (f"Errors are means over strengths, and over the runs that have robustness.json; not divided by those of a"
            f" reference network.{context.restriction}")  # fmt: skip
    table = context.table("robustness", "Error on corrupted images", columns, rows, note, data)
    figure = curve_pictures.draw_robustness(models, names, "Accuracy on corrupted images")
    return Section("Robustness", [table, context.picture("robustness", figure, "Accuracy on corrupted images",
                                                         f"Top-1 at each strength.{context.restriction}")])  # fmt: skip


def learning(context: Context) -> Section | None:
    figure = curve_pictures.draw_learning(context.cohort, "Learning curves")
    if figure is None:
        return None
    text = "All runs. Training losses can be compared only where loss, mixing and label smoothing are the same."
    return Section("Learning curves", [context.picture("learning", figure, "Learning curves of all runs", text)])


def run_list(context: Context) -> Section:
    metric = METRICS[context.metric]
    rows, data = [], []
    for model in context.cohort.models:
        for run in model.runs:
            seconds = run.summary.get("train_seconds")
            rows.append([run.path.name, model.variant, str(run.seed), percent(run.fraction),
                         metric.show(run.metric(context.metric)),
                         f"{run.summary['best_epoch']} of {run.summary['epochs']}",
                         "–" if seconds is None else f"{seconds:.0f} s"])  # fmt: skip
            data.append({"run": run.path.name, "model": model.variant, "seed": run.seed, "train_fraction": run.fraction,
                         "split": run.summary["split"], "selected_on": run.summary["selected_on"],
                         **{name: run.summary[name] for name in METRICS}, "best_epoch": run.summary["best_epoch"],
                         "epochs": run.summary["epochs"], "train_seconds": seconds,
                         **{f"{key}_precision": run.precision(key) for key in ("train", "test")}})  # fmt: skip
    columns = ["run", "model", "seed", "data", metric.heading, "best epoch", "training"]
    return Section("Runs", [context.table("runs", "The runs", columns, rows, "", data)])
