"""The section "Cost": size, time and memory of each model, beside how good it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from comparison.cohorts import Model
from comparison.context import Context
from comparison.document import Part, Section
from comparison.drawing import PALE, WIDTH, colour, error_bars, head, legend, marker, new_panels, tidy
from comparison.metric_names import METRICS
from comparison.runs import Run
from records import plots
from utils import human


@dataclass(frozen=True)
class Cost:
    """One kind of cost.

    Attributes:
        of_run: reads it from a run; None: the run does not know it.
        instead: the key of a cost that is measured better. If that one is known, pictures leave this one out.
        partial: a part of a model's cost that others do not have, so that models are not ranked by it.
    """

    key: str
    title: str
    unit: str
    of_run: Callable[[Run], float | None]
    more_is_better: bool = False
    instead: str = ""
    partial: bool = False

    def of(self, model: Model) -> float | None:
        """The mean over the model's runs; None if one of them does not know it."""
        values = [value for run in model.trainings if (value := self.of_run(run))]
        return float(np.mean(values)) if len(values) == len(model.trainings) else None

    def show(self, model: Model) -> str:
        """The mean as text; a dash if it is unknown."""
        value = self.of(model)
        if value is None:
            return "–"
        return f"{human(value)}{self.unit}".strip() if value >= 1000 or self.unit == "B" else f"{value:.3g}"


def _of_training(run: Run) -> float | None:
    """Training images per second over the whole training, validation included."""
    images, seconds = run.summary.get("images", {}).get("train"), run.summary.get("train_seconds")
    return images * run.summary["epochs"] / seconds if images and seconds else None


def _of_teacher(run: Run) -> float | None:
    """Seconds of the run that trained the teacher."""
    return (run.summary.get("teacher") or {}).get("train_seconds")


def _measured(key: str) -> Callable[[Run], float | None]:
    return lambda run: (run.cost or {}).get(key)


COSTS = [
    Cost("params", "parameters", "", lambda run: run.summary["params"]),
    Cost("flops", "FLOPs per image", "", lambda run: run.summary["flops"]),
    Cost("train_seconds", "time of the training", "s", lambda run: run.summary.get("train_seconds")),
    Cost("teacher_seconds", "training of the teacher", "s", _of_teacher, partial=True),
    Cost("images_per_second", "images/s of the training", "", _of_training, more_is_better=True,
         instead="measured_train_images_per_second"),
    Cost("peak_memory", "memory of the training", "B", lambda run: run.summary.get("peak_memory"),
         instead="measured_peak_memory"),
    Cost("measured_train_images_per_second", "training, images/s", "", _measured("train_images_per_second"),
         more_is_better=True),
    Cost("measured_inference_images_per_second", "inference, images/s", "", _measured("inference_images_per_second"),
         more_is_better=True),
    Cost("measured_inference_latency_ms", "latency of one image", "ms", _measured("inference_latency_ms")),
    Cost("measured_peak_memory", "memory, measured alone", "B", _measured("peak_memory")),
]  # fmt: skip


def section(context: Context) -> Section:
    """A table of all known costs, and a picture of the metric over each."""
    models, kind = context.cohort.main, context.kind
    shown = [cost for cost in COSTS if any(cost.of(model) is not None for model in models)]
    headings = (f"{cost.title}{f' ({cost.unit})' if cost.unit not in ('', 'B') else ''}" for cost in shown)
    columns = ["model", kind.heading, *headings, "efficient in"]
    efficient = _efficient(models, shown if len(models) > 1 else [], context.metric)
    rows = [[model.variant, kind.show(model.mean(context.metric)), *(cost.show(model) for cost in shown),
             ", ".join(titles) or "–"] for model, titles in zip(models, efficient, strict=True)]  # fmt: skip
    rows += [[one.label, kind.show(one.metrics.get(context.metric)),
              *(f"{human(one.params)}".strip() if cost.key == "params" else "–" for cost in shown), "–"]
             for one in context.published if one.params]  # fmt: skip
    data = [{"model": model.variant, context.metric: model.mean(context.metric),
             **{cost.key: cost.of(model) for cost in shown}} for model in models]  # fmt: skip
    taught = " A teacher's training comes on top of its student's." if any(cost.partial for cost in shown) else ""
    note = (
        "Means over runs. Of the training: what the whole of it took, validation included, on the machine that each run"
        f" had.{taught}{_devices(models)} Efficient in: no other model is at least as good and as cheap, and better in"
        f" one of the two.{context.restriction}"
    )
    parts: list[Part] = [context.table("cost", f"{kind.title} and what it costs", columns, rows, note, data=data)]
    figure = draw_cost(models, context.metric, f"{kind.title} over cost")
    if figure is not None:
        text = f"Quality beside each cost that is known of every model.{context.restriction}"
        parts.append(context.picture("cost", figure, f"{kind.title} over each cost", text))
    return Section("Cost", parts)


def _efficient(models: list[Model], costs: list[Cost], metric: str) -> list[list[str]]:
    """For each model, the titles of the costs on whose Pareto front it lies."""
    titles: list[list[str]] = [[] for _ in models]
    quality = np.array([model.mean(metric) for model in models])
    for cost in costs:
        spent = [cost.of(model) for model in models]
        if None not in spent and not cost.partial:
            for i in pareto_front(np.array(spent), quality, cost.more_is_better, METRICS[metric].more_is_better):
                titles[i].append(cost.title)
    return titles


def _devices(models: list[Model]) -> str:
    """A sentence on the devices that cost.json was measured on; empty without any."""
    runs = [run for model in models for run in model.trainings]
    names = {str(run.cost["device"]) for run in runs if run.cost and "device" in run.cost}
    said = f" Measured alone on {' and '.join(sorted(names))}." if names else ""
    return said + (" Figures of different machines cannot be compared." if len(names) > 1 else "")


def draw_cost(models: list[Model], metric: str, title: str):
    """The metric over each cost that is known of every model, with the Pareto front. None if there is none."""
    kind = METRICS[metric]
    known = [cost for cost in COSTS if _tells(cost, models) and not cost.partial]
    known = [cost for cost in known if cost.instead not in [other.key for other in known]]
    if not known or len(models) < 2:
        return None
    figure, grid = new_panels(len(known), min(3, len(known)), WIDTH, above=0.9, height=2.7, sharey=True)
    quality = np.array([kind.scale * model.mean(metric) for model in models])
    for n, (axis, cost) in enumerate(zip(grid.flat, known, strict=False)):
        spent = np.array([cost.of(model) for model in models], dtype=float)
        best = pareto_front(spent, quality, cost.more_is_better, kind.more_is_better)
        best = best[np.argsort(spent[best])]
        axis.plot(spent[best], quality[best], color=PALE, linewidth=2, zorder=1)
        for i, model in enumerate(models):
            axis.errorbar(spent[i], quality[i], yerr=error_bars([model], metric), fmt=marker(i), color=colour(i),
                          markersize=8 if i in best else 6, markerfacecolor=colour(i) if i in best else "white",
                          capsize=3, linewidth=1.2, label=None if n else plots.plain(model.variant, 40))  # fmt: skip
        axis.set_title(f"{cost.title}{f' ({cost.unit})' if cost.unit else ''}", loc="left", fontsize=10)
        _cost_axis(axis, spent)
        axis.annotate("better →" if cost.more_is_better else "← better", (1, 1.02), xycoords="axes fraction",
                      ha="right", va="bottom", fontsize=8, color=plots.MUTED)  # fmt: skip
        axis.tick_params(labelsize=9)
        tidy(axis)
    for axis in grid[:, 0]:
        axis.set_ylabel(kind.heading)
    legend(figure, min(4, len(models)))
    head(figure, title, f"Filled marks and the line: the Pareto front. Bars: 95 % over {models[0].over}.")
    return figure


def _tells(cost: Cost, models: list[Model]) -> bool:
    """Whether the cost is known of every model, and differs between models."""
    values = [value for model in models if (value := cost.of(model)) is not None]
    return len(values) == len(models) and max(values) > 1.01 * min(values)


def _cost_axis(axis, spent: np.ndarray) -> None:
    """Makes the axis logarithmic, with a few labelled ticks for any range."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

    axis.set_xscale("log")
    low, high = spent.min() / 1.35, spent.max() * 1.35
    axis.set_xlim(low, high)
    if high < 5 * low:
        axis.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
    else:
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 60 * low else (1,), numticks=8))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter(lambda value, _: _short(value))


def _short(value: float) -> str:
    """1,500,000 -> `1.5 M`."""
    number, _, unit = human(float(value)).partition(" ")
    return f"{float(number):g} {unit}".strip()


def pareto_front(spent: np.ndarray, quality: np.ndarray, more_spent: bool, more_quality: bool) -> np.ndarray:
    """Indices of the models for which no other is at least as good in both, and better in one.

    Args:
        spent: (M,).
        quality: (M,).
        more_spent: whether more is better in `spent`.
        more_quality: whether more is better in `quality`.
    """
    cost = -spent if more_spent else spent
    loss = -quality if more_quality else quality
    no_worse = (cost[:, None] <= cost) & (loss[:, None] <= loss)  # [i, j]: i is no worse than j
    better = (cost[:, None] < cost) | (loss[:, None] < loss)
    return np.flatnonzero(~(no_worse & better).any(0))
