"""The section "Amount of data": how good models are when trained on smaller shares of the images."""

from __future__ import annotations

from comparison.cohorts import Cohort
from comparison.context import Context
from comparison.document import Section
from comparison.drawing import WIDTH, colour, error_bars, head, legend, marker, tidy
from comparison.formats import percent
from comparison.metric_names import METRICS
from records import plots


def section(context: Context) -> Section | None:
    """A table and a picture by share of the training images. None if there is one share only."""
    cohort, kind = context.cohort, context.kind
    if len(cohort.fractions) < 2:
        return None
    shares = sorted(cohort.fractions)
    rows = []
    for variant in dict.fromkeys(model.variant for model in cohort.models):
        found = {model.fraction: model for model in cohort.models if model.variant == variant}
        rows.append([variant, *(found[share].show(context.metric) if share in found else "–" for share in shares)])
    columns = ["model", *(percent(share) for share in shares)]
    note = f"Means over {cohort.over} ± half of their 95 % interval. Smaller shares lie within larger ones."
    table = context.table("data", f"{kind.heading} by share of the training images", columns, rows, note)
    title = f"{kind.title} over the amount of data"
    figure = draw_data(cohort, context.metric, title)
    picture = context.picture("data", figure, title, "The horizontal axis is logarithmic.")
    return Section("Amount of data", [table, picture])


def draw_data(cohort: Cohort, metric: str, title: str):
    """The metric over the share of the training images, a line for each variant."""
    from matplotlib.ticker import NullLocator

    kind = METRICS[metric]
    variants = list(dict.fromkeys(model.variant for model in cohort.models))
    figure = plots.new_figure(figsize=(0.75 * WIDTH, 4.6))
    axis = figure.subplots()
    for i, variant in enumerate(variants):
        models = sorted((m for m in cohort.models if m.variant == variant), key=lambda m: m.fraction)
        means = [kind.scale * model.mean(metric) for model in models]
        axis.errorbar([model.fraction for model in models], means, yerr=error_bars(models, metric), fmt=f"-{marker(i)}",
                      color=colour(i), capsize=3, linewidth=1.8, label=plots.plain(variant, 40))  # fmt: skip
    axis.set_xscale("log")
    axis.set_xticks(cohort.fractions, [percent(fraction) for fraction in cohort.fractions])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("share of the training images")
    axis.set_ylabel(kind.heading)
    tidy(axis)
    legend(figure)
    head(figure, title, f"Bars: 95 % over {cohort.over}.")
    return figure
