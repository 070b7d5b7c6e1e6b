"""The section "What came out": a sentence for each pair of models, and reservations."""

from __future__ import annotations

import math

from comparison import statistics
from comparison.cohorts import Cohort
from comparison.context import Context
from comparison.document import Points, Section
from comparison.formats import percent, show_p
from comparison.metric_names import METRICS
from comparison.pairs import Pair
from comparison.statistics import LEVEL, Difference

TITLE = "What came out"


def section(context: Context) -> Section:
    """Sentences for the reported pairs, then reservations."""
    items = [sentence(pair, context.metric) for pair in context.reported]
    if len(context.reported) < len(context.all_pairs):
        shown = sum(pair.adjusted[context.metric] < LEVEL for pair in context.all_pairs)
        items.append(
            f"These are the pairs with the best model. Of all {len(context.all_pairs)} pairs, {shown} differ with"
            f" p < 0.05 after Holm's correction; tables/{context.prefix}differences.csv has them. So many pairs hide"
            " all but large differences: --baseline MODEL compares each model with one."
        )
    single = [model.label for model in context.cohort.models if len(model.runs) == 1 and not model.folds]
    if single:
        items.append(f"One seed only, and so no interval over seeds: {', '.join(single)}.")
    items += mixed_precision(context.cohort) + mixed_commits(context.cohort) + unchecked_images(context.cohort)
    if not context.all_pairs:
        items.append("There is one model, so nothing to compare it with.")
    return Section(TITLE, [Points(items)])


def sentence(pair: Pair, metric: str) -> str:
    """What the statistics allow to say of two models, in plain words."""
    several = pair.first.label != pair.first.variant
    lead = f"With {percent(pair.first.fraction)} of the training images: " if several else ""
    said = _sentence(pair, metric)
    return lead + (said.replace("Between", "between", 1) if lead and said.startswith("Between ") else said)


def _sentence(pair: Pair, metric: str) -> str:
    kind, found, p = METRICS[metric], pair.differences[metric], pair.adjusted[metric]
    if math.isnan(found.mean):
        return f"{kind.title} of {pair.first.variant} and {pair.second.variant} is not defined for these classes."
    better_first = (found.mean > 0) == kind.more_is_better
    better, worse = (pair.first, pair.second) if better_first else (pair.second, pair.first)
    size = kind.show(abs(found.mean))
    what = f"{kind.unit} of {kind.title}"
    if math.isnan(found.interval.low):
        return _without_interval(pair, metric, better.variant, worse.variant, size, what)
    half = kind.show(found.interval.half)
    tested = f"{_p_name(pair)} = {show_p(p)}, {_count(pair, found)}".replace("= <", "<")
    if p < LEVEL:
        lead = f"{better.variant} is better than {worse.variant} by {size} ± {half} {what}"
        return f"{lead}, {tested}{_on_images(pair, metric)}."
    known = f"Between {better.variant} and {worse.variant} no difference can be shown: {size} ± {half} {what}, {tested}"
    return f"{known}." if pair.folds else f"{known}; {_advice(pair, metric)}."


def _without_interval(pair: Pair, metric: str, better: str, worse: str, size: str, what: str) -> str:
    found = pair.differences[metric]
    if found.test.startswith("no spread"):
        on, over, count = ("on", "folds", pair.first.folds) if pair.folds else ("with", "seeds", len(pair.seeds))
        same = f"{better} and {worse} have the same result {on} every {over[:-1]}" if not found.mean else (
            f"{better} is {size} {what} ahead of {worse} {on} every one of {count} {over}")  # fmt: skip
        return f"{same}: without a spread over {over} there is no interval and no t test."
    lead = f"{better} has {size} {what} more than {worse}" if METRICS[metric].more_is_better else (
        f"{better} has {size} {what} less than {worse}")  # fmt: skip
    lead = lead if found.mean else f"{better} and {worse} have the same {METRICS[metric].title}"
    p = f"{_p_name(pair)} = {show_p(pair.mcnemar_adjusted)}".replace("= <", "<")
    tested = f"{p} by McNemar's exact test on the same images"
    if not pair.seeds:
        seeds = "with no seed in common and too few for an interval"
    else:
        alone = len(pair.first.runs) == len(pair.second.runs) == 1
        seeds = "with one seed each" if alone else "with the one seed that both have"
    return f"{lead} {seeds} ({tested}); whether other seeds would say the same is not known."


def _p_name(pair: Pair) -> str:
    return "Holm-corrected p" if pair.tests > 1 else "p"


def _count(pair: Pair, found: Difference) -> str:
    if pair.folds:
        return f"n = {pair.folds}"
    if found.test == "paired t test":
        return f"n = {len(pair.seeds)}"
    return f"n = {len(pair.first.runs)} and {len(pair.second.runs)}, not paired"


def _on_images(pair: Pair, metric: str) -> str:
    """A reservation if the difference may be due to the choice of test images, else an empty string."""
    low, high = pair.on_images[metric]
    if not low <= 0 <= high:
        return ""
    show = METRICS[metric].show
    return f" on these images; on others it may vanish ({show(low)} to {show(high)} over images)"


def _advice(pair: Pair, metric: str) -> str:
    kind = METRICS[metric]
    wanted = f"one of {kind.scale * pair.effect:g} {kind.unit}"
    if pair.differences[metric].test != "paired t test":
        return f"how many seeds would show {wanted} is known only where models have seeds in common"
    if pair.seeds_needed is None:
        return f"more than {statistics.MAX_SEEDS:,} seeds would be needed to show {wanted}"
    more = pair.seeds_needed - len(pair.seeds)
    if more <= 0:
        return f"these seeds would probably have shown {wanted}"
    return f"about {more} more seed{'s' * (more > 1)} would show {wanted}"


def mixed_precision(cohort: Cohort) -> list[str]:
    """A sentence if runs were trained in different precisions, and one if they were tested in different precisions."""
    sentences = []
    for key, done in (("train", "trained"), ("test", "tested")):
        models: dict[str, list[str]] = {}
        for model in cohort.models:
            for run in model.trainings:
                models.setdefault(run.precision(key) or "unknown", []).append(model.label)
        if len(models) > 1:
            sentences.append(f"Not all runs were {done} in the same precision ({_listed(models)}).")
    return sentences


def unchecked_images(cohort: Cohort) -> list[str]:
    """A sentence if runs without digests leave open whether all were scored on the same images."""
    count = sum(run.image_digest is None for run in cohort.runs)
    if not count or len(cohort.runs) == 1:
        return []
    which = "No run stores" if count == len(cohort.runs) else f"{count} of {len(cohort.runs)} runs do not store"
    return [f"{which} a digest of the test images: that all were scored on the same ones is known by their number and"
            " classes alone."]  # fmt: skip


def mixed_commits(cohort: Cohort) -> list[str]:
    """A sentence if different commits of the suite made the runs (or the attempts of a run), and one if its files had
    uncommitted changes."""
    models: dict[str, list[str]] = {}
    for model in cohort.models:
        for run in model.trainings:
            for name in run.commits:
                models.setdefault(name, []).append(model.label)
    sentences = []
    if len(models) > 1:
        sentences.append(f"Not all runs were made by the same commit of the suite ({_listed(models)}).")
    changed = [labels for name, labels in models.items() if name.endswith(" with changes")]
    if changed:
        labels = dict.fromkeys(label for labels in changed for label in labels)
        sentences.append(f"The suite's files had changes that are in no commit ({', '.join(labels)}).")
    return sentences


def _listed(models: dict[str, list[str]]) -> str:
    """From labels of models, by a common value: `bf16: resnet20; fp32: vit, vgg`, with each label once."""
    return "; ".join(f"{name}: {', '.join(dict.fromkeys(labels))}" for name, labels in sorted(models.items()))
