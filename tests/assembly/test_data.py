"""Training from a resized copy, from the command line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_main import assert_same_run, stop_after

import image_datasets
import train_deit_imagenet100
import viz_random_10_vit_vs_deit
from assembly.trained import batches_for
from image_datasets.resized.place import short_side
from image_datasets.splits import Split
from models import registry

CPU = torch.device("cpu")

LINE = "--model resnet20 --img-size 32 --batch-size 5 --num-workers 0 --epochs"


@pytest.fixture
def large(image_folder) -> Path:
    """24 training images and 12 test images, large enough to be streamed."""
    return image_folder(side=80)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_one_command_makes_the_copy_of_the_training_images_and_trains_from_it(learns, workdir, large):
    line = f"--dataset folder --datapath {large} {LINE} 1 --cache-resized jpeg"
    told = learns(line, "--run-name", "a").out
    place = large / ".resized/jpeg-256"
    assert f"copy          24 of 24 training images were copied to {place} (" in told  # and no test image
    assert files(place) == ["000001.data", "000001.index", "lock"]
    again = learns(line, "--run-name", "b").out
    assert f"copy          all 24 training images are in {place} (" in again
    assert_same_run(workdir / "runs/a", workdir / "runs/b")
    summary = json.loads((workdir / "runs/a/summary.json").read_text())
    assert any("training images are read from a resized copy" in note for note in summary["notes"])
    assert summary["settings"]["cache_resized"] == "jpeg"


def test_a_resumed_run_is_bit_identical_with_another_place_of_the_copy_and_other_workers(
    cli, learns, workdir, monkeypatch, large
):
    line = f"--dataset folder --datapath {large} {LINE} 3 --rand --cache-resized jpeg"
    learns(line, "--run-name", "whole", "--cache-dir", "elsewhere")
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        assert cli(line, "--run-name", "resumed").status == 130
    refused = cli("--resume --run-name resumed --cache-resized raw")
    assert refused.status == 2
    assert "--cache-resized raw: the run to be resumed has --cache-resized jpeg" in refused.err
    shutil.rmtree(large / ".resized")
    shutil.rmtree(workdir / "elsewhere")
    learns("--resume --run-name resumed --num-workers 2 --cache-dir elsewhere")
    assert_same_run(workdir / "runs/whole", workdir / "runs/resumed")
    assert (workdir / "elsewhere/jpeg-256").is_dir() and not (large / ".resized").exists()


def test_a_run_from_before_the_flag_is_not_continued_with_it(cli, workdir, monkeypatch, large):
    line = f"--dataset folder --datapath {large} {LINE} 3 --run-name a"
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert cli(line).status == 130
    file = workdir / "runs/a/settings.json"
    content = json.loads(file.read_text())
    del content["settings"]["cache_resized"], content["settings"]["cache_dir"]
    file.write_text(json.dumps(content))
    refused = cli("--resume --run-name a --cache-resized raw")
    assert refused.status == 2 and "--cache-resized raw: the run to be resumed has" in refused.err


def test_damage_stops_a_run_in_one_line_and_is_repaired_by_the_next_command(cli, learns, workdir, large):
    line = f"--dataset folder --datapath {large} {LINE} 1 --cache-resized raw"
    learns(line, "--run-name", "whole")
    data = large / ".resized/raw-256/000001.data"
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content)
    failed = cli(line, "--run-name", "a")
    assert failed.status == 1 and len(failed.err.splitlines()) == 1 and "is damaged" in failed.err
    assert "1 of 24 training images were copied" in learns("--resume --run-name a").out
    assert_same_run(workdir / "runs/whole", workdir / "runs/a")


def test_the_short_side_is_what_evaluation_resizes_to_and_not_below_256():
    assert [short_side(size) for size in (32, 224, 280, 384)] == [256, 256, 320, 439]


def test_the_study_of_imagenet_100_has_it_too(cli, shards):
    root = shards(side=80, per_class=3)
    line = f"--data-path {root} --img-size 32 --patch-size 8 --embed-dim 32 --depth 1 --num-heads 2 --batch-size 8"
    result = cli(f"{line} --epochs 1 --num-workers 0 --cache-resized raw", script=train_deit_imagenet100)
    assert result.status == 0, result.err
    assert f"21 of 21 training images were copied to {root}/.resized/raw-256" in result.out


def refused(result, needle: str) -> None:
    assert result.status == 2, result.out
    assert needle in result.err and len(result.err.splitlines()) == 1


def test_what_has_no_effect_is_refused(cli, workdir, image_folder, large):
    small = image_folder(side=32, name="small")
    refused(cli("--dataset digits --cache-resized raw"), "--cache-resized has no effect: digits is no set of image")
    refused(cli(f"--dataset folder --datapath {small} --cache-resized raw"),
            "--cache-resized has no effect: images of 32 px are kept in memory")  # fmt: skip
    refused(cli(f"--dataset folder --datapath {large} --cache-dir x"), "--cache-dir has no effect: it needs --cache-re")
    refused(cli("--evaluate x.pth --cache-resized raw"), "--cache-resized has no effect with --evaluate")
    refused(cli(f"--dataset folder --datapath {large} --cache-resized png"), "'png' is none of jpeg, raw")
    assert files(workdir) == [] and not (large / ".resized").exists()


def test_places_that_can_hold_no_copy_are_refused(cli, workdir, large):
    (workdir / "file").write_text("")
    line = f"--dataset folder --datapath {large} {LINE} 1 --cache-resized jpeg --cache-dir"
    refused(cli(line, "file"), "--cache-dir file: file is a file")
    refused(cli(line, "/proc/self/copy"), "--cache-dir /proc/self/copy: /proc/self/copy cannot be written")
    refused(cli(line, f"{large}/train/copy"), "lies among the images")
    assert files(workdir) == ["file"] and not (large / "train/copy").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_data_that_are_read_only_need_another_place_for_the_copy(cli, learns, workdir, large):
    large.chmod(0o500)
    line = f"--dataset folder --datapath {large} {LINE} 1 --cache-resized jpeg"
    refused(cli(line), "is not writable); --cache-dir PATH names another folder")
    learns(line, "--cache-dir", "copies")


# ---------------------------------------------------------------------------------------------------------------- size


def content(name: str) -> dict:
    return torch.load(Path(f"runs/{name}/best.pth"), weights_only=True)


PLAIN = "--dataset folder --model resnet20 --batch-size 12 --num-workers 0 --epochs 1"


def test_squares_of_one_size_keep_it_and_are_shown_whole(learns, workdir, large):
    out = learns(f"{PLAIN} --datapath {large} --run-name a").out
    assert "colour images of 80 px, streamed" in out
    assert (content("a")["img_size"], content("a")["eval_crop"]) == (80, 1.0)
    assert "images of 80 px" in learns(f"--summary --dataset folder --datapath {large} --model resnet20").out
    assert " 80  " in learns(f"--list-models resnet20 --dataset folder --datapath {large}").out
    assert "colour images of 80 px\n" in learns(f"--inspect-data x.png --dataset folder --datapath {large}").out
    logits = np.load("runs/a/predictions.npz")["logits"]
    learns("--evaluate runs/a/best.pth --num-workers 0 --run-name again")
    assert np.load("runs/again/predictions.npz")["logits"] == pytest.approx(logits, abs=1e-5)

    batches = batches_for(content("a"), Split(np.zeros(1, int), paths=[str(large / "test/class0/0.png")]), CPU, 1, 0)
    with Image.open(large / "test/class0/0.png") as image:
        stored = np.asarray(image)
    assert np.array_equal(next(iter(batches.unprepared()))[0][0].permute(1, 2, 0).numpy(), stored)


@pytest.mark.parametrize(("flags", "told", "size"), [
    ("--img-size 48", "48 px (from 80 px)", 48),
    ("--data-rules 1", "224 px, streamed", 224),
    ("--model vit_b_16 --summary", "224 px", 224),
])  # fmt: skip
def test_what_is_asked_for_and_the_architecture_win(learns, workdir, large, flags, told, size):
    line = f"{PLAIN} --datapath {large} --run-name a {flags}"
    if "--summary" in flags:
        line = f"--dataset folder --datapath {large} {flags}"
    assert f"colour images of {told}" in learns(line).out
    if "--summary" not in flags:
        assert (content("a")["img_size"], content("a")["eval_crop"]) == (size, 0.875)


@pytest.mark.parametrize("side", [79, 81, 225])
def test_one_image_of_another_size_and_all_are_224_px(workdir, large, side):
    found = image_datasets.locate_dataset("folder", str(large), False, True)
    assert found.layout.streamed_side == 80
    Image.new("RGB", (side, 80)).save(large / "test/class2/3.png")  # the last one
    dataset = image_datasets.load_dataset(image_datasets.locate_dataset("folder", str(large), False, True))
    assert dataset.natural_side is None and registry.image_size(None, "resnet20", dataset.natural_side) == 224


def test_the_log_says_so_where_sizes_differ(learns, workdir, large):
    Image.new("RGB", (90, 80)).save(large / "train/class2/0.png")
    assert "images of 224 px (from several sizes)" in learns(f"{PLAIN} --datapath {large} --run-name a").out


def test_squares_above_224_px_are_made_smaller(image_folder):
    for side, natural in ((224, 224), (225, None)):
        root = image_folder(side=side, parts={"train": 3, "test": 1}, name=str(side))
        assert image_datasets.dimensions(image_datasets.Wanted("folder", str(root)))[1] == natural


# --------------------------------------------------------------------------------------------------------------- shape


@pytest.fixture
def wide(tmp_path) -> Path:
    """Two classes of images four times as wide as high. They differ only at their left edge."""
    rng = np.random.default_rng(0)
    root = tmp_path / "wide"
    for part, count in (("train", 6), ("test", 3)):
        for label in range(2):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 100, (32, 128, 3), dtype=np.uint8)
                pixels[:, :16, label] = 255
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


WIDE = (
    "--dataset folder --model resnet20 --img-size 32 --batch-size 12 --num-workers 0 --epochs 1 --crop none --no-flip"
)


@pytest.mark.parametrize("mode", ["crop", "squeeze", "letterbox"])
def test_a_run_is_evaluated_as_it_prepared_its_images(learns, workdir, wide, mode):
    out = learns(f"{WIDE} --datapath {wide} --resize-mode {mode} --run-name a").out
    hides = "the centre crop of evaluation hides 81 % of a typical image (the median of 12)"  # 1 - 0.875^2 / 4
    assert (hides in out) == (mode == "crop")
    assert any(hides in note for note in json.loads(Path("runs/a/summary.json").read_text())["notes"]) == (
        mode == "crop"
    )
    logits = np.load("runs/a/predictions.npz")["logits"]
    learns("--evaluate runs/a/best.pth --num-workers 0 --run-name again")
    assert np.load("runs/again/predictions.npz")["logits"] == pytest.approx(logits, abs=1e-5)
    assert json.loads(Path("runs/again/summary.json").read_text())["settings"]["resize_mode"] == mode

    probability = np.exp(logits[0]) / np.exp(logits[0]).sum()
    told = learns(f"--predict runs/a/best.pth {wide / 'test/class0/0.png'}").out
    for i in range(2):
        line = next(line for line in told.splitlines() if line.endswith(f"class{i}"))
        assert float(line.split()[0]) == pytest.approx(100 * probability[i], abs=0.02)
    learns("--measure runs/a --corruptions --num-workers 0")
    clean = json.loads(Path("runs/a/robustness.json").read_text())["clean"]["top1"]
    assert clean == pytest.approx(json.loads(Path("runs/a/summary.json").read_text())["top1"])

    split = Split(np.zeros(1, int), paths=[str(wide / "test/class0/0.png")])
    seen = next(batches_for(content("a"), split, CPU, 1, 0).unprepared())[0][0].permute(1, 2, 0).numpy()
    red = (seen[..., 0] > 200).sum()  # an eighth of the image
    assert red == {"crop": 0, "squeeze": 32 * 4, "letterbox": 8 * 4}[mode]
    if mode == "letterbox":
        assert (seen[:12] == (124, 116, 104)).all() and (seen[20:] == (124, 116, 104)).all()


def test_resized_copies_serve_each_mode(learns, workdir, wide):
    """Copies keep the shape of the images, and here their size: each run learns the same with and without them."""
    for mode in ("squeeze", "letterbox"):
        line = f"{WIDE} --datapath {wide} --resize-mode {mode} --val-fraction 0"
        learns(f"{line} --run-name {mode}")
        learns(f"{line} --run-name {mode}-copy --cache-resized raw")
        logits = [np.load(f"runs/{name}/predictions.npz")["logits"] for name in (mode, f"{mode}-copy")]
        assert logits[0] == pytest.approx(logits[1], abs=0.05)


def test_a_mode_without_effect_is_refused(cli, workdir, large, wide):
    streamed = f"{PLAIN} --datapath {large} --resize-mode squeeze"
    refused(cli("--dataset digits --resize-mode letterbox"), "has no effect: the images are squares of 8 px")
    refused(cli(streamed), "--resize-mode squeeze has no effect: the images are squares of 80 px")
    refused(cli("--predict x.pth a.png --resize-mode crop"), "--resize-mode has no effect with --predict")
    refused(cli(f"{WIDE} --datapath {wide} --resize-mode stretch"), "'stretch' is none of crop, squeeze, letterbox")
    assert not (workdir / "runs").exists()


def test_runs_of_older_rules_get_no_note(learns, workdir, wide):
    assert "centre crop" not in learns(f"{WIDE} --datapath {wide} --data-rules 1 --run-name a").out


# ---------------------------------------------------------------------------------------------------------- rectangles

VIT = "--model vit_tiny --patch-size 8 --depth 1 --embed-dim 16 --num-heads 2"
STREAMED = "--dataset folder --img-size 16,64 --batch-size 6 --num-workers 0 --epochs 1 --precision fp32"


@pytest.mark.parametrize("model", [
    "--model resnet20", VIT, "--model mobilevit_xxs --depths 1,1,1",
    "--model timm/vit_tiny_patch16_224 --model-arg depth=1",
])  # fmt: skip
def test_a_rectangle_goes_all_the_way(learns, workdir, wide, model):
    out = learns(f"{STREAMED} {model} --datapath {wide} --run-name a").out
    assert "images of 16 x 64 px (from several sizes)" in out
    assert json.loads(Path("runs/a/settings.json").read_text())["settings"]["img_size"] == [16, 64]
    assert list(content("a")["img_size"]) == [16, 64]
    logits = np.load("runs/a/predictions.npz")["logits"]
    learns("--evaluate runs/a/best.pth --num-workers 0 --run-name again")
    assert np.load("runs/again/predictions.npz")["logits"] == pytest.approx(logits, abs=1e-4)
    assert "class0" in learns(f"--predict runs/a/best.pth {wide / 'test/class0/0.png'}").out
    learns("--measure runs/a --num-workers 0 --batch-size 4")
    cost = json.loads(Path("runs/a/cost.json").read_text())
    assert cost["flops"] == json.loads(Path("runs/a/summary.json").read_text())["flops"]
    if "timm" not in model:
        draw = (
            "--first runs/a --second runs/again/../a/last.pth --num-images 3 --attention --output x.png --num-workers 0"
        )
        learns(draw, script=viz_random_10_vit_vs_deit)


@pytest.mark.parametrize("line", [
    f"{STREAMED} {VIT} --crop resized --augmentation cutmix --rand --cache-resized jpeg --resize-mode letterbox",
    f"--dataset digits --img-size 16,24 {VIT} --epochs 1 --batch-size 64 --rand --resize-mode squeeze",
    "--dataset digits --img-size 16,24 --model resnet20 --epochs 1 --batch-size auto --train-fraction 0.1 --crop pad",
])  # fmt: skip
def test_a_rectangle_is_resumed_to_the_same_bits(cli, learns, workdir, monkeypatch, wide, line):
    line = line.replace("--epochs 1", "--epochs 2") + (f" --datapath {wide}" if "folder" in line else "")
    learns(f"{line} --run-name whole")
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert cli(line, "--run-name", "parts").status == 130
    learns("--resume --run-name parts")
    assert_same_run(workdir / "runs/whole", workdir / "runs/parts")


def test_the_catalogue_knows_rectangles(learns):
    out = learns("--list-models resnet20 --dataset digits --img-size 16,24").out
    assert "16x24" in out and "not for this size" not in out
    assert "images of 16 x 24 px" in learns("--summary --dataset digits --model resnet20 --img-size 16,24").out
    assert "images of 16 px" in learns("--summary --dataset digits --model resnet20 --img-size 16,16").out


def test_a_student_of_rectangles_learns_from_a_teacher_of_either_shape(learns, workdir):
    line = "--dataset digits --epochs 1 --batch-size 64 --train-fraction 0.5"
    learns("--dataset digits --model resnet20 --epochs 4 --batch-size 32 --lr 0.05 --run-name square")
    for more in ("--teacher resnet20 --teacher-weights runs/square/best.pth", "--teacher resnet20 --teacher-epochs 6"):
        out = learns(f"{line} --img-size 8,12 --model resnet20 {more} --run-name {more[-1]} --lr 0.05").out
        assert "teacher       resnet" in out


def test_what_takes_squares_alone_is_refused_by_name(cli, workdir, wide):
    for words, needle in (
        ("--model torchvision/vit_b_16 --img-size 64,32", "vit_b_16 takes square images: use --img-size 32"),
        ("--model vit_tiny --patch-size 8 --img-size 16,20", "do not divide 16 x 20 px images: use --img-size 16,16"),
        ("--model vit_tiny --img-size 63,64", "63 x 64 px images into few patches: use other sides, or"),
        ("--model vgg11 --img-size 64,16", "vgg11 halves its input five times: 64 x 16 px is too small"),
        ("--model resnet20 --img-size 1,2,3", "neither a side such as 224 nor height,width"),
        ("--model resnet20 --img-size 16,0", "'0' is not a whole number from 1 to 4096"),
        ("--model timm/xcit_nano_12_p16_224 --img-size 50,20", "_p16_224 cannot be built for 50 x 20 px"),
    ):  # fmt: skip
        result = cli(f"--dataset folder --datapath {wide} --epochs 1 --num-workers 0 {words}")
        assert result.status == 2 and needle in result.err and len(result.err.splitlines()) == 1, result.err
    assert not (workdir / "runs").exists()


def test_position_embeddings_move_between_shapes(learns, workdir, wide):
    """16 patches are 4 x 4 or 2 x 8: the image size tells which."""
    learns(f"{STREAMED} {VIT} --datapath {wide} --run-name wide")
    start = f"{STREAMED} {VIT} --datapath {wide} --weights runs/wide/best.pth".replace("--img-size 16,64", "")
    assert "'pos_embed' interpolated from 2x8 to 4x4 patches" in learns(f"{start} --img-size 32 --run-name a").out
    assert "'pos_embed' interpolated from 2x8 to 8x2 patches" in learns(f"{start} --img-size 64,16 --run-name b").out
    assert "interpolated" not in learns(f"{start} --img-size 16,64 --run-name c").out
    back = start.replace("runs/wide", "runs/a")
    assert "'pos_embed' interpolated from 4x4 to 2x8 patches" in learns(f"{back} --img-size 16,64 --run-name d").out
