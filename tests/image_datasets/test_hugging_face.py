"""Hugging Face sets: columns, classes and splits; trainings are those of the same images in a folder."""

from __future__ import annotations

import io
import json
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
from as_folder import LINE, assert_resumes, assert_trains_alike, files, listed
from PIL import Image
from test_main import stop_after

import compare
from image_datasets import load_dataset, locate_dataset
from image_datasets.members import content, stamp
from utils import BadRequest

datasets = pytest.importorskip("datasets")
IMAGE, NAMES = datasets.Image(), datasets.ClassLabel(names=["cat", "dog", "eel"])


@pytest.fixture(autouse=True)
def asked(tmp_path, monkeypatch):
    """The library's cache is a folder of the test. There is no network; returns the hosts that are asked for."""
    hosts = []

    def refuse(host, *args, **kwargs):
        hosts.append(host)
        raise OSError("no network")

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield hosts
    assert hosts == []


def png(value: int, side: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(stream, "png")
    return stream.getvalue()


def table(labels: list, kind=NAMES, image: str = "image", label: str = "label", start: int = 0, **more):
    """A table of as many different images as labels. `more`: further columns, as (values, feature)."""
    images = [{"bytes": png(start + i), "path": f"{start + i}.png"} for i in range(len(labels))]
    values = {image: images, label: labels, **{name: column for name, (column, _) in more.items()}}
    features = {image: IMAGE, label: kind, **{name: feature for name, (_, feature) in more.items()}}
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


def write(root: Path, **splits) -> Path:
    """Writes tables as Parquet files of a folder, named like the hub's."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    for name, found in splits.items():
        found.to_parquet(root / "data" / f"{name}-00000-of-00001.parquet")
    return root


def read(root: Path | str, **more):
    return load_dataset(locate_dataset("hf", str(root), **more))


def refusal(root: Path | str, **more) -> str:
    with pytest.raises(BadRequest) as error:
        read(root, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def saved(image_folder, tmp_path):
    """Writes the images of a folder as a data set, in the same order: saved(side, form) returns (folder, place)."""

    def make(side: int, form: str) -> tuple[Path, Path]:
        folder, place = image_folder(side=side), tmp_path / "saved"
        classes = datasets.ClassLabel(names=["class0", "class1", "class2"])
        features = datasets.Features({"img": IMAGE, "label": classes})
        tables = {}
        for part in ("train", "test"):
            rows = [(name, file) for found, name, file in files(folder) if found == part]
            images = [{"bytes": file.read_bytes(), "path": file.name} for _, file in rows]
            values = {"img": images, "label": [name for name, _ in rows]}
            tables[part] = datasets.Dataset.from_dict(values, features=features)
        if form == "parquet":
            write(place, **tables)
        else:
            datasets.DatasetDict(tables).save_to_disk(place)
        return folder, place

    return make


# ----------------------------------------------------------------------------------------------------------- trainings


@pytest.mark.parametrize(("side", "form"), [(32, "parquet"), (80, "disk")])  # kept in memory, streamed
def test_a_training_has_the_weights_of_one_of_the_same_images_in_a_folder(learns, saved, side, form):
    folder, place = saved(side, form)
    assert_trains_alike(learns, folder, f"--dataset hf/{place}")
    paths = [row["path"] for row in listed(Path("runs/as-form"))]
    assert "train/000000-0.png" in paths and "test/000011-3.png" in paths and len(paths) == 36
    dataset = read(place)
    assert dataset.side == (32 if side == 32 else None) and dataset.streamed_side == (None if side == 32 else 80)


@pytest.mark.parametrize(("form", "more"), [("parquet", ""), ("disk", " --cache-resized jpeg")])
def test_a_resumed_run_is_bit_identical(cli, learns, monkeypatch, saved, form, more):
    assert_resumes(cli, learns, monkeypatch, f"--dataset hf/{saved(80, form)[1]}{more}")


def test_what_else_runs_are_asked_for(learns, saved):
    _, place = saved(32, "parquet")
    learns(f"--dataset hf/{place} --img-size 32 --inspect-data x.png")
    assert Path("x.png").is_file()
    for seed in (1, 2):
        line = LINE.replace("--seed 1", f"--seed {seed} --label-column label --num-workers 0 --epochs 1")
        learns(f"--dataset hf/{place} {line} --classes class0,class2 --run-name s{seed}")
    assert {row["class"] for row in listed(Path("runs/s1"))} == {"class0", "class2"}
    learns("--evaluate runs/s1/best.pth --num-workers 0 --run-name e")
    scored, trained = (json.loads(Path(f"runs/{run}/summary.json").read_text()) for run in ("e", "s1"))
    assert scored["top1"] == trained["top1"] and scored["image_digests"]["test"] == trained["image_digests"]["test"]
    assert "8 images of test" in learns("runs/s1 runs/s2 --images", script=compare).out


def test_a_run_knows_its_images_whatever_happens_to_the_files(cli, learns, monkeypatch, tmp_path):
    root, labels = tmp_path / "set", [0, 1] * 10
    write(root, train=table(labels), test=table(labels, start=50))
    for run in ("added", "changed"):
        with monkeypatch.context() as patch:
            stop_after(1, patch)
            cli(f"--dataset hf/{root} {LINE.replace('32', '8')} --num-workers 0 --epochs 2 --run-name {run}")
    write(root, train=table([*labels, 1]))
    assert "images added since the run began, and left out: 1" in learns("--resume --run-name added").out
    write(root, train=table(labels, start=1))
    result = cli("--resume --run-name changed")
    assert result.status == 2 and "images missing" in result.err  # the stored names of the files have moved too
    images = [{"bytes": png(99 if i == 5 else i), "path": f"{i}.png"} for i in range(20)]
    write(root, train=datasets.Dataset.from_dict({"image": images, "label": labels}, features=table(labels).features))
    result = cli("--resume --run-name changed")
    assert result.status == 2 and "images with other content: 1 (train/000005-5.png)" in result.err


# ------------------------------------------------------------------------------------------------------------- columns


def test_the_image_is_found_by_its_feature_its_name_or_its_bytes(tmp_path):
    labels = [0, 1] * 5
    root = write(tmp_path / "a", train=table(labels, image="photo", mask=([png(200)] * 10, IMAGE)))
    assert "which column holds the images? --image-column says; there are photo, mask" in refusal(root)
    assert read(root, image_column="photo").train.images.max() < 10
    assert "--image-column phto: no such column. Did you mean photo? There are photo, label, mask" in refusal(
        root, image_column="phto"
    )
    root = write(tmp_path / "b", train=table(labels, image="img", mask=([png(200)] * 10, IMAGE)))
    dataset = read(root)
    assert dataset.train.images.max() < 10 and any("--image-column chooses" in note for note in dataset.notes)
    data = [png(i) for i in range(10)]
    for name, values in (("c", data), ("d", [{"bytes": value, "path": None} for value in data])):
        plain = datasets.Dataset.from_dict({"pixels": values, "label": labels})
        dataset = read(write(tmp_path / name, train=plain))
        assert len(dataset.train) == 8 and dataset.class_names == ["0", "1"]
    assert "--image-column label: holds int64, not encoded images" in refusal(tmp_path / "d", image_column="label")


def test_images_outside_the_table_are_files(tmp_path):
    from datasets.arrow_writer import ArrowWriter

    (tmp_path / "x").mkdir()
    rows = []
    for i in range(10):
        (tmp_path / "x" / f"{i}.png").write_bytes(png(i))
        rows.append({"bytes": None, "path": str(tmp_path / "x" / f"{i}.png")})
    with ArrowWriter(path=str(tmp_path / "train.arrow"), features=table([0]).features) as writer:
        for i, row in enumerate(rows):
            writer.write({"image": row, "label": i % 2})
        writer.finalize()
    paths = locate_dataset("hf", str(tmp_path), image_column="image").layout.splits["train"][0]
    assert paths == [row["path"] for row in rows]


def test_the_class_is_found_by_its_feature_or_its_name(tmp_path):
    coarse = ([0] * 6, datasets.ClassLabel(names=["animal", "plant"]))
    root = write(tmp_path / "a", train=table([0, 1, 2] * 2, label="fine_label", coarse_label=coarse))
    dataset = read(root)
    assert dataset.class_names == ["cat", "dog", "eel"]
    assert "column fine_label holds the classes; others may too, and --label-column chooses them: coarse_label" in (
        dataset.notes
    )
    assert "images of animal only" in refusal(root, label_column="coarse_label")
    assert "--label-column x: no such column" in refusal(root, label_column="x")
    root = write(tmp_path / "b", train=table([0, 1] * 3, label="kind", other=([1] * 6, NAMES)))
    assert "which column holds the classes? --label-column says; there are kind, other" in refusal(root)
    text = write(tmp_path / "c", train=table(["b", "a"] * 3, datasets.Value("string"), label="class"))
    assert read(text).class_names == ["a", "b"]
    several = table([[0, 1]] * 4, datasets.List(NAMES), label="labels")
    assert "sets with several classes per image are not supported" in refusal(write(tmp_path / "d", train=several))


def test_numbers_name_themselves_and_classes_without_training_image_are_left_out(tmp_path):
    whole = datasets.Value("int64")
    dataset = read(write(tmp_path / "a", train=table([10, 2, 10, 2, 0, 0], whole)))
    assert dataset.class_names == ["0", "2", "10"]
    root = write(tmp_path / "b", train=table([0, 2, 0, 2]), test=table([2, 0], start=9))
    dataset = read(root)
    assert dataset.class_names == ["cat", "eel"] and dataset.test.targets.tolist() == [1, 0]
    assert "1 of 3 classes have no training image, and are left out" in dataset.notes
    write(root, test=table([1, 0], start=9))
    assert "its test split has classes that train lacks: dog" in refusal(root)


# -------------------------------------------------------------------------------------------------------------- splits


def test_usual_names_of_splits_are_used_and_others_are_told(tmp_path):
    labels = [0, 1, 2] * 2
    tables = {"train": table(labels), "validation": table(labels, start=9), "extra": table(labels, start=20)}
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "s")
    dataset = read(tmp_path / "s")
    assert dataset.test_name == "val" and "splits that are not used: extra" in dataset.notes
    datasets.DatasetDict({"extra": table(labels)}).save_to_disk(tmp_path / "e")
    assert "has no train split, but extra" in refusal(tmp_path / "e")
    datasets.DatasetDict({"test": table(labels)}).save_to_disk(tmp_path / "t")
    assert len(read(tmp_path / "t", with_train=False).test) == 6


def test_unlabelled_splits_are_left_out_and_single_unlabelled_rows_are_refused(tmp_path):
    labels = [0, 1, 2] * 2
    root = write(tmp_path / "a", train=table(labels), validation=table(labels), test=table([-1] * 4))
    dataset = read(root)
    assert dataset.test_name == "val" and "left out: test, whose 4 images have no class" in dataset.notes
    write(root, test=table([0, 1, None, 2]))
    assert "1 rows of its test split have no class in column label, row 2 for example" in refusal(root)
    write(root, train=table([-1] * 4))
    assert "4 rows of its train split have no class" in refusal(root)


# ------------------------------------------------------------------------------------------------------------ places


def test_one_parquet_file_is_a_set(tmp_path):
    table([0, 1, 2] * 5).to_parquet(tmp_path / "x.parquet")
    dataset = read(tmp_path / "x.parquet")
    assert (len(dataset.train), len(dataset.test), dataset.test_name) == (12, 3, "test")


def test_a_configuration_is_chosen_if_there_are_several(tmp_path):
    root = tmp_path / "set"
    for name, labels in (("small", [0, 1] * 2), ("large", [0, 1, 2] * 4)):
        (root / name).mkdir(parents=True)
        table(labels).to_parquet(root / name / "train.parquet")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/*.parquet\n" for name in ("small", "large"))
    (root / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    told = refusal(root)
    assert "several configurations; --dataset-arg name=NAME chooses one of" in told and "small" in told
    assert len(locate_dataset("hf", str(root), arguments={"name": "large"}).layout.splits["train"][0]) == 12
    assert "middle" in refusal(root, arguments={"name": "middle"})
    assert "--dataset-arg split: --dataset hf takes only name and revision" in refusal(root, arguments={"split": "x"})
    assert "--dataset-arg revision has no effect on a folder" in refusal(root, arguments={"revision": "x"})


def test_no_code_and_no_pickle_of_a_data_set_is_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harmed",)

    root = tmp_path / "script"
    root.mkdir()
    (root / "script.py").write_text(f"open({str(tmp_path / 'harmed')!r}, 'w')")
    assert "scripts are no longer supported" in refusal(root)
    (root / "script.py").rename(root / "other.py")
    assert "cannot be loaded" in refusal(root)
    for name in ("train.pkl", "train.pickle"):
        (root / name).write_bytes(pickle.dumps(Harm()))
        (root / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {name}\n---\n")
        assert "--dataset hf/" in refusal(root)
    assert not (tmp_path / "harmed").exists()


def test_what_is_no_table_of_images_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    assert "--dataset folder reads folders of images" in refusal(tmp_path)
    (tmp_path / "0.png").unlink()
    assert "cannot be loaded" in refusal(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 damaged PAR1")
    assert "cannot be loaded" in refusal(tmp_path) and "cannot be loaded" in refusal(tmp_path / "x.parquet")
    assert "no such folder or file" in refusal(tmp_path / "nowhere")
    assert "--download has no effect" in refusal(tmp_path, download=True)


def test_a_name_of_the_hub_is_read_from_the_cache_and_fetched_only_on_demand(tmp_path, monkeypatch, asked):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    assert "only the cache was searched, --download fetches it" in refusal("someone/some-set")
    assert asked == []
    assert "hf/someone/some-set: cannot be loaded" in refusal("someone/some-set", download=True)
    assert asked
    asked.clear()
    # What the library leaves in its cache for a set of the hub: the same as for a folder, with the name of its owner.
    locate_dataset("hf", str(write(tmp_path / "some-set", train=table([0, 1, 2] * 5))))
    (tmp_path / "cache" / "some-set").rename(tmp_path / "cache" / "someone___some-set")
    located = locate_dataset("hf", "someone/some-set")
    assert located.layout.root.is_relative_to(tmp_path / "cache") and len(load_dataset(located).train) == 12
    commit = located.layout.root.name
    assert len(read("someone/some-set", arguments={"revision": commit}).train) == 12
    assert "--dataset-arg revision=v2: the cache of hf/someone/some-set holds another one" in refusal(
        "someone/some-set", arguments={"revision": "v2"}
    )


def test_members_travel_to_other_processes(tmp_path):
    paths = locate_dataset("hf", str(write(tmp_path / "a", train=table([0, 1] * 5)))).layout.splits["train"][0]
    again = pickle.loads(pickle.dumps(paths))
    assert again == paths and content(again[3]) == content(paths[3]) == png(3) and stamp(again[3]) == stamp(paths[3])


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    find = "image_datasets.hugging_face.importlib.util.find_spec"
    monkeypatch.setattr(find, lambda name: None)
    assert refusal(tmp_path).endswith("pip install datasets")
