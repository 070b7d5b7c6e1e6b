"""The section "Runs": a list of all runs."""

from __future__ import annotations

from comparison.context import Context
from comparison.document import Section
from comparison.formats import percent
from comparison.metric_names import METRICS
from comparison.runs import epochs_of


def section(context: Context) -> Section:
    """A table with a row for each run."""
    rows, data = [], []
    for model in context.cohort.models:
        for run in model.trainings:
            seconds = run.summary.get("train_seconds")
            rows.append([run.path.name, model.variant, str(run.seed), percent(run.fraction),
                         context.kind.show(run.metric(context.metric)),
                         epochs_of([run]),
                         "–" if seconds is None else f"{seconds:.0f} s"])  # fmt: skip
            data.append({"run": run.path.name, "model": model.variant, "seed": run.seed, "train_fraction": run.fraction,
                         "split": run.summary["split"], "selected_on": run.summary["selected_on"],
                         **{name: run.summary[name] for name in METRICS}, "best_epoch": run.summary["best_epoch"],
                         "epochs": run.summary["epochs"], "train_seconds": seconds,
                         **{f"{key}_precision": run.precision(key) for key in ("train", "test")}})  # fmt: skip
    columns = ["run", "model", "seed", "data", context.kind.heading, "best epoch", "training"]
    return Section("Runs", [context.table("runs", "The runs", columns, rows, "", data)])
