"""Lists of image files: headers, delimiters, splits, and what is refused, with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_datasets import load_dataset, locate_dataset
from utils import BadRequest


@pytest.fixture
def files(tmp_path) -> Path:
    """images/0.png to 5.png; the red of every pixel is the number."""
    (tmp_path / "images").mkdir()
    for i in range(6):
        Image.fromarray(np.full((4, 4, 3), (i, 100, 0), np.uint8)).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def locate(files: Path, text: str, name: str = "list.csv", encoding: str = "utf-8", **more):
    (files / name).write_bytes(text.encode(encoding))
    return locate_dataset("csv", str(files / name), **more)


LINES = ["0.png,cat,train", "1.png,cat,valid", "2.png,cat,test", "3.png,dog,train", "4.png,dog,val", "5.png,dog,Test"]
LINES = [f"images/{line}" for line in LINES]
EXPECTED = {"train": ([0, 3], [0, 1]), "val": ([1, 4], [0, 1]), "test": ([2, 5], [0, 1])}


def content(found) -> dict:
    splits = found.layout.splits
    return {part: ([int(Path(path).stem) for path in paths], labels) for part, (paths, labels) in splits.items()}


@pytest.mark.parametrize(
    "text",
    [
        "path,label,split\n" + "\n".join(LINES),
        "\ufeffFile,Class,Set\r\n" + "\r\n".join(LINES) + "\r\n",
        "filename\tcategory\tsplit\n" + "\n".join(LINES).replace(",", "\t"),
        "split;image;id;target\n" + "\n".join(f"{c};{a};7;{b}" for a, b, c in (line.split(",") for line in LINES)),
        "\n".join(LINES) + "\n\n",
        'path,label,split\n' + "\n".join(f'"{a}","{b}",{c}' for a, b, c in (line.split(",") for line in LINES)),
    ],
    ids=["header", "BOM, CRLF and capitals", "tabs", "semicolons, another order", "no header", "quotes"],
)  # fmt: skip
def test_every_usual_kind_of_list_is_understood(files, text):
    found = locate(files, text)
    assert content(found) == EXPECTED and found.layout.class_names == ["cat", "dog"] and found.has_val
    dataset = load_dataset(found)
    assert dataset.train.images[:, 0, 0, 0].tolist() == [0, 3] and dataset.test.images[:, 0, 0, 0].tolist() == [2, 5]


def test_columns_by_name(files):
    text = "photo,label,breed\n" + "\n".join(f"images/{i}.png,pet,{i % 2}" for i in range(6))
    found = locate(files, text, image_column="photo", label_column="breed")
    assert found.layout.class_names == ["0", "1"] and content(found)["train"][1] == [0, 1, 0, 1, 0, 1]
    with pytest.raises(BadRequest, match=r"--label-column bred: .*Did you mean breed\?"):
        locate(files, text, image_column="photo", label_column="bred")
    with pytest.raises(BadRequest, match="line 1: is neither a header with a column path or file or filename"):
        locate(files, text)


def test_a_second_column_that_may_hold_the_classes_is_named(files):
    text = "path,label,category\n" + "\n".join(f"images/{i}.png,{i % 2},{i % 3}" for i in range(6))
    assert "the classes are in the column 'label'; --label-column takes category" in locate(files, text).layout.notes


def test_numbers_sort_by_value(files):
    found = locate(files, "path,label\n" + "\n".join(f"images/{i}.png,{(10, 2, 1)[i % 3]}" for i in range(6)))
    assert found.layout.class_names == ["1", "2", "10"]


def test_the_folder_of_the_files(files):
    (files / "lists").mkdir()
    text = "path,label\n" + "\n".join(f"{i}.png,{i % 2}" for i in range(6))
    found = locate(files, text, "lists/a.csv", arguments={"root": str(files / "images")})
    assert len(found.layout.splits["train"][0]) == 6
    with pytest.raises(BadRequest, match=r"line 2: .*lists/0\.png is no file; --dataset-arg root=FOLDER"):
        locate(files, text, "lists/a.csv")
    with pytest.raises(BadRequest, match="--dataset-arg rot: a csv list takes root alone"):
        locate(files, text, "lists/a.csv", arguments={"rot": 1})


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("", "is empty"),
        ("path,label\n", "has no line after its header"),
        ("path,name\nimages/0.png,a\n", "has no column label or class or class_name"),
        ("path,label\nimages/0.png\n", "line 2: has 1 columns, too few"),
        ("path,label\nimages/0.png,\n", "line 2: has no class"),
        ("path,label\n,a\n", "line 2: has no path"),
        ("path,label,split\nimages/0.png,a,holdout\n", "line 2: 'holdout' is no split"),
        ("path,label\nimages/0.png,a\nimages/0.png,b\n", "images/0.png is also on line 2"),
        ("path,label\nimages/0.png,a\n./images/0.png,b\n", "images/0.png is also on line 2"),
        ('path,label\nimages/0.png,"a\nb"\n', "line 3: the name of a class has a line break"),
        ("path,label\nimages/0.png,a\nimages/1.png,a\n", "names only one class, 'a'"),
        ("path,label,split\nimages/0.png,a,test\n", "has no training images, only those of test"),
        ("path,label,split\nimages/0.png,a,train\nimages/1.png,b,test\n", "line 3: the class 'b' has no training"),
        ('path,label\n"images/0.png,a\n', "cannot be read as a CSV file"),
    ],
)  # fmt: skip
def test_a_line_that_is_wrong_is_named(files, text, needle):
    with pytest.raises(BadRequest) as caught:
        locate(files, text)
    assert needle in str(caught.value)


def test_classes_that_unicode_spells_in_two_ways_are_one(files):
    names = ["caf\u00e9", "cafe\u0301", "b"]
    found = locate(files, "path,label\n" + "".join(f"images/{i}.png,{names[i % 3]}\n" for i in range(6)))
    assert found.layout.class_names == ["b", "caf\u00e9"]


def test_another_encoding_is_refused(files):
    with pytest.raises(BadRequest, match="cannot be read as a CSV file"):
        locate(files, "path,label\nimages/0.png,caf\u00e9\n", encoding="latin1")


def test_a_list_of_test_images_can_be_scored(files):
    found = locate(files, "path,label,split\nimages/0.png,a,test\nimages/1.png,b,test\n", with_train=False)
    dataset = load_dataset(found)
    assert (len(dataset.train), len(dataset.test)) == (0, 2) and any("no training images" in n for n in dataset.notes)


def test_flags_without_effect_are_refused(files):
    for more in ({"download": True}, {"verify": False}):
        with pytest.raises(BadRequest, match="has no effect with --dataset csv"):
            locate(files, "\n".join(LINES), **more)
    with pytest.raises(BadRequest, match="--image-column has no effect with --dataset folder"):
        locate_dataset("folder", str(files), image_column="a")
