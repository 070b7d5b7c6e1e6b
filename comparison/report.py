"""From run directories to a report: reads, compares, draws, writes and publishes."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import numpy as np

from comparison import document, image_sheet
from comparison.cohorts import Cohort, make_cohorts, why_apart
from comparison.context import Context
from comparison.document import Document, Points
from comparison.folds import pool
from comparison.metric_names import METRICS
from comparison.request import Compared, Request
from comparison.runs import read_run
from comparison.sections import SECTIONS, conclusions, methods, opening
from comparison.selection import Selection
from image_datasets import Dataset
from records.log import say
from records.wandb_run import Wandb
from utils import BadRequest, shorten, suggestion


def compare(request: Request, selection: Selection) -> None:
    """Writes the report, and prints its short form.

    Raises BadRequest, before anything is written, for runs that are damaged or cannot be compared.
    """
    compared, asked = request.compared, request.report
    folder = Path(asked.output) if asked.output else selection.folder / "comparison"
    _check_output(folder)
    cohorts = load(selection)
    dataset = image_sheet.load(cohorts[0], asked.data_path) if asked.images else None
    say(f"comparing     {sum(len(cohort.trainings) for cohort in cohorts)} runs of {selection.name}")
    contexts = make_contexts(cohorts, selection, compared, folder, dataset)
    prepare(folder)
    report = build(contexts, selection)
    written = document.write(report, folder)
    print_short(report, contexts)
    for path in written:
        say(f"wrote         {path}")
    say(f"wrote         {folder / document.TABLES}/, {folder / document.PICTURES}/")
    publish(asked.wandb, asked.wandb_project, selection.name, report, folder)


def _check_output(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise BadRequest(f"--output {folder}: is a file")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "report.md").is_file():
        raise BadRequest(f"--output {folder}: holds something else than a report; choose another folder")
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise BadRequest(f"--output {folder}: cannot be written ({parent} is not writable)")


def load(selection: Selection) -> list[Cohort]:
    """Reads all runs and sorts them; notes incomplete sets of folds as missing.

    Raises BadRequest for runs that are damaged or cannot be compared.
    """
    runs, variants, left_out = pool([read_run(path) for path in selection.runs], list(selection.runs.values()))
    selection.missing += left_out
    return make_cohorts(runs, dict(enumerate(variants)), selection.variants)


def make_contexts(
    cohorts: list[Cohort], selection: Selection, compared: Compared, folder: Path, dataset: Dataset | None
) -> list[Context]:
    """Computes all statistics. Raises BadRequest if there is no such baseline, or if the metric is not defined.

    Args:
        dataset: the first cohort's, if the report shows its images.
    """
    metric, baseline = compared.metric, compared.baseline
    variants = list(dict.fromkeys(model.variant for cohort in cohorts for model in cohort.models))
    if baseline is not None and baseline not in variants:
        raise BadRequest(f"--baseline {baseline}: no such model.{suggestion(baseline, variants)} There are:"
                         f" {shorten(variants, 10)}")  # fmt: skip
    for run in cohorts[0].runs:
        if np.isnan(run.metric(metric)):
            raise BadRequest(f"--metric {metric}: {run.path / 'summary.json'} has no such figure")
    effect, several = compared.effect / METRICS[metric].scale, len(cohorts) > 1
    tested = next((cohort for cohort in cohorts if not cohort.folds), None)  # published figures are of a test split
    return [
        Context(cohort, metric, effect, selection.published if cohort is tested else [], folder,
                f"{i + 1}_" * several, baseline, None if i else dataset)
        for i, cohort in enumerate(cohorts)
    ]  # fmt: skip


def prepare(folder: Path) -> None:
    """Creates the folders, and deletes an earlier report's tables and pictures from them."""
    try:
        for name, suffixes in ((document.TABLES, (".csv", ".tex")), (document.PICTURES, (".png", ".svg"))):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for path in (folder / name).iterdir():
                if path.suffix in suffixes:
                    path.unlink()
    except OSError as error:
        raise BadRequest(f"{folder}: cannot be written ({error.strerror})") from None


def build(contexts: list[Context], selection: Selection) -> Document:
    """Makes the report, and draws its pictures."""
    first = contexts[0].cohort
    sections = [opening.section(first, selection)]
    for i, context in enumerate(contexts):
        made = [found for make in SECTIONS if (found := make(context)) is not None]
        if i:
            reason = why_apart(first, context.cohort)
            made[0].parts.insert(0, f"These models are not compared with those above: {reason}.")
            for section in made:
                section.title += f" ({context.cohort.split}, table group {i + 1})"
        sections += made
    of_folds = any(context.cohort.folds for context in contexts)
    return Document(f"Comparison: {selection.name}", [*sections, methods.section(of_folds)])


def print_short(report: Document, contexts: list[Context]) -> None:
    """Prints the first table of each cohort, and the conclusions."""
    for context in contexts:
        table = next(table for table in report.tables() if table.name == f"{context.prefix}models")
        say()
        say(context.cohort.title)
        rows = [row[:4] for row in (table.columns, *table.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for name, *cells in rows:
            right = "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
            say(f"  {name:{widths[0]}}{right}")
    for section in report.sections:
        if section.title.startswith(conclusions.TITLE):
            say()
            for part in section.parts:
                for line in part.items if isinstance(part, Points) else [str(part)]:
                    say(line)
    say()


def publish(mode: str, project: str, name: str, report: Document, folder: Path) -> None:
    """Publishes the report at Weights & Biases: its page, tables and pictures, and all files as an artifact."""
    run_id = os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8]
    wandb = Wandb(mode, project, f"compare-{name}", run_id, folder, {"study": name}, name, named=False)
    tables = {table.name: (table.columns, table.rows) for table in report.tables() if table.shown}
    pictures = {path.stem: path for path in sorted((folder / document.PICTURES).glob("*.png"))}
    files = [folder / "report.md", folder / "report.html", *sorted((folder / document.TABLES).iterdir()),
             *sorted((folder / document.PICTURES).iterdir())]  # fmt: skip
    wandb.publish(folder / "report.html", tables, {str(path.relative_to(folder)): path for path in files})
    wandb.finish({}, pictures)
