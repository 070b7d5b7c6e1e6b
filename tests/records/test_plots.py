"""The pictures of a run: what they show, whatever its epochs and classes are."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from records import plots

pytestmark = pytest.mark.draws


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draws a picture with `drawn(function, *arguments)`. Asserts that its PNG is whole; returns its figure."""
    figures, save = [], plots.save
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure) or save(figure, path))

    def draw(plot, *arguments):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Glyph")
            plot(*arguments, tmp_path / "picture.png")
        with Image.open(tmp_path / "picture.png") as picture:
            low, high = picture.convert("L").getextrema()
            assert picture.format == "PNG" and min(picture.size) > 500 and low < 128 < high
        return figures[-1]

    return draw


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def history(*names: str, epochs: int = 3) -> list[dict]:
    """Rows as in metrics.csv, with a different value in each cell."""
    return [{"epoch": i + 1, **{name: (i + 1 + n) / 100 for n, name in enumerate(("lr", *names))}}
            for i in range(epochs)]  # fmt: skip


TRAINED = ("train_loss", "train_top1")
VALIDATED = (*TRAINED, "val_loss", "val_top1")
MIXED = ("train_loss", "train_agreement_top1", "val_loss", "val_top1", "val_ema_loss", "val_ema_top1")


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (history(*VALIDATED), ["training", "validation"]),
        (history(*VALIDATED, epochs=1), ["training", "validation"]),
        (history(*TRAINED, epochs=60), ["training"]),
        (history(*MIXED), ["training (agreement with mixed targets)", "validation", "validation, averaged weights"]),
    ],
    ids=["validated", "one epoch", "not validated", "mixed and averaged"],
)
def test_curves_are_those_of_the_table(drawn, rows, labels):
    figure = drawn(plots.plot_curves, rows, {"epoch": 1}, "a network", "its score")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == labels
    assert {"a network\n", "its score"} <= set(texts(figure))
    assert ("selected: epoch 1" in texts(figure)) == ("val_top1" in rows[0])
    for axis, end, scale in zip(figure.axes, ("loss", "top1", "lr"), (1, 100, 1), strict=True):
        found = [line.get_ydata() for line in axis.lines if len(line.get_xdata()) == len(rows)]
        expected = [[scale * row[name] for row in rows] for name in rows[0] if name.endswith(end)]
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0.0, 1e37])
def test_curves_are_drawn_whatever_the_losses_are(drawn, value):
    rows = history(*VALIDATED)
    rows[1] |= {"train_loss": value, "val_loss": value}
    drawn(plots.plot_curves, rows, {"epoch": 3}, "a network", "its score")
    for row in rows:
        row |= {"train_loss": value, "val_loss": value}
    drawn(plots.plot_curves, rows, {"epoch": 3}, "a network", "its score")


def test_a_confusion_matrix_shows_shares_of_each_class_and_names_what_is_confused_most(drawn):
    counts = np.array([[7, 3, 0], [0, 20, 0], [0, 0, 0]])  # no image of the third class
    shown = texts(drawn(plots.plot_confusion, counts, ["cat", "$5 dog", "猫\t"], "a network"))
    assert "cat as \\$5 dog: 3 of 10\n" in shown
    assert {"70", "30"} <= set(shown) and "cat" in shown
    assert "a network (per cent of each true class)" in shown


@pytest.mark.parametrize("k", [2, 20, 21, 100])
def test_a_confusion_matrix_of_any_number_of_classes(drawn, k):
    counts = np.random.default_rng(0).integers(0, 5, (k, k))
    counts[0, 1] = 1000
    shown = texts(drawn(plots.plot_confusion, counts, [f"class number {i}" for i in range(k)], "a network"))
    (pairs,) = [text for text in shown if " of " in text and " as " in text]
    assert pairs.startswith(f"class number 0 as class number 1: 1000 of {counts[0].sum()}\n")
    assert pairs.count("\n") == min(12, np.count_nonzero(counts) - np.count_nonzero(np.diag(counts)))
    assert "nothing is confused" in texts(drawn(plots.plot_confusion, np.eye(k, dtype=int), ["x"] * k, "a network"))
