"""Pictures: learning curves, confusion matrix, samples of a data set."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAIN_COLOUR, VAL_COLOUR, EMA_COLOUR, MUTED = "#4269d0", "#e4572e", "#3ca951", "#6b7280"
ANNOTATED = 20  # up to so many classes the cells of the confusion matrix show their numbers


def new_figure(**kwargs: Any) -> Figure:
    """A figure with constrained layout that needs no display and leaves matplotlib's global state alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", **kwargs)
    FigureCanvasAgg(figure)
    return figure


def plain(name: str, most: int = 60) -> str:
    """`name` as matplotlib can draw it: shortened to `most` characters and with ``$`` escaped.

    A character that no font on this machine has becomes its code point, such as ``U+732B``.
    """
    name = name if len(name) <= most else f"{name[: most - 3]}..."
    name = "".join(c if (c.isascii() and c.isprintable()) or _has_glyph(c) else f"U+{ord(c):04X}" for c in name)
    return name.replace("$", r"\$")


@functools.cache
def _has_glyph(character: str) -> bool:
    """Whether any font has the character. A font other than the default becomes a fallback of later figures."""
    import matplotlib
    from matplotlib.font_manager import FontProperties, findfont

    if not character.isprintable():
        return False
    families = matplotlib.rcParams["font.family"]
    if any(ord(character) in _charmap(findfont(FontProperties(family=[family]))) for family in families):
        return True
    family = _families().get(ord(character))
    if family is not None:
        matplotlib.rcParams["font.family"] = [*families, family]
    return family is not None


@functools.cache
def _families() -> dict[int, str]:
    """Maps each code point to the family of the first installed font that has it."""
    from matplotlib.font_manager import fontManager

    found: dict[int, str] = {}
    for font in fontManager.ttflist:
        if font.name.startswith("Last Resort"):  # matplotlib's placeholder font: every glyph is a box
            continue
        for code in _charmap(font.fname):
            found.setdefault(code, font.name)
    return found


def _charmap(file: str) -> Collection[int]:
    """The code points that a font file has."""
    from matplotlib.font_manager import get_font

    try:
        return get_font(file).get_charmap()
    except (OSError, RuntimeError):  # a damaged font
        return ()


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG. `path` keeps its old content until the new file is complete."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _column(history: list[dict[str, Any]], name: str) -> list[float]:
    return [np.nan if row.get(name) is None else row[name] for row in history]


def plot_curves(history: list[dict[str, Any]], best: dict[str, Any], title: str, result: str, path: Path) -> None:
    """Plots loss, accuracy and learning rate over the epochs, and marks the selected epoch.

    Args:
        history: a row of numbers for each epoch, as in metrics.csv.
        best: the selected epoch, as in `RunState.best`.
        title: what was trained.
        result: one line about the scores.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    figure = new_figure(figsize=(11, 4.6))
    left, middle, right = figure.subplots(1, 3, width_ratios=(4, 4, 2.4))
    epochs = [row["epoch"] for row in history]
    mixed = "train_agreement_top1" in history[0]
    lines = [
        ("train_", TRAIN_COLOUR, "training", "-"),
        ("val_", VAL_COLOUR, "validation", "-"),
        ("val_ema_", EMA_COLOUR, "validation, averaged weights", "-"),
    ]
    for prefix, colour, label, style in lines:
        top1 = "train_agreement_top1" if mixed and prefix == "train_" else f"{prefix}top1"
        if top1 not in history[0]:
            continue
        accuracy = [100 * value for value in _column(history, top1)]
        name = f"{label} (agreement with mixed targets)" if top1 == "train_agreement_top1" else label
        options = {"color": colour, "linestyle": style, "linewidth": 1.8, "marker": "." if len(epochs) < 40 else ""}
        left.plot(epochs, _column(history, f"{prefix}loss"), label=label, **options)
        middle.plot(epochs, accuracy, label=name, **options)
    right.plot(epochs, _column(history, "lr"), color=MUTED, linewidth=1.8)
    left.set_yscale("log")  # on a linear axis the first epochs hide the others
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.yaxis.set_minor_formatter(NullFormatter())
    left.set_title("Loss (validation: cross-entropy)", loc="left")
    middle.set_title("Top-1 accuracy (%)", loc="left")
    right.set_title("Learning rate", loc="left")
    selected = "val_top1" in history[0]
    for axis in (left, middle, right):
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        if selected:
            axis.axvline(best["epoch"], color=MUTED, linestyle=":", linewidth=1.2, zorder=0)
    if selected:
        middle.annotate(f"selected: epoch {best['epoch']}", (best["epoch"], 0.02), xycoords=("data", "axes fraction"),
                        rotation=90, ha="right", va="bottom", fontsize=8, color=MUTED,
                        textcoords="offset points", xytext=(-2, 0))  # fmt: skip
    handles, labels = middle.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", ncols=len(labels), frameon=False, fontsize=9)
    figure.suptitle(f"{title}\n", x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.text(0.01, 0.925, result, ha="left", va="center", fontsize=10, color=MUTED)
    save(figure, path)


def plot_confusion(confusion: np.ndarray, class_names: list[str], title: str, path: Path) -> None:
    """Plots the confusion matrix in per cent of each true class, and lists the pairs confused most often.

    Args:
        confusion: counts (K, K), one row per true class.
    """
    k = len(class_names)
    class_names = [plain(name) for name in class_names]
    counts = confusion.sum(1, keepdims=True)
    share = 100 * confusion / np.maximum(counts, 1)
    side = min(12.0, max(4.5, 0.55 * k)) if k <= ANNOTATED else 9.0
    figure = new_figure(figsize=(side + 4.2, side + 0.6))
    axis, notes = figure.subplots(1, 2, width_ratios=(side, 2.6))
    # The square root keeps rare confusions visible beside a strong diagonal.
    picture = axis.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=10)
    bar = figure.colorbar(picture, ax=axis, fraction=0.046, pad=0.02)
    bar.set_ticks([0, 1, 10**0.5, 5, 50**0.5, 10], labels=["0", "1", "10", "25", "50", "100 %"])
    bar.outline.set_visible(False)
    if k <= ANNOTATED:
        axis.set_xticks(range(k), class_names, rotation=45 if max(map(len, class_names)) > 2 else 0, ha="right"
                        if max(map(len, class_names)) > 2 else "center")  # fmt: skip
        axis.set_yticks(range(k), class_names)
        for i in range(k):
            for j in range(k):
                if confusion[i, j]:
                    colour = "white" if share[i, j] > 45 else "#1f2937"
                    axis.text(j, i, f"{share[i, j]:.0f}" if share[i, j] >= 0.95 else f"{share[i, j]:.1f}",
                              ha="center", va="center", fontsize=8, color=colour)  # fmt: skip
    else:
        ticks = range(0, k, max(1, k // 20))
        axis.set_xticks(ticks, [class_names[i][:14] for i in ticks], rotation=90, fontsize=7)
        axis.set_yticks(ticks, [class_names[i][:14] for i in ticks], fontsize=7)
    axis.set_xlabel("answer")
    axis.set_ylabel("true class")
    axis.spines[:].set_visible(False)

    errors = confusion.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(errors, axis=None)[::-1][:12]
    pairs = [(int(flat // k), int(flat % k)) for flat in order if errors.flat[flat] > 0]
    text = "".join(
        f"{class_names[i][:16]} as {class_names[j][:16]}: {errors[i, j]} of {counts[i, 0]}\n" for i, j in pairs
    )
    notes.axis("off")
    notes.set_title("Confused most often", loc="left", fontsize=10)
    notes.text(0, 0.99, text or "nothing is confused", va="top", fontsize=9, linespacing=1.6, color="#1f2937",
               transform=notes.transAxes)  # fmt: skip
    figure.suptitle(f"{title} (per cent of each true class)", x=0.01, ha="left", fontsize=12, fontweight="bold")
    save(figure, path)


def plot_samples(images: np.ndarray, titles: list[str], title: str, path: Path) -> None:
    """Plots a square grid of images, each with a title.

    Args:
        images: (N, H, W, C) from 0 to 1, in grey or colour.
    """
    side = int(np.ceil(len(images) ** 0.5))
    figure = new_figure(figsize=(1.7 * side, 1.9 * side + 0.4))
    grid = figure.subplots(side, side, squeeze=False)
    for axis in grid.flat:
        axis.set_axis_off()
    for axis, image, text in zip(grid.flat, images, titles, strict=False):
        axis.imshow(image, cmap="gray" if image.shape[-1] == 1 else None, vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(text, fontsize=7)
    figure.suptitle(title)
    save(figure, path)
