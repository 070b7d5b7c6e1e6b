"""From selected run directories to a report: reading, comparing, drawing, writing."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from comparison import class_sections, curve_sections, document, image_sheet, sections
from comparison.document import Document, Points, Section
from comparison.groups import Cohort, make_cohorts, why_apart
from comparison.metric_names import METRICS
from comparison.runs import read_run
from comparison.sections import Context
from comparison.study import Selection
from records.log import say
from records.wandb_run import Wandb
from utils import BadRequest, shorten, sides, suggestion

METHODS = [
    "Seeds and images are two sources of doubt. Over seeds: the mean of n trainings and its 95 % Student t interval."
    " Over images: the test images are drawn anew 1,000 times, with replacement, the trained networks as they are; the"
    " 2.5 and 97.5 percentiles are the interval. mAP has none where there are many images and classes.",
    "Two models are compared by seed, because a seed fixes the validation images and the order of the training images:"
    " the mean difference, its t interval, and the t test of paired values. Where they have fewer than two seeds in"
    " common, Welch's t test is used.",
    "McNemar's exact test compares two trained networks on the same images. It knows nothing of other seeds.",
    "p-values are corrected for the number of pairs by Holm's method, for each metric and share of the data by itself.",
    "The number of seeds that would show a difference is that with which the paired t test, at 5 % divided by the"
    " number of pairs, shows it with a probability of 80 %; the spread is that of the seeds at hand, so with few of"
    " them it is a rough figure.",
]  # fmt: skip


def compare(s: SimpleNamespace, selection: Selection) -> None:
    """Reads, compares, draws and writes what the settings ask for, and prints the short form of it.

    Args:
        s: metric, effect (in points, or nats), baseline, output, images, data_path, wandb, wandb_project.

    Raises BadRequest for what cannot be compared; nothing is written then.
    """
    folder = Path(s.output) if s.output else selection.folder / "comparison"
    _check_output(folder)
    cohorts = load(selection)
    dataset = image_sheet.load(cohorts[0], s.data_path) if s.images else None
    say(f"comparing     {sum(len(cohort.runs) for cohort in cohorts)} runs of {selection.name}")
    effect = s.effect / METRICS[s.metric].scale
    contexts = make_contexts(cohorts, selection, s.metric, effect, folder, s.baseline)
    prepare(folder)
    sheets = image_sheet.make_sheets(contexts[0], dataset) if dataset else []
    report = build(contexts, selection, sheets)
    written = document.write(report, folder)
    print_short(report, contexts)
    for path in written:
        say(f"wrote         {path}")
    say(f"wrote         {folder / document.TABLES}/, {folder / document.PICTURES}/")
    publish(s.wandb, s.wandb_project, selection.name, report, folder)


def _check_output(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise BadRequest(f"--output {folder}: is a file")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "report.md").is_file():
        raise BadRequest(f"--output {folder}: holds something else than a report; choose another folder")
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise BadRequest(f"--output {folder}: cannot be written ({parent} is not writable)")


def print_short(report: Document, contexts: list[Context]) -> None:
    """The first table of each cohort, and what may be concluded."""
    for context in contexts:
        table = next(table for table in report.tables() if table.name == f"{context.prefix}models")
        say()
        say(context.cohort.title)
        rows = [row[:4] for row in (table.columns, *table.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            say(
                f"  {row[0]:{widths[0]}}"
                + "".join(f"  {cell:>{n}}" for cell, n in zip(row[1:], widths[1:], strict=True))
            )
    for section in report.sections:
        if section.title.startswith(sections.CONCLUSIONS):
            say()
            for part in section.parts:
                for line in part.items if isinstance(part, Points) else [part]:
                    say(line)
    say()


def publish(mode: str, project: str, name: str, report: Document, folder: Path) -> None:
    """The report at Weights & Biases: the page, tables and pictures, and all files as an artifact."""
    run_id = os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8]
    wandb = Wandb(mode, project, f"compare-{name}", run_id, folder, {"study": name}, name, named=False)
    tables = {table.name: (table.columns, table.rows) for table in report.tables() if table.shown}
    pictures = {path.stem: path for path in sorted((folder / document.PICTURES).glob("*.png"))}
    files = [folder / "report.md", folder / "report.html", *sorted((folder / document.TABLES).iterdir()),
             *sorted((folder / document.PICTURES).iterdir())]  # fmt: skip
    wandb.publish(folder / "report.html", tables, {str(path.relative_to(folder)): path for path in files})
    wandb.finish({}, pictures)


def load(selection: Selection) -> list[Cohort]:
    """Reads and sorts all runs. Raises BadRequest for what is damaged or cannot be compared."""
    runs = [read_run(path) for path in selection.runs]
    return make_cohorts(runs, dict(enumerate(selection.runs.values())), selection.variants)


def prepare(folder: Path) -> None:
    """Makes the folders, and deletes the tables and pictures of an earlier report there."""
    try:
        for name, suffixes in ((document.TABLES, (".csv", ".tex")), (document.PICTURES, (".png", ".svg"))):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for path in (folder / name).iterdir():
                if path.suffix in suffixes:
                    path.unlink()
    except OSError as error:
        raise BadRequest(f"{folder}: cannot be written ({error.strerror})") from None


def make_contexts(
    cohorts: list[Cohort], selection: Selection, metric: str, effect: float, folder: Path, baseline: str | None
) -> list[Context]:
    """Computes everything. Raises BadRequest where there is no such baseline, or where a metric is not defined."""
    variants = list(dict.fromkeys(model.variant for cohort in cohorts for model in cohort.models))
    if baseline is not None and baseline not in variants:
        raise BadRequest(f"--baseline {baseline}: no such model.{suggestion(baseline, variants)} There are:"
                         f" {shorten(variants, 10)}")  # fmt: skip
    for run in cohorts[0].runs:
        if np.isnan(run.metric(metric)):
            raise BadRequest(f"--metric {metric}: {run.path / 'summary.json'} has no such figure")
    several = len(cohorts) > 1
    return [
        Context(cohort, metric, effect, [] if i else selection.published, folder, f"{i + 1}_" * several, baseline)
        for i, cohort in enumerate(cohorts)
    ]


def build(contexts: list[Context], selection: Selection, sheets: list) -> Document:
    """The report, its pictures drawn. `sheets`: parts that show images, of the first cohort."""
    first = contexts[0].cohort
    settings = first.runs[0].settings
    opening = [
        f"Data set: {settings['dataset']}, {len(first.class_names)} classes. Scored: {first.title}."
        f" {len(first.runs)} runs of {len({model.variant for model in first.models})} models."
    ]
    sizes = sorted({sides(run.settings["img_size"]) for run in first.runs if run.settings.get("img_size")})
    if len(sizes) > 1:
        texts = [" x ".join(map(str, dict.fromkeys(size))) for size in sizes]
        opening.append(f"The models see the images at {', '.join(texts)} px.")
    if len(first.fractions) > 1:
        opening.append("In brackets: the share of the training images that a model learnt from.")
    if selection.missing:
        opening.append(Points(selection.missing))
    found = [Section("What is compared", opening)]
    for context in contexts:
        made = _sections(context, sheets if context is contexts[0] else [])
        if context is not contexts[0]:
            reason = why_apart(first, context.cohort)
            made[0].parts.insert(0, f"These models are not compared with those above: {reason}.")
            for section in made:
                section.title += f" ({context.cohort.split}, table group {contexts.index(context) + 1})"
        found += made
    found.append(Section("How it was computed", [Points(METHODS)]))
    return Document(f"Comparison: {selection.name}", found)


def _sections(context: Context, sheets: list) -> list[Section]:
    common = class_sections.consistency(context)
    if common is not None:
        common.parts += sheets
    made = [
        sections.conclusions(context), sections.quality(context), sections.differences(context), sections.cost(context),
        class_sections.classes(context), common, class_sections.calibration(context),
        curve_sections.amount_of_data(context), curve_sections.robustness(context), curve_sections.learning(context),
        curve_sections.run_list(context),
    ]  # fmt: skip
    return [section for section in made if section is not None]
