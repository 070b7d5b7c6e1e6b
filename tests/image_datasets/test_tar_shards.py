"""WebDataset tar shards: classes, splits and the index; trainings are those of the same images in a folder."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from as_folder import LINE, assert_resumes, assert_trains_alike, files, listed
from PIL import Image
from test_main import stop_after

import compare
from image_datasets import load_dataset, locate_dataset, tar_index
from utils import BadRequest

webdataset = pytest.importorskip("webdataset")


def png(value: int, side: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(stream, "png")
    return stream.getvalue()


def write(shard: Path, *samples: dict) -> Path:
    """Writes a shard of WebDataset's own samples, such as {"__key__": "0001", "png": bytes, "cls": 3}."""
    shard.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(shard)) as writer:
        for sample in samples:
            writer.write(sample)
    return shard


def numbered(*labels: int, start: int = 0) -> list[dict]:
    return [{"__key__": f"{start + i:04}", "png": png(start + i), "cls": label} for i, label in enumerate(labels)]


def read(root: Path, **more):
    return load_dataset(locate_dataset("webdataset", str(root), **more))


def refusal(root: Path, **more) -> str:
    with pytest.raises(BadRequest) as error:
        read(root, **more)
    return str(error.value)


@pytest.fixture
def shards(image_folder, tmp_path):
    """Writes the images of a folder as shards, in the same order: shards(side) returns (folder, shards)."""

    def make(side: int) -> tuple[Path, Path]:
        folder, root = image_folder(side=side), tmp_path / "tars"
        root.mkdir()
        for part in ("train", "test"):
            with webdataset.ShardWriter(f"{root}/{part}-%06d.tar", maxcount=10, verbose=0) as writer:
                for i, (_, name, file) in enumerate(item for item in files(folder) if item[0] == part):
                    writer.write({"__key__": f"{i:05}", "png": file.read_bytes(), "cls": name})
        return folder, root

    return make


# ----------------------------------------------------------------------------------------------------------- trainings


@pytest.mark.parametrize("side", [32, 80])  # kept in memory, streamed
def test_a_training_has_the_weights_of_one_of_the_same_images_in_a_folder(learns, shards, side):
    folder, root = shards(side)
    assert_trains_alike(learns, folder, f"--dataset webdataset/{root}")
    paths = [row["path"] for row in listed(Path("runs/as-form"))]
    assert "train-000000.tar/00000.png" in paths and "test-000001.tar/00010.png" in paths and len(paths) == 36
    dataset = read(root)
    assert dataset.side == (32 if side == 32 else None) and dataset.streamed_side == (None if side == 32 else 80)


@pytest.mark.parametrize("more", ["", " --cache-resized jpeg"])
def test_a_resumed_run_is_bit_identical(cli, learns, monkeypatch, shards, more):
    assert_resumes(cli, learns, monkeypatch, f"--dataset webdataset/{shards(80)[1]}{more}")


def test_what_else_runs_are_asked_for(learns, shards):
    _, root = shards(32)
    learns(f"--dataset webdataset/{root} --img-size 32 --inspect-data x.png")
    assert Path("x.png").is_file()
    for seed in (1, 2):
        line = LINE.replace("--seed 1", f"--seed {seed}")
        learns(
            f"--dataset webdataset/{root} {line} --epochs 1 --num-workers 0 --classes class0,class2 --run-name s{seed}"
        )
    assert {row["class"] for row in listed(Path("runs/s1"))} == {"class0", "class2"}
    learns("--evaluate runs/s1/best.pth --num-workers 0 --run-name e")
    scored, trained = (json.loads(Path(f"runs/{run}/summary.json").read_text()) for run in ("e", "s1"))
    assert scored["top1"] == trained["top1"] and scored["image_digests"]["test"] == trained["image_digests"]["test"]
    assert "8 images of test" in learns("runs/s1 runs/s2 --images", script=compare).out


def test_a_run_knows_its_images_whatever_happens_to_the_shards(cli, learns, monkeypatch, shards):
    _, root = shards(32)
    for run in ("added", "changed"):
        with monkeypatch.context() as patch:
            stop_after(1, patch)
            cli(f"--dataset webdataset/{root} {LINE} --num-workers 0 --epochs 2 --run-name {run}")
    write(root / "train-000009.tar", *[{"__key__": f"new{i}", "png": png(i, 32), "cls": "class1"} for i in range(3)])
    assert "images added since the run began, and left out: 3" in learns("--resume --run-name added").out
    first = root / "train-000000.tar"
    with tarfile.open(first) as tar:
        samples = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(first, "w") as tar:
        for member, data in samples:
            other = png(7, 32) if member.name == "00002.png" else data
            member.size = len(other)
            tar.addfile(member, io.BytesIO(other))
    result = cli("--resume --run-name changed")
    assert result.status == 2 and "images with other content: 1 (train-000000.tar/00002.png)" in result.err


# ------------------------------------------------------------------------------------------------------------- classes


def test_numbers_are_named_by_a_file_or_else_name_themselves(tmp_path):
    write(tmp_path / "a.tar", *numbered(*[10, 2, 0] * 5))
    dataset = read(tmp_path)
    assert dataset.class_names == ["0", "2", "10"]
    assert "8 of 11 classes have no training image, and are left out" in dataset.notes
    (tmp_path / "classes.txt").write_text("\n".join(["crane", "bee", "crane", *"defghij", "kite", ""]))
    assert read(tmp_path).class_names == ["crane (0)", "crane (2)", "kite"]
    assert locate_dataset("webdataset", str(tmp_path)).layout.splits["train"][1] == [2, 1, 0] * 5
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    assert refusal(tmp_path).endswith(f"a.tar/0000.png: is of class 10, but {tmp_path}/classes.txt names 0 to 2")
    (tmp_path / "classes.txt").write_text("a\n\nc\n")
    assert "classes.txt line 2: is empty" in refusal(tmp_path)


@pytest.mark.parametrize("key", ["label", "cls", "class", "target", "class_id"])
def test_classes_in_json(tmp_path, key):
    samples = [{"__key__": f"{i}", "png": png(i), "json": {"size": 8, key: name}} for i, name in enumerate("ba" * 5)]
    write(tmp_path / "a.tar", *samples)
    assert read(tmp_path).class_names == ["a", "b"]


def test_classes_of_folders_and_images_of_any_case_are_found_and_captions_and_litter_are_not(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("./n02/1.PNG", "n01/1.png", "n01/1.txt", "n01/2.png", "n01/._2.png", "__MACOSX/n01/2.png"):
            member = tarfile.TarInfo(name)
            member.size = len(png(0))
            tar.addfile(member, io.BytesIO(png(0)))
    layout = locate_dataset("webdataset", str(tmp_path)).layout
    assert layout.class_names == ["n01", "n02"] and layout.splits["train"][1] == [1, 0, 0]
    assert [os.path.relpath(path, tmp_path) for path in layout.splits["train"][0]] == [
        "a.tar/n02/1.PNG", "a.tar/n01/1.png", "a.tar/n01/2.png"
    ]  # fmt: skip


def test_a_sample_says_what_it_lacks(tmp_path):
    lacks = {
        "no image, only cls": {"__key__": "x", "cls": 1},
        "has no class": {"__key__": "x", "png": png(0), "txt": "a caption"},
        "several images (jpg, png)": {"__key__": "x", "png": png(0), "jpg": png(0), "cls": 0},
        "neither a number nor a name": {"__key__": "x", "png": png(0), "json": {"label": [1, 2]}},
        "more than one line": {"__key__": "x", "png": png(0), "cls": "a\nb"},
        "its class cannot be read": {"__key__": "x", "png": png(0), "json": b"{"},
    }
    for needle, sample in lacks.items():
        write(tmp_path / "a.tar", *numbered(0, 1), sample)
        assert needle in (told := refusal(tmp_path)) and f"{tmp_path}/a.tar: the sample x" in told


def test_one_set_gives_its_classes_in_one_way(tmp_path):
    for other in ({"cls": "cat"}, {"json": {"label": 1}}):
        write(tmp_path / "a.tar", *numbered(0, 1), {"__key__": "x", "png": png(0), **other})
        told = refusal(tmp_path)
        assert "a.tar/0000.png by number (.cls)" in told and "a.tar/x.png by" in told


def test_classes_without_training_image_are_refused(tmp_path):
    write(tmp_path / "train.tar", *numbered(0, 1))
    write(tmp_path / "val.tar", *numbered(0, 2))
    assert "its val shards have classes that the training shards lack: 2" in refusal(tmp_path)
    write(tmp_path / "train.tar", *numbered(0, 0))
    assert "hold images of 0 only; at least two classes are needed" in refusal(tmp_path)


# ------------------------------------------------------------------------------------------------------ shards, splits


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar"),
        ("training/0.tar", "dev/0.tar"),
        ("x_train_0.tar", "valid1.tar"),
    ],
)
def test_names_say_the_split(tmp_path, train, val):
    root = tmp_path / "test"  # the name of the set's own folder says nothing
    write(root / train, *numbered(0, 1))
    write(root / val, *numbered(1, 1, 0))
    dataset = read(root)
    assert dataset.test_name == "val" and (len(dataset.train), len(dataset.test)) == (2, 3)
    write(root / "constrain.tar", *numbered(0))  # has "train" in a word
    assert "constrain.tar: other shards say their split" in refusal(root)
    (root / "constrain.tar").rename(root / "train-test.tar")
    assert "its name says two splits, test and train" in refusal(root)


def test_a_set_without_training_shards_can_only_be_scored(tmp_path):
    write(tmp_path / "val.tar", *numbered(0, 1))
    assert "has no training shards, only val" in refusal(tmp_path)
    assert len(read(tmp_path, with_train=False).test) == 2


def test_shards_are_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 1):
        write(tmp_path / f"{number}.tar", *numbered(0, 1, start=number))
    layout = locate_dataset("webdataset", str(tmp_path)).layout
    assert [Path(path).parent.name for path in layout.splits["train"][0][::2]] == ["1.tar", "9.tar", "10.tar"]


def test_what_cannot_be_read_at_random_is_refused(tmp_path):
    assert "holds no tar shards" in refusal(tmp_path)
    write(tmp_path / "a.tar", *numbered(*[0, 1] * 4))
    for name in ("b.tar.gz", "b.tgz", "b.tar.zst"):
        (tmp_path / name).write_bytes(b"")
        assert f"{name}: a compressed shard cannot be read at random; unpack it to a .tar file" in refusal(tmp_path)
        (tmp_path / name).unlink()
    assert "--download has no effect" in refusal(tmp_path, download=True)


@pytest.mark.parametrize("cut", [300, 512, 1024, 1200, 1536, 5000])  # in a header, before and in members
def test_a_truncated_shard_is_refused_by_name(tmp_path, cut):
    shard = write(tmp_path / "a.tar", *numbered(*[0, 1] * 4))
    assert len(read(tmp_path).train) == 6
    whole = shard.read_bytes()
    shard.write_bytes(whole[:cut])
    assert f"{shard}: cannot be read as a tar file" in refusal(tmp_path)
    shard.write_bytes(whole[:1024] + b"x" * 512 + whole[1536:])  # a damaged header
    assert f"{shard}: cannot be read as a tar file" in refusal(tmp_path)


def test_links_and_equal_keys_are_refused(tmp_path):
    write(tmp_path / "a.tar", *numbered(0, 1), *numbered(0))
    assert "has 0000." in (told := refusal(tmp_path)) and "twice; keys must differ" in told
    write(tmp_path / "a.tar", *numbered(0, 1))
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        link = tarfile.TarInfo("y.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert "its member y.png is no plain file" in refusal(tmp_path)


# ----------------------------------------------------------------------------------------------------------- the index


def test_only_changed_shards_are_scanned_again(tmp_path, monkeypatch):
    scanned = []
    scan = tar_index._scan
    monkeypatch.setattr(tar_index, "_scan", lambda shard: scanned.append(shard.name) or scan(shard))
    for name in ("a.tar", "b.tar"):
        write(tmp_path / name, *numbered(*[0, 1] * 5))
    first = locate_dataset("webdataset", str(tmp_path)).layout
    second = locate_dataset("webdataset", str(tmp_path)).layout
    assert scanned == ["a.tar", "b.tar"] and first.splits == second.splits
    assert [path.place for path in first.splits["train"][0]] == [path.place for path in second.splits["train"][0]]
    write(tmp_path / "b.tar", *numbered(*[1, 0] * 6))
    assert len(locate_dataset("webdataset", str(tmp_path)).layout.splits["train"][0]) == 22
    assert scanned == ["a.tar", "b.tar", "b.tar"]
    (tmp_path / tar_index.FILE).write_bytes(b"damaged")
    assert locate_dataset("webdataset", str(tmp_path)).layout.class_names == ["0", "1"]
