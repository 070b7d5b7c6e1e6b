"""The section "What is compared": data, runs with their notes, and missing runs."""

from __future__ import annotations

import re

from comparison.cohorts import Cohort
from comparison.document import Part, Points, Section
from comparison.runs import Run
from comparison.selection import Selection
from utils import sides

NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
MAX_NOTES = 5


def section(cohort: Cohort, selection: Selection) -> Section:
    """Describes the largest cohort, and names the unfinished runs."""
    settings = cohort.runs[0].settings
    parts: list[Part] = [
        f"Data set: {settings['dataset']}, {len(cohort.class_names)} classes. Scored: {cohort.title}."
        f" {len(cohort.trainings)} runs of {len({model.variant for model in cohort.models})} models."
    ]
    if cohort.folds:
        parts.append("Cross-validation: each network is scored on the fold that it did not train on. The test split is"
                     " not scored.")  # fmt: skip
    sizes = sorted({sides(run.settings["img_size"]) for run in cohort.runs if run.settings.get("img_size")})
    if len(sizes) > 1:
        texts = [" x ".join(map(str, dict.fromkeys(size))) for size in sizes]
        parts.append(f"The models see the images at {', '.join(texts)} px.")
    if len(cohort.fractions) > 1:
        parts.append("In brackets: the share of the training images that a model learnt from.")
    if notes := common_notes(cohort.trainings):
        parts += ["Notes of the runs:", Points(notes)]
    if selection.missing:
        parts.append(Points(selection.missing))
    return Section("What is compared", parts)


def common_notes(runs: list[Run]) -> list[str]:
    """The notes in the runs' summaries, most common first, each once. Notes that differ in numbers alone are one, with
    the range of each number, such as `12–15`."""
    alike: dict[str, list[str]] = {}
    for run in runs:
        for text, note in {NUMBER.sub("#", note): note for note in run.summary.get("notes") or []}.items():
            alike.setdefault(text, []).append(note)
    lines = []
    for notes in sorted(alike.values(), key=len, reverse=True):
        columns = zip(*map(NUMBER.findall, notes), strict=True)
        ranges = iter([_range(set(numbers)) for numbers in columns])
        line = NUMBER.sub(lambda _, ranges=ranges: next(ranges), notes[0])
        lines.append(line if len(notes) == len(runs) else f"{line} ({len(notes)} of {len(runs)} runs)")
    more = len(lines) - MAX_NOTES
    return [*lines[:MAX_NOTES], *([f"{more} more in the runs' summary.json"] if more > 0 else [])]


def _range(numbers: set[str]) -> str:
    rising = sorted(numbers, key=lambda text: float(text.replace(",", "")))
    return rising[0] if len(rising) == 1 else f"{rising[0]}–{rising[-1]}"
