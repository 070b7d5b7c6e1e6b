"""The sheet of answers says what it must, and all of it is readable."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from records.answer_sheet import draw_answers, plot_answers

MODELS = ["vit_tiny", "deit_tiny_distill"]
LONG_MODELS = ["timm/vit_small_patch16_224.augreg_in21k", "timm/vit_small_patch16_224.augreg_in21k_ft_in1k"]
LONG_CLASS = "great white shark, white shark, man-eater, man-eating shark, Carcharodon carcharias"


def sheet(count: int, with_maps: bool = False, models: list[str] = MODELS, classes: tuple[str, ...] = ("cat", "dog")):
    """(arguments up to `title`, `maps`). The first model is always right, the last never."""
    rng = np.random.default_rng(0)
    images = [rng.random((8 + 4 * (i % 3), 8 + 4 * (i % 3), 3 if i % 2 else 1)) for i in range(count)]
    truths = [classes[i % len(classes)] for i in range(count)]
    wrong = [classes[(i + 1) % len(classes)] for i in range(count)]
    answers = [
        [(wrong[i], 0.25, False) if name == models[-1] else (truths[i], 0.75, True) for i in range(count)]
        for name in models
    ]
    maps = [(f"kind {i}", rng.random((count, 8, 8))) for i in range(len(models))] if with_maps else None
    return (images, truths, models, answers, f"{count} images of a data set, seed 0"), maps


def drawn(figure) -> list[Text]:
    """The figure's texts, after layout."""
    figure.draw_without_rendering()
    return [text for text in figure.findobj(Text) if text.get_text()]


def texts(figure) -> list[str]:
    return [text.get_text() for text in drawn(figure)]


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("with_maps", [False, True])
@pytest.mark.parametrize(("count", "columns"), [(1, 1), (3, 3), (10, 5)])
def test_a_png_of_a_size_that_can_be_read(tmp_path, count, columns, with_maps):
    path = tmp_path / "answers.png"
    path.write_text("what was there before")
    arguments, maps = sheet(count, with_maps)
    plot_answers(*arguments, path, maps=maps)
    assert list(tmp_path.iterdir()) == [path]
    columns = min(columns, 2) if with_maps else columns
    rows = -(-count // columns)
    tiles = 3 * columns if with_maps else columns
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        width, height = picture.size
        pixels = np.asarray(picture.convert("L"))
    assert 300 * tiles < width < 450 * tiles + 200 and 330 * rows < height < 550 * rows + 350
    assert (pixels[:30] == 255).all() and (pixels[-30:] == 255).all()  # margins
    assert (pixels[:, :30] == 255).all() and (pixels[:, -30:] == 255).all()


@pytest.mark.parametrize("with_maps", [False, True])
def test_every_card_tells_truth_names_marks_answers_and_probabilities(with_maps):
    arguments, maps = sheet(6, with_maps)
    figure = draw_answers(*arguments, maps)
    said = texts(figure)
    assert said[0] == "6 images of a data set, seed 0"
    for words, count in {"vit_tiny": 6, "deit_tiny_distill": 6, "✓": 6, "✗": 6, "75 %": 6, "25 %": 6}.items():
        assert said.count(words) == count, words
    assert said.count("cat") == said.count("dog") == 3 * (1 + 2)
    bold = [text.get_text() for text in drawn(figure) if text.get_weight() == "bold"]
    assert bold.count("cat") == bold.count("dog") == 3
    assert len(figure.axes) == (6 * 3 if with_maps else 6)


def test_right_and_wrong_differ_in_sign_and_colour():
    figure = draw_answers(*sheet(2)[0])
    colours = {}
    for mark, answer in itertools.pairwise(drawn(figure)):
        if mark.get_text() in "✓✗":
            colours.setdefault(mark.get_text(), set()).update({mark.get_color(), answer.get_color()})
    assert len(colours["✓"]) == len(colours["✗"]) == 1 and colours["✓"] != colours["✗"]


@pytest.mark.parametrize(
    ("probability", "words"),
    [(0, "0 %"), (0.004, "<1 %"), (0.006, "1 %"), (0.5, "50 %"), (0.994, "99 %"), (0.9996, ">99 %"), (1, "100 %")],
)
def test_probabilities(probability, words):
    (images, truths, _, _, title), _ = sheet(1)
    assert words in texts(draw_answers(images, truths, ["vit"], [[("cat", probability, True)]], title))


def test_the_picture_names_its_heat_maps():
    arguments, maps = sheet(2, with_maps=True)
    said = " ".join(texts(draw_answers(*arguments, maps)))
    assert "kind 0 of vit_tiny, kind 1 of deit_tiny_distill" in said
    maps = [("attention rollout", values) for _, values in maps]
    said = " ".join(texts(draw_answers(*arguments, maps)))
    assert "Heat maps: attention rollout," in said
    assert "Heat maps" not in " ".join(texts(draw_answers(*arguments)))


def test_cards_with_more_than_two_heat_maps_stand_below_each_other():
    arguments, maps = sheet(2, True, ["a", "b", "c"])
    figure = draw_answers(*arguments, maps)
    figure.draw_without_rendering()
    places = [axis.get_window_extent() for axis in figure.axes]
    assert len({round(place.y0, 3) for place in places}) == 2
    assert len({round(place.x0, 3) for place in places}) == 4


def test_heat_maps_cover_the_grey_image_beside_the_image():
    arguments, maps = sheet(2, with_maps=True)
    figure = draw_answers(*arguments, maps)
    plain, first, second, *_ = figure.axes[3:]  # of the second image, 12 x 12 and in colour
    image = arguments[0][1]
    assert np.array_equal(plain.images[0].get_array(), image) and len(plain.images) == 1
    for axis, (_, values) in zip((first, second), maps, strict=True):
        grey, heat = axis.images
        assert np.allclose(np.squeeze(grey.get_array()), image.mean(-1))
        assert np.array_equal(heat.get_array(), values[1]) and heat.get_extent() == grey.get_extent()
        assert heat.get_alpha().max() < 0.9 and np.ptp(heat.get_alpha()) > 0.3


# ------------------------------------------------------------------------------------------------------------- readable


def assert_nothing_overlaps(figure) -> None:
    renderer = figure.canvas.get_renderer()
    page = figure.bbox
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in drawn(figure)]
    boxes += [(f"image {i}", axis.get_window_extent(renderer)) for i, axis in enumerate(figure.axes)]
    for i, (name, box) in enumerate(boxes):
        assert box.x0 >= 20 and box.y0 >= 20 and box.x1 <= page.width - 20 and box.y1 <= page.height - 20, name
        for other, its_box in boxes[i + 1 :]:
            apart = box.x1 <= its_box.x0 or its_box.x1 <= box.x0 or box.y1 <= its_box.y0 or its_box.y1 <= box.y0
            assert apart, f"{name} over {other}"


@pytest.mark.slow
@pytest.mark.parametrize("with_maps", [False, True])
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize(
    ("models", "classes"),
    [
        (MODELS, ("n01440764", "n01443537")),
        (LONG_MODELS, ("American Staffordshire terrier", LONG_CLASS)),
        (["vit", "resnet20", "vgg11"], ("W" * 100, "two\nlines")),
    ],
    ids=["short", "long", "three"],
)
def test_nothing_overlaps_or_is_cut_off(count, with_maps, models, classes):
    arguments, maps = sheet(count, with_maps, models, classes)
    assert_nothing_overlaps(draw_answers(*arguments, maps))


def test_the_title_is_broken_into_lines():
    (*arguments, _), _ = sheet(1)
    words = "10 images of val.X of imagenet100 on which the two differ, of a run with a name that is long"
    figure = draw_answers(*arguments, words)
    assert_nothing_overlaps(figure)
    (title,) = (text for text in drawn(figure) if text.get_text() == words)
    assert title.get_window_extent().height > 2 * title.get_fontsize() / 72 * figure.dpi


def test_short_names_share_a_line_with_the_answer():
    def heights(figure, name: str, answer: str) -> tuple[set[float], set[float]]:
        return tuple({text.get_position()[1] for text in drawn(figure) if text.get_text() == words and
                      text.get_weight() != "bold"} for words in (name, answer))  # fmt: skip

    names, answers = heights(draw_answers(*sheet(3, models=["vit", "vgg"])[0]), "vit", "cat")
    assert len(names) == 1 and names <= answers
    names, answers = heights(draw_answers(*sheet(3, models=["vit", "v" * 30])[0]), "vit", "cat")
    assert len(names) == 1 and not names & answers


def test_long_names_are_shortened_so_that_they_can_be_told_apart():
    arguments, maps = sheet(3, True, LONG_MODELS, (LONG_CLASS, "cat"))
    for said in (texts(draw_answers(*arguments)), texts(draw_answers(*arguments, maps))):
        names = {words for words in said if words.startswith("timm/vit")}
        assert {words.split("…")[1][-4:] for words in names} == {"n21k", "in1k"}
        assert any(words.startswith("great white shark, ") and words.endswith("…") for words in said)


def test_dollars_are_no_formulas(tmp_path):
    arguments, maps = sheet(2, True, ["$x_{$", "vit$"], ("$\\frac{$", "$" * 60))
    for given in (None, maps):
        plot_answers(*arguments, tmp_path / "x.png", maps=given)
        figure = draw_answers(*arguments, given)
        assert_nothing_overlaps(figure)
        assert r"\$x_{\$" in texts(figure)
