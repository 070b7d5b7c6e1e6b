"""A picture of images with the answers of several models, and the heat maps that explain them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from records import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

Answer = tuple[str, float, bool]  # class name, its probability, whether it is right
Maps = Sequence[tuple[str, np.ndarray]]  # for each model, the method and its heat maps (N, h, w) from 0 to 1

RIGHT, WRONG, INK, FRAME = "#0f766e", "#c2410c", "#111827", "#d1d5db"
NOTE = "✓ right and ✗ wrong answers with their probabilities."
COLUMNS = 5  # cards in a row; 2 with heat maps of one or two models, 1 with more
# In inches.
MARGIN, GAP, PAD = 0.27, 0.3, 0.05  # around the page, between cards, around an image
SIDE, LINE = 2.6, 0.19  # side of an image, height of a line of text below it
MARK, NUMBER = 0.2, 0.48  # width of the mark before an answer and of the probability after it


def plot_answers(
    images: Sequence[np.ndarray],
    truths: Sequence[str],
    models: Sequence[str],
    answers: Sequence[Sequence[Answer]],
    title: str,
    path: Path,
    maps: Maps | None = None,
) -> None:
    """Writes the figure of `draw_answers` as a PNG. `path` keeps its old content until the new file is complete."""
    plots.save(draw_answers(images, truths, models, answers, title, maps), path)


def draw_answers(
    images: Sequence[np.ndarray],
    truths: Sequence[str],
    models: Sequence[str],
    answers: Sequence[Sequence[Answer]],
    title: str,
    maps: Maps | None = None,
) -> Figure:
    """Returns a figure with a card for each image: the true class, the image, and each model's answer.

    With `maps`, a card shows each model's heat map beside the image. Names that are too long are shortened.

    Args:
        images: (H, W, 3) or (H, W, 1) from 0 to 1, of any sizes.
        truths: name of the true class of each image.
        models: names of the models.
        answers: for each model and image, (class name, probability from 0 to 1, whether it is right).
        maps: for each model, the method and its heat maps, (N, h, w) from 0 to 1.
    """
    tiles = 1 if maps is None else 1 + len(models)
    names = max(_width(name, fontsize=9) for name in models) + 0.12
    classes = max(_width(name, fontsize=9) for given in answers for name, _, _ in given)
    indent = names if maps is None and MARK + names + classes + NUMBER <= SIDE else 0.0  # 0: names stand above answers
    lines = 1.0 if maps else len(models) * (1.0 if indent else 1.9)
    rows = math.ceil(len(images) / (COLUMNS if maps is None else 2 if len(models) < 3 else 1))
    columns = math.ceil(len(images) / rows)
    figure, cards = _lay_out(title, _note(models, maps), rows, columns, tiles, lines)
    for i, card in enumerate(cards[: len(images)]):
        first, *others = card.subplots(1, tiles, squeeze=False)[0]
        _show(first, images[i], truths[i], fontsize=10, fontweight="bold", color=INK)
        if maps is None:
            _list_answers(first, [(name, given[i]) for name, given in zip(models, answers, strict=True)], indent)
            continue
        for axes, name, given, (_, heat) in zip(others, models, answers, maps, strict=True):
            _show(axes, images[i], name, heat[i], fontsize=9, color=plots.MUTED)
            _list_answers(axes, [("", given[i])], indent)
    return figure


def _lay_out(
    title: str, note: str, rows: int, columns: int, tiles: int, lines: float
) -> tuple[Figure, list[SubFigure]]:
    """Returns a new figure with title and note, and its cards, row by row.

    Args:
        tiles: images side by side on a card.
        lines: lines of text below the images.
    """
    card_width, card_height = tiles * (SIDE + 2 * PAD), SIDE + 0.26 + lines * LINE + 2 * PAD
    width, below = columns * (card_width + GAP) - GAP, rows * (card_height + GAP) - GAP
    head = {title: {"fontsize": 13, "fontweight": "bold", "color": INK}, note: {"fontsize": 9, "color": plots.MUTED}}
    height = below + sum(0.25 * (1 + 1.2 * _width(words, **style) // width) for words, style in head.items())
    full_width, full_height = width + 2 * MARGIN, height + 2 * MARGIN
    figure = plots.new_figure(figsize=(full_width, full_height), dpi=150)
    inner = (MARGIN / full_width, MARGIN / full_height, width / full_width, height / full_height)
    figure.set_layout_engine("constrained", rect=inner, w_pad=PAD, h_pad=PAD)
    page: Any = figure
    for words, style in head.items():
        page = page.subfigures()
        page.suptitle(plots.plain(words, len(words)), x=PAD / width, ha="left", wrap=True, **style)
    cards = page.subfigures(rows, columns, squeeze=False, wspace=GAP * columns / width, hspace=GAP * rows / below)
    return figure, list(cards.flat)


def _note(models: Sequence[str], maps: Maps | None) -> str:
    """The line that explains the picture."""
    if maps is None:
        return f"Bold: the true class. {NOTE}"
    kinds: dict[str, list[str]] = {}
    for name, (kind, _) in zip(models, maps, strict=True):
        kinds.setdefault(kind, []).append(name)
    shown = ", ".join(f"{kind} of {' and '.join(names)}" for kind, names in kinds.items())
    shown = shown if len(kinds) > 1 else maps[0][0]
    return f"Bold: the true class. Heat maps: {shown}, from dark (least) to bright (most). {NOTE}"


def _show(axes: Axes, image: np.ndarray, name: str, heat: np.ndarray | None = None, **style: Any) -> None:
    """Draws the image in a square below `name`; with `heat` (h, w), in grey under that heat map."""
    axes.set_title(_fit(name, SIDE - PAD, ends=heat is not None, **style), loc="left", pad=4, **style)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=FRAME, linewidth=0.6)
    extent = (0, image.shape[1], image.shape[0], 0)
    sampling = "nearest" if max(image.shape[:2]) <= 64 else "antialiased"
    pixels = np.clip(image, 0, 1)
    if heat is not None:
        pixels = pixels.mean(-1, keepdims=True)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation=sampling)
    if heat is not None:
        opacity = 0.15 + 0.5 * heat  # the image stays clear where nothing draws attention
        axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=opacity, extent=extent, interpolation="bilinear")
    axes.set_box_aspect(1)


def _list_answers(axes: Axes, answers: Iterable[tuple[str, Answer]], indent: float) -> None:
    """Writes a line below the image for each answer: mark, model, class, probability.

    Args:
        answers: (name of the model, answer); an empty name is left out.
        indent: width of the column of names in inches, or 0 to put a name above its answer.
    """

    def write(x: float, words: str, **style: Any) -> None:
        axes.annotate(words, (x / SIDE, 0), (0, y), "axes fraction", "offset points", **{"fontsize": 9, **style})

    y = -2.0  # in points
    for name, (answer, probability, right) in answers:
        y -= 13.5
        if indent:
            write(MARK, name, color=plots.MUTED)
        elif name:
            style = {"fontsize": 8, "color": plots.MUTED}
            write(MARK, _fit(name, SIDE - MARK - PAD, ends=True, **style), **style)
            y -= 12
        colour = RIGHT if right else WRONG
        write(0, "✓" if right else "✗", color=colour, fontsize=11, fontweight="bold")
        write(MARK + indent, _fit(answer, SIDE - MARK - indent - NUMBER, fontsize=9), color=colour)
        write(SIDE, _percent(probability), color=INK, ha="right")


def _percent(probability: float) -> str:
    if 0 < probability <= 0.005:
        return "<1 %"
    if 0.995 <= probability < 1:
        return ">99 %"
    return f"{100 * probability:.0f} %"


def _fit(words: str, room: float, ends: bool = False, **style: Any) -> str:
    """`words` on one line, shortened to `room` inches: at the end, or with `ends` in the middle."""
    words = " ".join(words.split())
    length = min(len(words), 80)
    shown = words if length == len(words) else _shortened(words, length, ends)
    while length > 1 and _width(shown, **style) > room:
        length -= 1
        shown = _shortened(words, length, ends)
    return plots.plain(shown, len(shown))


def _shortened(words: str, length: int, ends: bool) -> str:
    tail = words[len(words) - length // 2 :] if ends else ""
    return f"{words[: length - len(tail)].rstrip()}…{tail}"


@functools.cache
def _width(words: str, **style: Any) -> float:
    """Width of a line in inches."""
    figure = plots.new_figure(figsize=(1, 1), dpi=150)  # as it is saved: hinting depends on it
    return figure.text(0, 0, plots.plain(words, len(words)), **style).get_window_extent().width / figure.dpi
