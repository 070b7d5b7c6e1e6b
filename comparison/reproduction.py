"""The table of reproduce.py: repeated trainings beside the published figures of the same networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from comparison import document, selection
from comparison.cohorts import Model
from comparison.metric_names import METRICS
from comparison.selection import Selection
from records.run_directory import RunDirectory, attempts
from utils import BadRequest, duration, read_json, write_text

OWN = "-best"  # NAME-best is NAME in the suite's own recipe
FULL = (
    "Ours: the mean over n seeds ± half of its 95 % Student t interval, on the test images, which are scored once, with"
    " the epoch that the validation images select. NAME-best: the same network in this suite's own recipe. Time: of one"
    " training, while others share the card. The study files in studies/published have all flags, and say how the"
    " published figures came about."
)
TINY = (
    "Every command of studies/published for one epoch on few and small images, with random weights in place of"
    " published ones. This shows that the commands work, and says nothing about the networks: chance is 50 % for two"
    " classes."
)


def write_table(path: Path, folders: list[Path], left_out: list[str], full: bool) -> None:
    """Writes the table of all finished runs. Raises BadRequest if a run is damaged or the file cannot be written.

    Args:
        folders: of the studies' runs.
        left_out: sentences about studies that were not run.
        full: whether the trainings are the published ones. If not, no published figure stands beside them.
    """
    rows, missing = [], list(left_out)
    for folder in folders:
        try:
            chosen = selection.select([str(folder)])
        except BadRequest as error:  # none of its runs is finished
            missing.append(str(error))
            continue
        if chosen.missing:
            missing.append(f"{chosen.name}: {len(chosen.missing)} of {len(chosen.missing) + len(chosen.runs)} runs")
        rows += _rows(chosen, full)
    columns = ["study", "variant", "metric", *(["published"] * full), "ours", "n", "time of a run", "machine", "commit"]
    lines = [
        "# The published trainings, repeated" if full else "# The published trainings, tried on a CPU",
        "",
        FULL if full else TINY,
        "",
        *document.markdown_table(columns, rows),
        "",
    ]
    if missing:
        lines += ["Not finished:", "", *(f"- {line}" for line in missing), ""]
    lines += [f"Written by `make reproduce DATA=PATH BUDGET={'gpu' if full else 'cpu'}`."]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise BadRequest(f"{path}: cannot be written ({error.strerror})") from None


def _rows(chosen: Selection, full: bool) -> list[list[str]]:
    """A row for each variant and metric that has a published figure; top-1 of the others."""
    from comparison import report  # imports scipy and matplotlib

    figures = {one.variant: one.metrics for one in chosen.published}
    models = {model.variant: model for cohort in report.load(chosen) for model in cohort.models}
    rows = []
    for variant in chosen.variants:
        if variant not in models:
            continue
        model, published = models[variant], figures.get(variant.removesuffix(OWN), {})
        facts = [model.count, duration(_seconds(model)), *_origin(model)]
        for metric in published if full and published else ["top1"]:
            kind = METRICS[metric]
            beside = [kind.show(published.get(metric))] if full else []
            rows.append([chosen.name, variant, kind.heading, *beside, model.show(metric), *facts])
    return rows


def _seconds(model: Model) -> float:
    return float(np.mean([run.summary["train_seconds"] for run in model.runs]))


def _origin(model: Model) -> tuple[str, str]:
    """(devices, commits) of all attempts at the runs."""
    stored = [read_json(RunDirectory(run.path).settings) for run in model.runs]
    devices = {attempt["device"] or "unknown" for one in stored for attempt in attempts(one)}
    commits = {commit for run in model.runs for commit in run.commits}
    return ", ".join(sorted(devices)), ", ".join(sorted(commits))
