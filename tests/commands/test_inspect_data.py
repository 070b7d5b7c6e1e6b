"""--inspect-data: its numbers describe the data, and its picture shows the images that a training sees."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_digits
from torch import nn

import models
from image_datasets.facts import FILE
from models import registry
from records import plots
from settings import terminal

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


@pytest.fixture
def command(workdir, monkeypatch, capsys):
    """Runs main.py with a command line. Returns its status and output."""
    import main

    def run(*words: str) -> tuple[int, str, str]:
        words = [part for word in words for part in word.split()]
        monkeypatch.setattr("sys.argv", ["main.py", *words])
        capsys.readouterr()
        status = terminal.run_script(main.main)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def inspects(command):
    """Runs main.py --inspect-data x.png with more flags, which must succeed. Returns its output."""

    def run(*words: str) -> str:
        status, out, err = command("--inspect-data x.png", *words)
        assert status == 0, err
        assert out.splitlines()[-1].split() == ["wrote", "x.png"]
        return out

    return run


@pytest.fixture
def tells(inspects, monkeypatch):
    """Like `inspects`, but skips the picture, which takes a second."""
    monkeypatch.setattr(plots, "plot_samples", lambda *args: None)
    return inspects


@pytest.fixture
def drawn(monkeypatch) -> list[tuple[np.ndarray, list[str]]]:
    """Collects the images and titles of each picture, which is still written."""
    recorded = []
    draw = plots.plot_samples

    def recording(images, titles, title, path):
        recorded.append((images, titles))
        draw(images, titles, title, path)

    monkeypatch.setattr(plots, "plot_samples", recording)
    return recorded


def counts(out: str) -> tuple[list[str], dict[str, list[int]]]:
    """The names of the splits, and their counts per class and in all ("all")."""
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("class "))
    end = next(i for i, line in enumerate(lines) if line.startswith("all "))
    table = {
        line.split()[0]: [int(n.replace(",", "")) for n in line.split()[1:]] for line in lines[start + 1 : end + 1]
    }
    return lines[start].split()[1:], table


def line_of(out: str, name: str) -> str:
    return next(line for line in out.splitlines() if line.startswith(f"{name} "))


def plain_folder(root: Path, part: str, per_class: int, side: int) -> None:
    """Images of one colour per class."""
    for name, colour in COLOURS.items():
        folder = root / part / name
        folder.mkdir(parents=True)
        for i in range(per_class):
            Image.new("RGB", (side, side), colour).save(folder / f"{i}.png")


def coloured_cells(path: Path) -> dict[str, tuple[int, int]]:
    """The number of patches of each colour in a picture, and the pixels of the smallest patch."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB"))
    found = {}
    for name, colour in COLOURS.items():
        patches, number = ndimage.label((pixels == colour).all(-1))
        found[name] = (number, int(np.bincount(patches.ravel())[1:].min(initial=pixels.size)))
    return found


# -------------------------------------------------------------------------------------------------------------- numbers


def test_counts_add_up_to_the_data_set(tells):
    splits, table = counts(tells("--val-fraction 0.2"))
    assert splits == ["train", "validation", "test"]
    targets = load_digits().target
    for digit in range(10):
        assert sum(table[str(digit)]) == (targets == digit).sum()
        train, val, test = table[str(digit)]
        assert val == pytest.approx((train + val) / 5, abs=1) and test == pytest.approx(len(targets) / 50, abs=2)
    assert np.array_equal(np.sum([table[str(digit)] for digit in range(10)], 0), table["all"])


def test_the_splits_follow_the_flags_and_the_folder(tells, image_folder):
    splits, table = counts(tells("--val-fraction 0 --train-fraction 0.5"))
    assert splits == ["train", "test"] and sum(table["all"]) < 0.7 * 1797
    root = image_folder(parts={"train": 5, "val": 3, "test": 2})
    splits, table = counts(tells(f"--dataset folder --data-path {root}"))
    assert splits == ["train", "validation", "test"]
    assert table == {**{f"class{i}": [5, 3, 2] for i in range(3)}, "all": [15, 9, 6]}


def test_mean_and_deviation_are_those_of_the_pixels(tells, cifar100_folder, image_folder):
    with (cifar100_folder / "cifar-100-python/train").open("rb") as file:
        pixels = pickle.load(file)["data"].reshape(-1, 3, 1024) / 255
    measured = [", ".join(f"{value:.4f}" for value in f(pixels, axis=(0, 2))) for f in (np.mean, np.std)]
    out = tells(f"--dataset cifar100 --data-path {cifar100_folder} --normalization half")
    assert f"mean {measured[0]}; deviation {measured[1]} " in line_of(out, "pixels")
    half = "0.5000, 0.5000, 0.5000"
    assert line_of(out, "normalised").split("by ")[1] == f"mean {half}; deviation {half} (half)"
    out = tells(f"--dataset cifar100 --data-path {cifar100_folder}")
    assert "mean 0.5071, 0.4865, 0.4409; deviation 0.2673, 0.2564, 0.2762 (dataset)" in line_of(out, "normalised")

    root = image_folder(side=16)
    files = sorted((root / "train").rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files]) / 255
    measured = [", ".join(f"{value:.4f}" for value in f(pixels, axis=(0, 1, 2))) for f in (np.mean, np.std)]
    out = tells(f"--dataset folder --data-path {root}")
    for name in ("pixels", "normalised"):
        assert f"mean {measured[0]}; deviation {measured[1]} " in line_of(out, name)


def test_of_many_classes_the_smallest_and_the_largest_are_listed(tells, workdir):
    pixels = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)
    for i in range(201):
        folder = workdir / f"set/train/c{i:03d}"
        folder.mkdir(parents=True)
        for j in range(6 if i in (3, 50, 100, 150, 200) else 4 if i in (1, 7, 60, 70, 199) else 5):
            Image.fromarray(pixels + j).save(folder / f"{j}.png")
    out = tells("--dataset folder --data-path set --val-fraction 0")
    _, table = counts(out)
    assert set(table) == {*(f"c{i:03d}" for i in (1, 7, 60, 70, 199, 3, 50, 100, 150, 200)), "all"}
    assert "of 201 classes" in out
    assert sum(table["all"]) == 201 * 5 and len(out.splitlines()) < 30


# ------------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.slow
@pytest.mark.parametrize(("side", "size"), [(8, ""), (80, "--img-size 48")])
def test_the_picture_shows_25_training_images_and_nothing_else_is_written(inspects, workdir, side, size):
    """For resident images, and for large ones, which are streamed."""
    plain_folder(workdir / "set", "train", per_class=12, side=side)
    plain_folder(workdir / "set", "test", per_class=2, side=side)
    before = set(workdir.rglob("*"))
    out = inspects("--dataset folder --data-path set --crop none", size)
    assert set(workdir.rglob("*")) - before == {
        workdir / "x.png",
        workdir / "set" / FILE,
    }  # FILE caches facts about the images
    cells = coloured_cells(workdir / "x.png")
    assert sum(number for number, _ in cells.values()) == 25
    assert all(4 <= number <= 11 and smallest > 150**2 for number, smallest in cells.values())
    assert ("pixels  " in out) == (side == 8)
    assert f"images of {size.split()[1] if size else side} px" in out


@pytest.mark.slow
def test_mixed_images_carry_the_shares_of_their_classes(inspects, workdir, drawn):
    plain_folder(workdir / "set", "train", per_class=20, side=32)
    plain_folder(workdir / "set", "test", per_class=2, side=32)
    line = "--dataset folder --data-path set --crop none --no-flip --val-fraction 0 --seed 1"
    for kind in ("cutmix", "mixup"):
        inspects(line, f"--augmentation {kind}")
    for images, titles in drawn:
        assert len(images) == len(titles) == 25
        for image, title in zip(images, titles, strict=True):
            shares = {
                name: 100 * image[..., channel].mean() for name, channel in (("red", 0), ("green", 1), ("blue", 2))
            }
            named = {part.split(" (")[0]: float(part.split(" (")[1][:-3]) for part in title.split("\n+ ")}
            assert sum(named.values()) in (99, 100, 101)
            for name in COLOURS:
                assert named.get(name, 0) == pytest.approx(shares[name], abs=0.6), title
        assert sum("\n+ " in title for title in titles) > 10
    patches = [set(np.unique(images.reshape(-1, 3).round(4), axis=0).ravel()) for images, _ in drawn]
    assert patches[0] <= {0, 1} and not patches[1] <= {0, 1}  # cutmix keeps the pixels, mixup does not


@pytest.mark.slow
def test_the_picture_shows_what_a_training_sees(inspects, command, drawn, monkeypatch):
    """Its images are the first batch of a training with the same flags, recorded by the model."""
    seen = []
    monkeypatch.setattr(registry, "_CONSTRUCTORS", dict(registry._CONSTRUCTORS))

    @models.register_model(year=1989, paper="keeps what it sees")
    def keeper(num_classes: int, img_size: int, in_chans: int) -> nn.Module:
        class Keeper(nn.Sequential):
            def forward(self, images):
                if self.training and images.device.type != "meta":
                    seen.append(images.clone())
                return super().forward(images)

        return Keeper(nn.Flatten(), nn.Linear(in_chans * img_size**2, num_classes))

    flags = "--dataset digits --img-size 12 --rand --augmentation cutmix --normalization half --seed 3"
    inspects(flags)
    status, _, err = command(flags, "--model keeper --batch-size 25 --epochs 1 --run-name a --wandb disabled")
    assert status == 0, err
    images, _ = drawn[0]
    assert images.shape == (25, 12, 12, 1)
    expected = (seen[0] * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert torch.allclose(torch.from_numpy(images), expected, atol=1e-6)


@pytest.mark.slow
def test_26_training_images_make_a_picture_of_25(inspects, workdir, image_folder):
    """A last batch of one image is joined to the batch before it."""
    root = image_folder(classes=2, parts={"train": 13, "test": 1})
    inspects(f"--dataset folder --data-path {root}", "--val-fraction 0")
    with Image.open(workdir / "x.png") as picture:
        joined = picture.size
    inspects("--dataset digits")
    with Image.open(workdir / "x.png") as picture:
        assert picture.size == joined


def test_names_of_classes_are_no_formulas_and_do_not_overlap(inspects, workdir, drawn):
    for name in ("$x_{$", "a" * 50):
        (workdir / "set/train" / name).mkdir(parents=True)
        for i in range(9):
            Image.new("L", (8, 8), i).save(workdir / "set/train" / name / f"{i}.png")
    out = inspects("--dataset folder --data-path set --augmentation mixup")
    assert "a" * 50 in out and "\n$x_{$ " in out
    assert all(len(line) < 35 for _, titles in drawn for title in titles for line in title.splitlines())


# -------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("line", "needle"),
    [
        ("--inspect-data x.jpg", "x.jpg: the name of a picture ends in .png"),
        ("--inspect-data nowhere/x.png", "nowhere/x.png: cannot be written there"),
        ("--inspect-data", "expected one argument"),
        ("--inspect-data x.png --epochs 3", "--epochs has no effect with --inspect-data"),
        ("--inspect-data x.png --mix-prob 0.5", "--mix-prob has no effect"),
        ("--inspect-data x.png --dataset folder --data-path nowhere", "nowhere: no such folder"),
        ("--inspect-data x.png --dataset cifar10", "needs --datapath"),
        ("--inspect-data x.png --summary", "cannot be done at once"),
    ],
)
def test_refused(command, workdir, line, needle):
    status, out, err = command(line)
    assert status == 2 and needle in err and len(err.splitlines()) == 1
    assert out == "" and list(workdir.iterdir()) == []


def test_a_damaged_image_is_named_and_no_picture_is_left(command, workdir, image_folder):
    root = image_folder(side=80, parts={"train": 6, "test": 1})
    damaged = root / "train/class1/3.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    status, _, err = command(f"--inspect-data x.png --dataset folder --data-path {root}", "--val-fraction 0")
    assert status in (1, 2) and str(damaged) in err and len(err.splitlines()) == 1
    assert list(workdir.iterdir()) == []
