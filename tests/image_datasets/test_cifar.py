"""CIFAR's Python format: read exactly, verified, unpacked, and refused if it differs."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from image_datasets import load_dataset, locate_dataset
from utils import BadRequest

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
READERS = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
TRAIN_FILES = {"cifar10": [f"data_batch_{i}" for i in range(1, 6)], "cifar100": ["train"]}


def write(path: Path, content) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def read(name: str, path: Path, download: bool = False, verify: bool = False):
    return load_dataset(locate_dataset(name, str(path), download=download, verify=verify))


class MakesAFolder:
    """Its pickle makes a folder when it is read carelessly."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(params=["cifar10", "cifar100"])
def made(request, tmp_path):
    """(name, --datapath, its images and targets): generated data in the published format."""
    name = request.param
    root = tmp_path / "data"
    folder = root / FOLDERS[name]
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    classes = 10 if name == "cifar10" else 100
    truth = {}
    for part, files, per_file in (
        ("train", TRAIN_FILES[name], 4),
        ("test", ["test_batch" if name == "cifar10" else "test"], 6),
    ):
        images = rng.integers(0, 256, (per_file * len(files), 32, 32, 3), dtype=np.uint8)
        targets = rng.integers(0, classes, len(images)).tolist()
        truth[part] = images, targets
        for i, file in enumerate(files):
            here = slice(i * per_file, (i + 1) * per_file)
            rows = images[here].transpose(0, 3, 1, 2).reshape(per_file, 3072)  # red plane, green plane, blue plane
            if name == "cifar10":
                write(folder / file, {"data": rows, "labels": targets[here], "batch_label": "a batch"})
            else:
                coarse = [target // 5 for target in targets[here]]
                write(folder / file, {"data": rows, "coarse_labels": coarse, "fine_labels": targets[here]})
    names = [f"class {i}" for i in range(classes)]
    if name == "cifar10":
        write(folder / "batches.meta", {"label_names": names, "num_vis": 3072})
    else:
        write(folder / "meta", {"coarse_label_names": names[:20], "fine_label_names": names})
    return name, root, truth


@pytest.fixture
def published(made, monkeypatch):
    """`made`, with the checksums of the generated files in place of the published ones."""
    name, root, truth = made
    reader, folder = READERS[name], root / FOLDERS[name]

    def checksum(file: str) -> str:
        return hashlib.md5((folder / file).read_bytes()).hexdigest()

    for files in ("train_list", "test_list"):
        monkeypatch.setattr(reader, files, [[file, checksum(file)] for file, _ in getattr(reader, files)])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": checksum(reader.meta["filename"])})
    return name, root, truth


@pytest.fixture
def no_network(monkeypatch):
    """Makes downloads fail at once; the list of addresses that were tried."""
    tried = []

    def refuse(url, *args, **kwargs):
        tried.append(url)
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(datasets.utils, "_get_redirect_url", refuse)
    monkeypatch.setattr(datasets.utils, "_urlretrieve", refuse)
    return tried


def assert_is(dataset, truth) -> None:
    for part in ("train", "test"):
        images, targets = truth[part]
        split = getattr(dataset, part)
        assert split.images.dtype == np.uint8
        assert np.array_equal(split.images, images)
        assert split.targets.tolist() == targets


def test_a_resaved_copy_is_read_exactly_when_asked(made):
    name, root, truth = made
    dataset = read(name, root)
    assert_is(dataset, truth)
    assert dataset.class_names == [f"class {i}" for i in range(10 if name == "cifar10" else 100)]
    assert (dataset.side, dataset.in_chans, dataset.flip, dataset.test_name) == (32, 3, True, "test")
    assert dataset.val is None


def test_a_resaved_copy_is_refused_unless_asked(made):
    name, root, _ = made
    with pytest.raises(BadRequest, match=f"differ from the published {name} .*--no-verify-checksum"):
        read(name, root, verify=True)


def test_the_published_files_are_read_exactly(published):
    name, root, truth = published
    dataset = read(name, root, verify=True)
    assert_is(dataset, truth)
    assert dataset.class_names[3] == "class 3"


def test_one_changed_byte_in_any_file_is_noticed(published):
    name, root, _ = published
    for path in (root / FOLDERS[name]).iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        with pytest.raises(BadRequest, match="checksum"):
            read(name, root, verify=True)
        path.write_bytes(content)
    read(name, root, verify=True)


def test_the_inner_folder_may_be_given_too(made):
    name, root, truth = made
    assert_is(read(name, root / FOLDERS[name]), truth)


def test_an_archive_alone_is_unpacked_when_its_checksum_fits(published, monkeypatch, no_network):
    name, root, truth = published
    archive = root / READERS[name].filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / FOLDERS[name], FOLDERS[name])
    shutil.rmtree(root / FOLDERS[name])
    with pytest.raises(BadRequest, match=r"python\.tar\.gz: differs from the published archive .*--download"):
        read(name, root, verify=True)
    monkeypatch.setattr(READERS[name], "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert_is(read(name, root, verify=True), truth)
    assert (root / FOLDERS[name]).is_dir()
    assert no_network == []


def test_a_download_that_fails_says_which_file_to_put_where(tmp_path, no_network):
    root = tmp_path / "new"
    with pytest.raises(BadRequest) as caught:
        read("cifar100", root, download=True, verify=True)
    assert f"put cifar-100-python.tar.gz into {root}" in str(caught.value)
    assert datasets.CIFAR100.url in str(caught.value)
    assert datasets.CIFAR100.url in no_network


def test_files_that_are_there_are_not_downloaded_again(published, no_network):
    name, root, truth = published
    assert_is(read(name, root, download=True, verify=True), truth)
    assert no_network == []


def test_what_is_missing_is_named_before_anything_is_read(made, tmp_path):
    name, root, _ = made
    lost = root / FOLDERS[name] / TRAIN_FILES[name][-1]
    lost.unlink()
    with pytest.raises(BadRequest, match=f"lacks {FOLDERS[name]}/{lost.name}; --download fetches {name}"):
        locate_dataset(name, str(root), download=False, verify=True)
    with pytest.raises(BadRequest, match=f"has neither {FOLDERS[name]}/ nor {READERS[name].filename}"):
        locate_dataset(name, str(tmp_path), download=False, verify=True)
    with pytest.raises(BadRequest, match=r"gone: no such folder; --download"):
        locate_dataset(name, str(tmp_path / "gone"), download=False, verify=True)


@pytest.mark.parametrize("verify", [True, False])
def test_a_file_with_code_is_refused_and_does_not_run(verify, made, tmp_path):
    name, root, _ = made
    file, marker = root / FOLDERS[name] / TRAIN_FILES[name][-1], tmp_path / "ran"
    content = pickle.loads(file.read_bytes())
    write(file, {**content, "extra": MakesAFolder(marker)})
    pickle.loads(file.read_bytes())
    assert marker.is_dir()  # the payload works
    marker.rmdir()
    with pytest.raises(BadRequest, match=file.name if not verify else "checksum"):
        read(name, root, verify=verify)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.zeros((4, 3071), np.uint8)}, "3,072 bytes"),
        ({"data": np.zeros((4, 3072), np.float32)}, "array of uint8"),
        ({"data": np.zeros(3072, np.uint8)}, "3,072 bytes"),
        ({"data": [[0] * 3072] * 4}, "array of uint8"),
        ({"data": None}, "array of uint8"),
        ({"labels": [0, 1, 2]}, "labels do not match its 4 images"),
        ({"labels": [0, 1, 2, 10]}, "labels do not match .* the class names"),
        ({"labels": [0, 1, 2, -1]}, "labels do not match"),
        ({"labels": None}, "labels do not match"),
        ({"labels": 4}, "labels do not match"),
        ({"labels": [[0], [1], [2], [3]]}, "labels do not match"),
    ],
)
@pytest.mark.parametrize("made", ["cifar10"], indirect=True)
def test_a_batch_of_the_wrong_form_is_refused_naming_the_file(change, message, made):
    _, root, _ = made
    file = root / FOLDERS["cifar10"] / "data_batch_3"
    write(file, {**pickle.loads(file.read_bytes()), **change})
    with pytest.raises(BadRequest, match=f"data_batch_3: .*{message}"):
        read("cifar10", root)


@pytest.mark.parametrize("content", [[], {}, {"label_names": "ten names"}, {"label_names": [1, 2]}])
@pytest.mark.parametrize("made", ["cifar10"], indirect=True)
def test_a_file_without_class_names_is_refused(content, made):
    _, root, _ = made
    write(root / FOLDERS["cifar10"] / "batches.meta", content)
    with pytest.raises(BadRequest, match=r"batches\.meta: has no list of names 'label_names'"):
        read("cifar10", root)
