"""Files, folders and patterns of a command line: which files they mean, in which order."""

import os
from pathlib import Path

import pytest
from PIL import Image

from image_datasets.given_files import find_given
from utils import BadRequest


@pytest.fixture
def photos(workdir) -> Path:
    """photos/ with images, other files and a hidden folder."""
    for name in ("b.png", "a.jpg", "sub/deep/c.png", "sub/B.png", ".thumbs/b.png"):
        (workdir / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(workdir / "photos" / name)
    (workdir / "photos/sub/deep/notes.txt").write_text("no image")
    (workdir / "photos/sub/image").write_bytes((workdir / "photos/b.png").read_bytes())  # known by its content
    return workdir / "photos"


IN_PHOTOS = ["a.jpg", "b.png", "sub/B.png", "sub/deep/c.png", "sub/image"]


def test_a_folder_is_searched_at_any_depth_and_what_is_left_out_is_counted(photos):
    files, notes = find_given(["photos"])
    assert files == [f"photos/{name}" for name in IN_PHOTOS]
    assert notes == [
        "left out: 1 files and folders that are hidden, or that programs leave behind",
        "left out: 1 files that are no images (.txt 1)",
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("photos/*.png", ["b.png"]),
        ("photos/?.*", ["a.jpg", "b.png"]),
        ("photos/**/*.png", ["b.png", "sub/B.png", "sub/deep/c.png"]),
        ("photos/s*", ["sub/B.png", "sub/deep/c.png", "sub/image"]),
        ("photos/sub/deep/*", ["sub/deep/c.png", "sub/deep/notes.txt"]),
    ],
)
def test_a_pattern_means_what_a_shell_makes_of_it(photos, pattern, expected):
    assert find_given([pattern])[0] == [f"photos/{name}" for name in expected]


def test_files_keep_the_order_of_the_command_line_and_come_once(photos):
    Path("link").symlink_to("photos")
    given = ["photos/sub/B.png", "photos/b.png", "./photos/../photos/b.png", "link/b.png", "photos/*.png", "photos"]
    assert find_given(given)[0] == [f"photos/{IN_PHOTOS[i]}" for i in (2, 1, 0, 3, 4)]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(photos):
    Image.new("L", (4, 4)).save("[ab].png")
    Image.new("L", (4, 4)).save("a.png")
    assert find_given(["[ab].png"])[0] == ["[ab].png"]


def test_what_is_neither_file_nor_folder_is_left_out_of_a_pattern(photos):
    Path("photos/broken.png").symlink_to("nowhere")
    os.mkfifo("photos/pipe.png")  # reading it would wait for ever
    files, notes = find_given(["photos/*.png"])
    assert files == ["photos/b.png"] and notes == ["left out: 2 files that are no images (.png 2)"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none.png", "no such image file or folder"),
        ("photos/*.gif", "no file matches this pattern"),
        ("photos/**/x/*", "no file matches this pattern"),
        ("empty", "a folder without images"),
        ("pipe.png", "no such image file or folder"),
        ("broken.png", "no such image file or folder"),
    ],
)
def test_a_path_that_leads_to_no_file_is_refused_by_name(photos, path, reason):
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("no image")
    os.mkfifo("pipe.png")
    Path("broken.png").symlink_to("nowhere")
    with pytest.raises(BadRequest) as refused:
        find_given(["photos/a.jpg", path])
    assert str(refused.value) == f"{path}: {reason}"
