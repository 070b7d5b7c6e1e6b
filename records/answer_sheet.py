"""The picture of images with the answers of several models, and of what these rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from records import plots

Answer = tuple[str, float, bool]  # class name, its probability, whether it is right

RIGHT, WRONG, INK, FRAME = "#0f766e", "#c2410c", "#111827", "#d1d5db"
NOTE = "✓ right and ✗ wrong answers with their probabilities."
COLUMNS = 5  # cards in a row; with heat maps of one or two models 2
# In inches.
MARGIN, GAP = 0.3, 0.35
SIDES = {1: 3.4, 2: 2.8}  # of an image, by the number of columns
SIDE, TILE_SIDE, TILE_GAP = 2.4, 2.2, 0.18
TITLE_LINE, NOTE_LINE, LINE, NAME_LINE = 0.27, 0.19, 0.2, 0.17
ABOVE, BELOW = 0.28, 0.04  # an image: the line that names it, and the distance to the next line
MARK, NUMBER = 0.2, 0.5  # what stands before and behind an answer


def plot_answers(
    images: Sequence[np.ndarray],
    truths: Sequence[str],
    models: Sequence[str],
    answers: Sequence[Sequence[Answer]],
    title: str,
    path: Path,
    maps: Sequence[tuple[str, np.ndarray]] | None = None,
) -> None:
    """Writes the figure of `draw_answers` as a PNG; `path` has its old content until the new is complete."""
    plots.save(draw_answers(images, truths, models, answers, title, maps), path)


def draw_answers(
    images: Sequence[np.ndarray],
    truths: Sequence[str],
    models: Sequence[str],
    answers: Sequence[Sequence[Answer]],
    title: str,
    maps: Sequence[tuple[str, np.ndarray]] | None = None,
):
    """A figure with a card for each image: the true class, the image, and every model's answer, marked right or wrong.

    With `maps`, each card shows beside the image what each model's answer rests on. Names that are too long are
    shortened.

    Args:
        images: (H, W, 3) or (H, W, 1) from 0 to 1, of any sizes.
        truths: the true class of each image.
        models: the models' names.
        answers: of each model, (class name, probability from 0 to 1, whether it is right) for each image.
        maps: of each model, what its heat maps are, and the maps: (N, h, w) from 0 to 1.
    """
    figure = plots.new_figure(figsize=(1, 1), dpi=150)  # as it is saved: text is measured
    figure.set_layout_engine("none")
    if maps is None:
        _draw_cards(figure, images, truths, models, answers, title)
    else:
        _draw_cards_with_maps(figure, images, truths, models, answers, title, maps)
    return figure


def _draw_cards(figure, images, truths, models, answers, title) -> None:
    columns = math.ceil(len(images) / math.ceil(len(images) / COLUMNS))
    side = SIDES.get(columns, SIDE)
    names = max(_width(figure, name, 9) for name in models) + 0.12
    classes = max(_width(figure, name, 9) for given in answers for name, _, _ in given)
    in_line = MARK + names + classes + NUMBER <= side  # else the model's name stands above its answer
    lines = LINE if in_line else NAME_LINE + LINE + 0.04
    height = ABOVE + side + BELOW + len(models) * lines
    places = _lay_out(figure, title, f"Bold: the true class. {NOTE}", len(images), columns, side, height)
    for i, (x, y) in enumerate(places):
        _show_with_truth(figure, x, y, side, images[i], truths[i])
        y += ABOVE + side + BELOW
        for name, given in zip(models, answers, strict=True):
            y += lines
            if in_line:
                _write(figure, x + MARK, y, name, names, 9, color=plots.MUTED)
                _answer(figure, x, y, side, names, given[i])
            else:
                _write(figure, x + MARK, y - NAME_LINE, name, side - MARK, 8, ends=True, color=plots.MUTED)
                _answer(figure, x, y, side, 0, given[i])


def _draw_cards_with_maps(figure, images, truths, models, answers, title, maps) -> None:
    columns = min(len(images), 2 if len(models) < 3 else 1)
    width = TILE_SIDE + len(models) * (TILE_GAP + TILE_SIDE)
    kinds: dict[str, list[str]] = {}
    for name, (kind, _) in zip(models, maps, strict=True):
        kinds.setdefault(kind, []).append(name)
    shown = ", ".join(f"{kind} of {' and '.join(names)}" for kind, names in kinds.items())
    shown = shown if len(kinds) > 1 else maps[0][0]
    note = f"Bold: the true class. Heat maps: {shown}, from dark (least) to bright (most). {NOTE}"
    places = _lay_out(figure, title, note, len(images), columns, width, ABOVE + TILE_SIDE + BELOW + LINE)
    for i, (x, y) in enumerate(places):
        _show_with_truth(figure, x, y, TILE_SIDE, images[i], truths[i])
        for name, given, (_, heat) in zip(models, answers, maps, strict=True):
            x += TILE_SIDE + TILE_GAP
            _write(figure, x, y + ABOVE - 0.09, name, TILE_SIDE, 9, ends=True, color=plots.MUTED)
            _show(figure, x, y + ABOVE, TILE_SIDE, images[i], heat[i])
            _answer(figure, x, y + ABOVE + TILE_SIDE + BELOW + LINE, TILE_SIDE, 0, given[i])


def _lay_out(
    figure, title: str, note: str, count: int, columns: int, width: float, height: float
) -> list[tuple[float, float]]:
    """Gives the figure its size, title and note, and the place of each card: inches from the left and from the top."""
    rows = math.ceil(count / columns)
    figure_width = 2 * MARGIN + columns * width + (columns - 1) * GAP
    top = _head(figure, title, note, figure_width - 2 * MARGIN)
    figure.set_size_inches(figure_width, top + rows * (height + GAP) - GAP + MARGIN)
    return [(MARGIN + i % columns * (width + GAP), top + i // columns * (height + GAP)) for i in range(count)]


def _head(figure, title: str, note: str, room: float) -> float:
    """Title and note in as many lines as they need; gives the height that they take."""
    y = MARGIN - 0.14
    for line in _lines(figure, title, room, 13, weight="bold"):
        y += TITLE_LINE
        _write(figure, MARGIN, y, line, room, 13, color=INK, weight="bold")
    y += 0.04
    for line in _lines(figure, note, room, 9):
        y += NOTE_LINE
        _write(figure, MARGIN, y, line, room, 9, color=plots.MUTED)
    return y + 0.2


def _show_with_truth(figure, x: float, y: float, side: float, image: np.ndarray, truth: str) -> None:
    _write(figure, x, y + ABOVE - 0.09, truth, side, 10, color=INK, weight="bold")
    _show(figure, x, y + ABOVE, side, image)


def _answer(figure, x: float, y: float, width: float, indent: float, answer: Answer) -> None:
    """One line: the mark, room of `indent` inches, the class, and its probability at the right end."""
    name, probability, right = answer
    colour = RIGHT if right else WRONG
    _write(figure, x, y, "✓" if right else "✗", MARK, 11, color=colour, weight="bold")
    _write(figure, x + MARK + indent, y, name, width - MARK - indent - NUMBER, 9, color=colour)
    _write(figure, x + width, y, _percent(probability), NUMBER, 9, color=INK, ha="right")


def _percent(probability: float) -> str:
    if 0 < probability <= 0.005:
        return "<1 %"
    if 0.995 <= probability < 1:
        return ">99 %"
    return f"{100 * probability:.0f} %"


def _show(figure, x: float, y: float, side: float, image: np.ndarray, heat: np.ndarray | None = None) -> None:
    """The image in a square; with `heat` (h, w), in grey under a heat map."""
    width, height = figure.get_size_inches()
    axis = figure.add_axes((x / width, 1 - (y + side) / height, side / width, side / height))
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(color=FRAME, linewidth=0.6)
    extent = (0, image.shape[1], image.shape[0], 0)
    sampling = "nearest" if max(image.shape[:2]) <= 64 else "antialiased"
    pixels = np.clip(image, 0, 1)
    if heat is not None:
        pixels = pixels.mean(-1, keepdims=True)
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation=sampling)
    if heat is not None:
        opacity = 0.15 + 0.5 * heat  # so that the image is clear where nothing draws attention
        axis.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=opacity, extent=extent, interpolation="bilinear")


def _write(figure, x: float, y: float, words: str, room: float, size: float, ends: bool = False, **style):
    """One line of text, its foot `y` inches below the figure's top; where `room` is too narrow, a little smaller, then
    shortened: at the end, or in the middle if both `ends` tell names apart."""
    from matplotlib.transforms import ScaledTranslation

    top_left = figure.dpi_scale_trans + ScaledTranslation(0, 1, figure.transFigure)
    text = figure.text(x, -y, "", transform=top_left, family="DejaVu Sans", **style)

    def fits(candidate: str, size: float) -> bool:
        text.set(text=plots.plain(candidate, len(candidate)), fontsize=size)
        return text.get_window_extent(figure.canvas.get_renderer()).width <= room * figure.dpi

    words = " ".join(words.split())
    if fits(words, size) or fits(words, size - 0.5) or fits(words, size - 1):
        return text
    length = min(len(words) - 1, 80)
    while length > 1 and not fits(_shortened(words, length, ends), size - 1):
        length -= 1
    return text


def _shortened(words: str, length: int, ends: bool) -> str:
    tail = words[len(words) - length // 2 :] if ends else ""
    return f"{words[: length - len(tail)].rstrip()}…{tail}"


def _width(figure, words: str, size: float, **style) -> float:
    """Inches."""
    text = _write(figure, 0, 0, words, math.inf, size, **style)
    width = text.get_window_extent(figure.canvas.get_renderer()).width / figure.dpi
    text.remove()
    return width


def _lines(figure, words: str, room: float, size: float, **style) -> list[str]:
    """`words` in lines no wider than `room` inches."""
    lines: list[str] = []
    for word in words.split():
        if lines and _width(figure, f"{lines[-1]} {word}", size, **style) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
