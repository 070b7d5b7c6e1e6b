"""The section "What is compared": data, runs, and missing runs."""

from __future__ import annotations

from comparison.cohorts import Cohort
from comparison.document import Part, Points, Section
from comparison.selection import Selection
from utils import sides


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
    if selection.missing:
        parts.append(Points(selection.missing))
    return Section("What is compared", parts)
