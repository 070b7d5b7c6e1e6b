"""The benchmarks as instruments: they count correctly, and both implementations do the same work. No test checks a
speed."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.speed import ReadyBatches
from benchmarks import baseline, calls, cases, common, data, gpu_smoke, implementations, ours, timing
from benchmarks.common import SUITE, TIMM, USUAL, Row
from benchmarks.timing import Repeated, alternate, images_per_second
from benchmarks.work import Work, work_of
from image_datasets.batches import EvalBatches
from image_datasets.dataset import Dataset
from image_datasets.splits import Split
from models.matrix_units import MATRIX_UNITS
from settings.scripts import SCRIPTS
from training.evaluation import evaluate
from utils import BadRequest

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
NAMES = ("input", "step", "epoch", "startup", "inference", "scaling")


class Clock:
    """A clock that advances only on request."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


def ks_distance(a, b) -> float:
    """Largest difference between two empirical distribution functions (Kolmogorov-Smirnov)."""
    a, b = np.sort(np.asarray(a)), np.sort(np.asarray(b))
    points = np.concatenate([a, b])
    below_a, below_b = (np.searchsorted(values, points, side="right") / len(values) for values in (a, b))
    return float(np.abs(below_a - below_b).max())


def alike(n: int) -> float:
    """The Kolmogorov-Smirnov distance that two samples of size n of one distribution exceed in 1 of 10,000 cases."""
    return math.sqrt(-math.log(0.5e-4) / n)


# ---------------------------------------------------------------------------------------------------------- measuring


def test_the_sides_take_turns_after_rounds_that_do_not_count():
    calls = []

    def side(name: str):
        return lambda: calls.append(name) or float(len(calls))

    values = alternate({"a": side("a"), "b": side("b")}, repeats=3, warmups=2)
    assert calls == ["a", "b"] * 5
    assert values == {"a": [5.0, 7.0, 9.0], "b": [6.0, 8.0, 10.0]}


def test_work_is_repeated_until_it_takes_as_long_as_asked_and_the_mean_is_returned(monkeypatch):
    clock, counts, waits = Clock(), [], []
    monkeypatch.setattr(timing.time, "perf_counter", clock)

    def work(count: int) -> None:
        counts.append(count)
        clock.work(0.3 * count if len(counts) > 1 else 50.0)  # the first call compiles

    measure = Repeated(work, 1.0, lambda: waits.append(clock.now), result=lambda seconds: 6 / seconds)
    assert measure() == pytest.approx(20)
    assert measure() == pytest.approx(20)
    assert counts == [1, 1, 4, 4]
    assert len(waits) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_a_source_is_measured_in_its_steady_state_over_as_many_epochs_as_it_takes(workers):
    clock, epochs = Clock(), []

    def epoch(number: int):
        epochs.append(number)
        for _ in range(4):
            clock.work(100.0 if len(epochs) == 1 and clock.now == 0 else 0.5)
            yield torch.zeros(3, 1), torch.zeros(3)

    rate = images_per_second(epoch, 4.9, lambda: None, workers=workers, clock=clock)
    assert rate == pytest.approx(6.0)
    assert epochs == [0, 1, 2, 3]
    assert clock.now == 100 + 0.5 * (12 if workers == 0 else 15)


# --------------------------------------------------------------------------------------------------------- statistics


def test_ratios_are_those_of_pairs_and_not_of_medians():
    row = Row("a thing", "ms", {USUAL: [10.0, 40.0, 30.0], TIMM: [5.0, 5.0, 5.0], SUITE: [5.0, 4.0, 10.0]})
    facts = row.as_json()
    assert facts["ratios"][USUAL] == {"median": 3.0, "low": 2.0, "high": 10.0, "all": [2.0, 10.0, 3.0]}
    assert facts["ratios"][TIMM]["median"] == 1.0
    assert facts["sides"][USUAL] == {"median": 30.0, "low": 10.0, "high": 40.0, "all": [10.0, 40.0, 30.0]}
    assert facts["better"] == "lower"


def test_ratios_of_rates_are_the_other_way_round():
    row = Row("a thing", "images/s", {USUAL: [10.0, 40.0], SUITE: [20.0, 20.0]}, higher_is_better=True)
    assert row.ratios() == {USUAL: [2.0, 0.5]}
    assert row.as_json()["ratios"][USUAL]["median"] == 1.25


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [([6.0, 5.5, 9.0], "ahead"), ([6.0, 5.0, 9.0], "level"), ([4.0, 5.5, 4.0], "level"), ([4.0, 4.5, 4.9], "behind")],
)
def test_the_verdict_is_one_that_all_pairs_agree_on(theirs, verdict):
    row = Row("a step", "ms", {TIMM: theirs, SUITE: [5.0, 5.0, 5.0]})
    assert row.verdicts() == {TIMM: verdict}
    assert verdict in common.table([row]).splitlines()[1]
    assert row.as_json()["verdicts"] == {TIMM: verdict}


def test_each_side_has_the_precision_that_is_fastest_for_it(monkeypatch, capsys):
    """On matrix units torch's own depthwise convolutions are slow in bf16, so timm's side trains such nets in fp32."""
    monkeypatch.setenv(MATRIX_UNITS, "on")
    request = common.read(["--quick"], "", cases.CaseFlags, {})
    bench, device = implementations.start("step", request)
    chosen = {
        name: implementations.precisions_of(bench, request, cases.Case(name, 32), device)
        for name in ("resnet20", "mobilenet_v2")
    }
    assert chosen["resnet20"] == {USUAL: "fp32", TIMM: "bf16", SUITE: "bf16"}
    assert chosen["mobilenet_v2"] == {USUAL: "fp32", TIMM: "fp32", SUITE: "bf16"}
    assert set(bench.ceilings) == {"fp32 matrix product", "bf16 matrix product", "copy"}


@pytest.mark.parametrize(("higher_is_better", "limit"), [(True, 80.0), (False, 5.0)])
def test_the_share_of_the_limit_is_what_the_median_reaches(higher_is_better, limit):
    values = {USUAL: [10.0, 20.0, 90.0], SUITE: [8.0, 40.0, 50.0]}
    row = Row("a thing", "u", values, higher_is_better, limits={SUITE: (limit, "copy"), USUAL: (limit, "copy")})
    expected = {SUITE: 0.5, USUAL: 0.25} if higher_is_better else {SUITE: 0.125, USUAL: 0.25}
    assert row.shares() == expected
    assert row.as_json()["limits"][SUITE] == {"value": limit, "set_by": "copy", "share": expected[SUITE]}


def test_the_table_has_a_line_for_each_side_that_is_compared_with():
    values = {USUAL: [7218.4, 7000.0, 7400.0], TIMM: [8000.0] * 3, SUITE: [418_000.0] * 3}
    lines = common.table([Row("crops", "images/s", values, True, {SUITE: (836_000.0, "copy")})]).splitlines()
    assert len(lines) == 3
    assert lines[0].split()[3] == SUITE
    assert lines[1].split("  ")[0] == "crops, images/s"
    for text in ("usual", "7,218 (7,000-7,400)", "418,000 (418,000-418,000)", "57.9 (56.5-59.7)", "suite 50 %"):
        assert text in lines[1]
    assert lines[2].split()[0] == "timm"
    assert "52.2 (52.2-52.2)" in lines[2]


def test_the_table_names_what_is_compared_where_it_is_not_the_same_everywhere():
    rows = [Row("one", "s", {"2 files": [1.0], "20 files": [2.0]}), Row("two", "s", {"3": [1.0], "30": [2.0]})]
    lines = common.table(rows).splitlines()
    assert "20 files: 2 (2-2)" in lines[1]
    assert "30: 2 (2-2)" in lines[2]
    assert lines[0].split()[:3] == ["what", "against", "theirs"]


def test_the_least_work_of_a_network_is_that_of_its_layers():
    """VGG-11 on images of 32 px: eight convolutions with batch normalisation, and a linear layer."""
    shapes = [(3, 64, 32), (64, 128, 16), (128, 256, 8), (256, 256, 8), (256, 512, 4), (512, 512, 4), (512, 512, 2),
              (512, 512, 2)]  # fmt: skip
    outputs = sum(width * side**2 for _, width, side in shapes)
    products = outputs + 10 + sum(chans * side**2 for chans, _, side in shapes) + 512
    flops = sum(2 * 9 * chans * width * side**2 for chans, width, side in shapes) + 2 * 512 * 10
    case = cases.Case("vgg11", 32)
    assert work_of(case, 10, training=True) == Work(3 * flops, 3 * products + 8 * outputs)
    assert work_of(case, 10, training=False) == Work(flops, products)


def test_the_limit_is_set_by_the_slower_of_arithmetic_and_memory():
    work = Work(flops=100.0, values=30.0)
    assert work.seconds(flops_per_second=10.0, bytes_per_second=20.0, value_bytes=2) == (10.0, False)
    assert work.seconds(flops_per_second=10.0, bytes_per_second=5.0, value_bytes=2) == (12.0, True)
    assert work.seconds(flops_per_second=10.0, bytes_per_second=5.0, value_bytes=4) == (24.0, True)


def test_calls_are_counted_without_views_and_with_the_backward_pass():
    x = torch.ones(3, 4, requires_grad=True)

    def work():
        (x.t().exp() * 2).sum().backward()

    counts = calls._counted(work)
    assert counts["aten.exp.default"] == 1 and counts["aten.mul.Tensor"] == 3  # two of them in the backward pass
    assert not any("aten.t." in name or "expand" in name for name in counts)


def test_calls_of_a_step_are_told_apart_from_those_of_its_batch(workdir, capsys):
    assert calls.main(["--quick", "--device", "cpu", "--json", "result.json"]) == 0
    (row,) = json.loads(Path("result.json").read_text())["rows"]
    assert row["calls"] > row["of_the_batch"] > 10
    assert (
        f"{row['calls']:.0f} calls a step, {row['of_the_batch']:.0f} of them for its batch" in capsys.readouterr().out
    )


SOME_MODES = ["fp32", "out-of-memory", "deterministic-a", "deterministic-b", "stop", "rollback", "resume", "evaluate"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "only",
    [
        SOME_MODES,
        pytest.param(
            [*gpu_smoke.FIRST, *gpu_smoke.SECOND],
            marks=pytest.mark.long("the flags of every mode are checked, and have tests of their own"),
        ),
    ],
    ids=["some", "all"],
)
def test_modes_work_on_a_cpu(workdir, capsys, only):
    """All but those that need a CUDA device."""
    assert gpu_smoke.main(["--device", "cpu", "--here", "--quick", "--output", "smoke", "--only", *only]) == 0
    out = capsys.readouterr().out
    assert "all work; output in smoke" in out and "two deterministic runs: the same bits" in out
    modes = gpu_smoke.FIRST | gpu_smoke.SECOND
    for name in only:
        mode = modes[name]
        assert re.search(rf"^{'-- ' if mode.cuda else 'ok '} {re.escape(name)} ", out, re.MULTILINE), name


@pytest.mark.parametrize("name", gpu_smoke.FIRST)
def test_the_flags_of_every_mode_are_accepted(name):
    line = gpu_smoke.FIRST[name].line.format(size="", minutes=1, taught=gpu_smoke.TAUGHT)
    script, *words = line.split()
    assert SCRIPTS[script].ask(words).settings.stored()["dataset"] == "digits"


def test_a_mode_that_does_not_end_as_it_should_is_named(workdir, capsys, monkeypatch):
    broken = gpu_smoke.Mode("main.py --dataset digits --model resnet20 --epochs 0")
    monkeypatch.setattr(gpu_smoke, "FIRST", {"broken": broken})
    assert gpu_smoke.main(["--device", "cpu", "--here", "--only", "broken", "--output", "smoke"]) == 1
    out = capsys.readouterr().out
    assert "BAD broken" in out and "--epochs" in out and "failed: broken" in out
    assert "--epochs" in Path("smoke/broken.log").read_text()


def test_an_unknown_mode_and_a_file_for_output_are_refused(workdir):
    with pytest.raises(BadRequest, match=r"--only emaa: no such mode\. Did you mean ema"):
        gpu_smoke.main(["--only", "emaa"])
    Path("file").write_text("")
    with pytest.raises(BadRequest, match="--output file: is no folder that can be written"):
        gpu_smoke.main(["--output", "file"])


# ------------------------------------------------------------------------------------------------------- command line


def numbers(value) -> list[float]:
    if isinstance(value, (dict, list)):
        items = value.values() if isinstance(value, dict) else value
        return [number for item in items for number in numbers(item)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


ROWS = {  # rows of each benchmark with --quick, and the sides of the first row
    "input": (8, [USUAL, TIMM, SUITE]),
    "step": (4, [USUAL, TIMM, SUITE]),
    "epoch": (2, [USUAL, TIMM, SUITE]),
    "startup": (3, ["import torch, torchvision", SUITE]),
    "inference": (2, [USUAL, SUITE]),
    "scaling": (5, ["64 images", "640 images"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_and_writes_what_it_measured(name, workdir, capsys):
    benchmark = importlib.import_module(f"benchmarks.{name}")
    more = ["--repeats", "3"] if name == "inference" else []
    assert benchmark.main(["--quick", "--json", "result.json", *more]) == 0
    out = capsys.readouterr().out
    content = json.loads(Path("result.json").read_text())
    assert content["benchmark"] == name
    assert content["settings"]["quick"] is True
    assert {"versions", "cpu", "cores", "threads", "gpu", "load_average"} <= set(content["machine"])
    assert content["machine"]["versions"]["torch"] in out
    repeats = 3 if more else 1
    assert len(content["rows"]) == ROWS[name][0]
    assert list(content["rows"][0]["sides"]) == ROWS[name][1]
    for row in content["rows"]:
        assert {"what", "unit", "better", "sides", "ratios", "verdicts", "limits"} == set(row)
        assert row["what"] in out
        *others, _ = row["sides"]
        assert list(row["ratios"]) == others
        for facts in (*row["sides"].values(), *row["ratios"].values()):
            assert len(facts["all"]) == repeats
            assert facts["low"] <= facts["median"] <= facts["high"]
    assert all(math.isfinite(n) and n > 0 for n in numbers([content["rows"], content["ceilings"]]))
    assert [path.name for path in Path.cwd().iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("step", "--model resnet81", ["resnet81", "Did you mean resnet18"]),
        ("step", "--precision fp8", ["--precision", "'fp8'", "auto, fp32, bf16"]),
        ("input", "--batch-size 7", ["--batch-size 7", "even"]),
        ("input", "--data nowhere", ["--data nowhere", "no such folder"]),
        ("epoch", "--images 5 --batch-size 8", ["--images 5", "one batch of 8"]),
        ("inference", "--repeats 0", ["--repeats", "'0'"]),
        ("startup", "--json no/where.json", ["--json no/where.json"]),
        ("scaling", "--device tpu", ["--device tpu"]),
    ],
)
def test_a_bad_request_is_one_line_and_status_2(name, flags, words, workdir, capsys):
    benchmark = importlib.import_module(f"benchmarks.{name}")
    assert common.script(lambda: benchmark.main(flags.split())) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert all(word in captured.err for word in words)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("name", ["input", "epoch"])
def test_a_folder_with_too_few_images_is_refused(name, workdir, image_folder):
    benchmark = importlib.import_module(f"benchmarks.{name}")
    flags = ["--quick", "--data", str(image_folder(parts={"train": 2})), "--batch-size", "14"]
    with pytest.raises(BadRequest, match="fewer training images than one batch of 14"):
        benchmark.main([*flags, "--images", "20"])


def test_a_bad_flag_is_refused_before_torch_is_imported():
    code = f"""
import importlib, sys
from benchmarks.common import script
for name in {NAMES}:
    benchmark = importlib.import_module("benchmarks." + name)
    assert script(lambda: benchmark.main(["--nonsense"])) == 2
assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("unknown flag --nonsense") == len(NAMES)


def test_real_images_are_spread_over_the_classes_and_in_colour(image_folder):
    folder = image_folder(side=16, parts={"train": 8, "test": 2})
    found = common.locate_images(str(folder))
    dataset = data.from_folder(found, 12)
    assert dataset.side == 16
    assert dataset.train.images.shape == (12, 16, 16, 3)
    assert np.bincount(dataset.train.targets).tolist() == [4, 4, 4]
    assert len(data.from_folder(found, 1000).train) == 24


def test_the_models_and_sizes_that_are_asked_for_are_measured():
    def chosen(flags: str) -> list[cases.Case]:
        return cases.choose(common.read(flags.split(), "", cases.CaseFlags, {}))

    assert chosen("") == cases.CASES
    assert chosen("--model vit_tiny") == [case for case in cases.CASES if case.model == "vit_tiny"]
    asked = chosen("--model vgg11 resnet18 --batch-size 3 --img-size 48 --optimizer adamw")
    assert asked == [cases.Case(name, 48, "adamw", batch_size=3) for name in ("vgg11", "resnet18")]
    assert [case.img_size for case in chosen("--model vgg11 vit_b_16 timm/resnet18")] == [32, 224, 224]
    assert [case.batch for case in chosen("--model vgg11 vit_b_16")] == [128, 32]


# ----------------------------------------------------------------------------------------------------- the same work


SIDE, PADDING, DRAWS = 32, 4, 3000
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def copies(image: np.ndarray) -> Dataset:
    """A data set of one image (SIDE, SIDE, 3), DRAWS times."""
    split = Split(np.zeros(DRAWS, dtype=np.int64), np.repeat(image[None], DRAWS, 0))
    return Dataset("copies", ["a", "b"], MEAN, STD, SIDE, train=split, test=split)


def all_images(batches) -> torch.Tensor:
    return torch.cat([images for images, _ in batches])


def pixels(images: torch.Tensor) -> torch.Tensor:
    return ((images * 0.25 + 0.5) * 255).round().long()


@pytest.fixture(params=[USUAL, TIMM])
def other(request, monkeypatch) -> str:
    monkeypatch.setattr(baseline, "WORKERS", 0)
    return request.param


@pytest.mark.slow
def test_crops_and_flips_are_drawn_alike(other):
    y, x = np.meshgrid(np.arange(1, SIDE + 1), np.arange(1, SIDE + 1), indexing="ij")
    dataset = copies(np.stack([x, y, np.full_like(x, 200)], -1).astype(np.uint8))
    drawn = {}
    for name in (other, SUITE):
        torch.manual_seed(0)
        batches = implementations.small_batches(name, dataset, SIDE, 300, CPU)
        images = pixels(all_images(implementations.epochs(name, batches, CPU)(0)))
        assert images.shape == (DRAWS, 3, SIDE, SIDE)
        flipped = images[:, 0, 16, 16] > images[:, 0, 16, 17]
        left = images[:, 0, 16, 16] - torch.where(flipped, 16, 17) + PADDING
        top = images[:, 1, 16, 16] - 17 + PADDING
        assert set(left.tolist()) == set(top.tolist()) == set(range(2 * PADDING + 1))
        # These three numbers determine the whole expected image, with zeros in the padding.
        padded = torch.zeros(3, SIDE + 2 * PADDING, SIDE + 2 * PADDING, dtype=torch.long)
        padded[:, PADDING:-PADDING, PADDING:-PADDING] = torch.from_numpy(dataset.train.images[0]).permute(2, 0, 1)
        for i in range(50):
            crop = padded[:, top[i] : top[i] + SIDE, left[i] : left[i] + SIDE]
            assert torch.equal(images[i], crop.flip(2) if flipped[i] else crop)
        corners = torch.bincount(9 * top + left, minlength=81) / DRAWS
        drawn[name] = (flipped.double().mean().item(), corners, torch.bincount(left), torch.bincount(top))
    (their_flips, *their_counts), (our_flips, *our_counts) = drawn[other], drawn[SUITE]
    assert their_flips == pytest.approx(0.5, abs=0.045)
    assert our_flips == pytest.approx(0.5, abs=0.045)
    assert (their_counts[0] - our_counts[0]).abs().max() < 0.014
    for a, b in zip(their_counts[1:], our_counts[1:], strict=True):
        assert ((a - b) / DRAWS).abs().max() < 0.04


def test_rectangles_are_erased_alike():
    dataset = copies(np.full((SIDE, SIDE, 3), 200, dtype=np.uint8))
    transform = baseline.small_transform(SIDE, SIDE, MEAN, STD, erasing=0.4)
    torch.manual_seed(0)
    drawn = {
        USUAL: all_images(baseline.train_loader(baseline.SmallImages(dataset.train, transform), 300, CPU, workers=0)),
        SUITE: all_images(ours.resident_batches(dataset, SIDE, 300, CPU, erasing=0.4).epoch(0)),
    }
    rates, shares, aspects = {}, {}, {}
    for name, images in drawn.items():
        erased = (images == 0).all(1)  # the mean colour; padding is black, far below it
        hit = erased.flatten(1).any(1)
        height, width = (erased[hit].any(dim).sum(1) for dim in (2, 1))
        assert torch.equal(height * width, erased[hit].flatten(1).sum(1))  # the erased areas are rectangles
        rates[name], shares[name], aspects[name] = hit.double().mean().item(), height * width, height / width
    for rate in rates.values():
        assert rate == pytest.approx(0.4, abs=0.04)
    fewest = min(map(len, shares.values()))
    assert ks_distance(shares[USUAL], shares[SUITE]) < alike(fewest)
    assert ks_distance(aspects[USUAL], aspects[SUITE]) < alike(fewest)


def test_random_resized_crops_of_files_are_drawn_alike(tmp_path):
    """Red and green encode the position, so the edges of a crop tell its place."""
    draws, size = 600, 24
    x, y = np.meshgrid(np.arange(128) * 2, np.arange(96) * 2)
    pixels_of_file = np.stack([x, y, np.full_like(x, 128)], -1).astype(np.uint8)
    Image.fromarray(pixels_of_file).save(tmp_path / "image.jpg", quality=98, subsampling=0)
    split = Split(np.zeros(draws, dtype=np.int64), paths=[str(tmp_path / "image.jpg")] * draws)
    dataset = Dataset("one file", ["a", "b"], MEAN, STD, None, train=split, test=split)
    files = baseline.ImageFiles(split, baseline.large_transform(size, MEAN, STD))
    torch.manual_seed(0)
    drawn = {
        USUAL: all_images(baseline.train_loader(files, 100, CPU, workers=0)),
        SUITE: all_images(ours.streamed_batches(dataset, size, 100, CPU, workers=0).epoch(0)),
    }
    found = {}
    for name, images in drawn.items():
        assert images.shape == (draws, 3, size, size)
        values = (images * 0.25 + 0.5) * 255 / 2
        columns, rows = values[:, 0].mean(1), values[:, 1].mean(2)  # (draws, size): source of each column or row
        slope_x, slope_y = ((line[:, -4] - line[:, 3]) / (size - 7) for line in (columns, rows))
        left = columns.mean(1) - slope_x.abs() * size / 2
        top = rows.mean(1) - slope_y * size / 2
        found[name] = {"flip": (slope_x < 0).double().mean().item(), "width": slope_x.abs() * size,
                       "height": slope_y * size, "left": left, "top": top}  # fmt: skip
    for sample in found.values():
        assert sample.pop("flip") == pytest.approx(0.5, abs=0.08)
    for key in found[USUAL]:
        assert ks_distance(found[USUAL][key], found[SUITE][key]) < alike(draws)


def test_all_ways_train_the_same_model_by_the_same_steps():
    case = cases.Case("resnet20", 16)
    trainers = implementations.trainers(case, 5, CPU, dict.fromkeys((USUAL, TIMM, SUITE), "fp32"))
    before = {name: value.clone() for name, value in trainers[SUITE].model.state_dict().items()}
    images, targets = torch.randn(8, 3, 16, 16), torch.arange(8) % 5
    losses = {}
    for name, trainer in trainers.items():
        batches = ReadyBatches(images, targets, 3) if name == SUITE else itertools.repeat((images, targets), 3)
        losses[name] = trainer.train(batches)
    assert losses[USUAL][0] == pytest.approx(losses[SUITE]["loss"], rel=1e-3)
    assert losses[USUAL][1] == pytest.approx(losses[SUITE]["top1"])
    states = {name: trainer.model.state_dict() for name, trainer in trainers.items()}
    moved = 0
    for key, value in states[USUAL].items():
        for name in (TIMM, SUITE):
            torch.testing.assert_close(states[name][key], value, rtol=1e-2, atol=1e-3)
        moved += not torch.allclose(before[key].double(), value.double(), atol=1e-3)
    assert moved > 10


def test_both_evaluations_give_the_same_numbers():
    case = cases.Case("resnet20", 16)
    dataset = data.small_images(24, 16, 5)
    batches = EvalBatches(dataset.test, 16, dataset.mean, dataset.std, CPU, batch_size=8)
    model = implementations.make_model(case, 5).eval()
    theirs = baseline.evaluate(model, [*batches, *batches], CPU)
    measured, _ = evaluate(model, ours.RepeatedBatches(batches, 2), 5, "fp32")
    assert measured["loss"] == pytest.approx(theirs[0], rel=1e-5)
    assert measured["top1"] == pytest.approx(theirs[1])
