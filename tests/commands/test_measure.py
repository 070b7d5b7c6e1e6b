"""main.py --measure: robustness.json and cost.json of finished runs."""

import copy
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.benchmark import Timer

import image_datasets
import main
from analysis import speed
from analysis.robustness import measure_robustness
from assembly.trained import read_trained
from commands import measure
from data_transform import Normalize
from image_datasets.batches import EvalBatches
from image_datasets.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from image_datasets.splits import Split
from settings.groups import Settings

TINY = "--model vit_tiny --patch-size 4 --depth 1 --embed-dim 32 --num-heads 2"
CPU = torch.device("cpu")
REPO = Path(__file__).resolve().parents[2]


def read(path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run directory that no test changes."""
    folder = tmp_path_factory.mktemp("trained")
    flags = f"--dataset digits {TINY} --optimizer adamw --lr 0.01 --batch-size 64 --epochs 2 --ema 0.9 --run-name a"
    assert main.main([*flags.split(), "--wandb", "disabled", "--runs-dir", str(folder)]) == 0
    return folder / "a"


@pytest.fixture
def run(trained, workdir):
    """A copy of the trained run at runs/a."""
    return Path(shutil.copytree(trained, workdir / "runs/a"))


def digits_test() -> Split:
    return image_datasets.load_dataset(image_datasets.locate_dataset("digits", None, False, True)).test


# ----------------------------------------------------------------------------------------------------------- robustness


@pytest.mark.auto_precision
def test_a_run_is_measured_with_its_selected_weights_on_the_split_it_reported(learns, run):
    out = learns("--measure runs --corruptions --batch-size 50").out
    found, summary = read(run / "robustness.json"), read(run / "summary.json")
    assert found["split"] == summary["split"] == "test" and found["images"] == summary["images"]["test"]
    assert found["clean"]["top1"] == pytest.approx(summary["top1"], abs=1e-9)
    assert found["seed"] == 0 and found["versions"]["torch"]
    assert not (run / "cost.json").exists()

    model, content = read_trained(str(run / "best.pth"))
    split = digits_test()
    images, targets = torch.from_numpy(split.images).permute(0, 3, 1, 2), torch.from_numpy(split.targets)
    normalize = Normalize(tuple(content["mean"]), tuple(content["std"]), CPU)
    right = {}
    for name in CORRUPTIONS:
        for strength in STRENGTHS:
            with torch.no_grad():
                logits = model(normalize(corrupt(images, range(len(images)), name, strength, 0)))
            right[name, strength] = (logits.argmax(1) == targets).double().mean().item()
    expected = {name: [right[name, strength] for strength in STRENGTHS] for name in CORRUPTIONS}
    assert set(found["corruptions"]) == set(expected)
    for name, top1 in found["corruptions"].items():
        assert top1 == pytest.approx(expected[name], abs=1.5 / len(images))  # another batch size rounds differently
    errors = [1 - value for values in found["corruptions"].values() for value in values]
    assert found["mean_corruption_error"] == pytest.approx(np.mean(errors))
    assert f"mean corruption error {100 * np.mean(errors):.2f} % on 359 images of test" in out
    assert found["parameters"]["jpeg"] == [80, 65, 58, 50, 40]
    assert "warning" not in out


def test_other_images_than_the_run_reported_on_are_noticed(learns, run):
    summary = read(run / "summary.json")
    (run / "summary.json").write_text(json.dumps({**summary, "top1": summary["top1"] - 0.02}))
    assert "are these the same images?" in learns("--measure runs/a --corruptions").out


class Witness(nn.Module):
    """A model that keeps a copy of its inputs."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images.clone())
        return torch.zeros(len(images), 10)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_every_image_is_seen_as_it_is_and_in_each_corruption_by_its_place_in_the_split(batch_size):
    whole = digits_test()
    indices = np.array([0, 7, 200, 358, 31])
    images = torch.from_numpy(whole.images).permute(0, 3, 1, 2)[indices]
    model = Witness().eval()
    batches = EvalBatches(whole.subset(indices), 8, (0.0,), (1 / 255,), CPU, batch_size)
    found = measure_robustness(model, batches, indices, "fp32")
    assert found["images"] == 5
    seen = [torch.cat(model.seen[i :: 1 + 8 * 5]) for i in range(1 + 8 * 5)]
    assert torch.equal(seen[0].round().to(torch.uint8), images)
    variants = [(name, strength) for name in CORRUPTIONS for strength in STRENGTHS]
    for result, (name, strength) in zip(seen[1:], variants, strict=True):
        assert torch.equal(result.round().to(torch.uint8), corrupt(images, indices, name, strength, 0))


def test_models_that_take_another_size_see_the_same_damage():
    split = digits_test().subset(np.arange(4))
    small, large = (EvalBatches(split, size, (0.0,), (1.0,), CPU, 4) for size in (8, 16))
    images = [next(batches.unprepared())[0] for batches in (small, large)]
    assert images[0].shape == (4, 1, 8, 8) and torch.equal(*images)
    assert large.prepare(images[1]).shape == (4, 1, 16, 16)


def test_images_are_thinned_out_evenly_on_request(learns, run, monkeypatch):
    indices = []

    def keep(model, batches, chosen, precision):
        indices.append(chosen.tolist())
        assert np.array_equal(batches.split.targets, digits_test().targets[chosen])
        return measure_robustness(model, batches, chosen, precision)

    monkeypatch.setattr(measure, "measure_robustness", keep)
    learns("--measure runs/a --corruptions --corrupt-images 10")
    assert indices == [[0, 35, 71, 107, 143, 179, 215, 251, 287, 323]]
    assert read(run / "robustness.json")["images"] == 10
    learns("--measure runs/a --corruptions --corrupt-images 100000 --overwrite")
    assert read(run / "robustness.json")["images"] == 359


def test_image_files_and_a_folder_that_has_moved(learns, workdir, image_folder):
    root = image_folder(side=72, parts={"train": 8, "test": 4})
    flags = f"--img-size 32 {TINY} --num-workers 0 --batch-size 8 --epochs 1 --run-name a"
    learns(f"--dataset folder --datapath {root} {flags}")
    root.rename(workdir / "moved")
    result = learns("--measure runs/a --corruptions --batch-size 5 --num-workers 0 --datapath moved")
    found, summary = read(workdir / "runs/a/robustness.json"), read(workdir / "runs/a/summary.json")
    assert found["images"] == 12 and "on 12 images of test" in result.out
    assert found["clean"]["top1"] == pytest.approx(summary["top1"])


# ----------------------------------------------------------------------------------------------------------------- cost


class Slow(nn.Module):
    """A model that takes a millisecond per image, on a clock that only it advances."""

    now, head_names = 0.0, ("head",)

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        Slow.now += 0.001 * len(images)
        return self.head(images.flatten(1))


@pytest.fixture
def slow(monkeypatch) -> speed.CostSubject:
    monkeypatch.setattr(torch.utils.benchmark, "Timer", functools.partial(Timer, timer=lambda: Slow.now))
    settings, model = Settings.of({"model": "slow", "lr": 0.1, "weight_decay": 0.0}), Slow().eval()

    def make_trainer() -> speed.SteadyTrainer:
        return measure.steady_trainer(settings, copy.deepcopy(model), 3, CPU, "fp32")

    return speed.CostSubject(model, make_trainer, "slow", 3, 2, 3, CPU, "fp32")


def test_rates_count_images_and_latency_is_of_one(slow):
    before = {name: value.clone() for name, value in slow.model.state_dict().items()}
    found = speed.measure_cost(slow, 16)
    assert found["train_images_per_second"] == pytest.approx(1000)
    assert found["inference_images_per_second"] == pytest.approx(1000)
    assert found["inference_latency_ms"] == pytest.approx(1)
    assert found["batch_size"] == 16 and found["params"] == 39 and found["flops"] == 72
    assert found["precision"] == "fp32" and found["threads"] == torch.get_num_threads()
    assert found["device"].startswith("cpu (")
    assert found["spread"]["inference_latency_ms"] == {"low": pytest.approx(1), "high": pytest.approx(1)}
    assert all(torch.equal(before[name], value) for name, value in slow.model.state_dict().items())


@pytest.mark.slow
def test_where_memory_is_short_the_batch_is_halved(slow, monkeypatch):
    sizes = []

    def fits(step, first, device):
        sizes.append(first)
        return first // 4

    monkeypatch.setattr(speed.fitting, "largest_that_fits", fits)
    assert speed.measure_cost(slow, 16)["batch_size"] == 4 and sizes == [16]


def test_a_batch_of_one_image_is_refused_where_the_model_needs_two(cli, learns, workdir):
    learns("--dataset digits --train-fraction 0.1 --model resnet18 --widths 8,8,8,8 --epochs 1 --run-name a")
    result = cli("--measure runs/a --speed --batch-size 1")
    assert result.status == 2 and "batches of one image are too small for this model" in result.err
    assert not (workdir / "runs/a/cost.json").exists()


def test_peak_memory_is_the_most_that_tensors_take_at_once():
    def work() -> str:
        kept = torch.zeros(1000, 1000)
        for _ in range(3):
            kept = kept + 1  # two tensors are alive at a time
        return "done"

    peak, result = speed.peak_memory(CPU, work)
    assert result == "done" and peak == pytest.approx(8e6, rel=0.01)
    assert speed.peak_memory(CPU, work)[0] == pytest.approx(peak, rel=0.01)


def test_peak_memory_knows_nothing_of_what_was_measured_before():
    """As if several runs are measured: each trainer stays alive after its first step."""
    peak, kept = speed.peak_memory(CPU, lambda: torch.zeros(3000, 1000))
    assert peak == pytest.approx(12e6, rel=0.01)
    again, more = speed.peak_memory(CPU, lambda: torch.zeros(1000, 1000))
    assert again == pytest.approx(4e6, rel=0.01)
    del kept, more
    assert speed.peak_memory(CPU, lambda: torch.zeros(1000, 1000))[0] == pytest.approx(4e6, rel=0.01)


def test_the_profiler_says_nothing(capfd):
    speed.peak_memory(CPU, lambda: torch.zeros(10))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_the_timer_says_nothing():
    """On import it writes to stderr about a CUDA toolkit without a GPU."""
    code = "from analysis import speed; speed._seconds(lambda: None, 1)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


@pytest.mark.auto_precision
@pytest.mark.parametrize("flags", [
    "--model deit_tiny_distill --patch-size 4 --depth 1 --embed-dim 32 --num-heads 2 --optimizer adamw --ema 0.9"
    " --augmentation cutmix+mixup --loss BCE --clip-grad 1 --head-lr 0.01 --layer-decay 0.7",
    "--model resnet9 --widths 8,8,8 --optimizer muon-sgd --freeze backbone --precision bf16 --no-channels-last",
])  # fmt: skip
def test_the_run_of_any_recipe_can_be_timed(learns, workdir, flags, monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0.01)
    learns(f"--dataset digits --batch-size 300 --epochs 1 --run-name a {flags}")
    out = learns("--measure runs/a --speed --batch-size 8").out
    found, summary = read(workdir / "runs/a/cost.json"), read(workdir / "runs/a/summary.json")
    assert (found["params"], found["flops"]) == (summary["params"], summary["flops"])
    assert found["batch_size"] == 8 and "batches of 8" in out
    assert 4 * found["params"] < found["peak_memory"]
    for name, spread in found["spread"].items():
        assert 0 < spread["low"] <= found[name] <= spread["high"]
    assert not (workdir / "runs/a/robustness.json").exists()


# ----------------------------------------------------------------------------------------------------------- which runs


def test_what_is_measured_already_is_left_alone(learns, run, workdir, monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0.01)
    learns("--evaluate runs/a/best.pth --run-name again")
    learns("--measure runs/a --corruptions --corrupt-images 20")
    files = [workdir / "runs/a/robustness.json", workdir / "runs/a/cost.json"]
    first = files[0].read_bytes()
    result = learns("--measure runs runs/a runs/again --corrupt-images 30")  # each once
    assert files[0].read_bytes() == first and files[1].is_file()
    assert "runs/a/robustness.json: is there already; --overwrite measures anew" in result.out
    assert result.out.count("images/s in training") == 2
    assert read(workdir / "runs/again/robustness.json")["images"] == 30
    learns("--measure runs/a --corruptions --corrupt-images 30 --overwrite")
    theirs, ours = (read(workdir / f"runs/{name}/robustness.json") for name in ("again", "a"))
    assert ours["corruptions"] == theirs["corruptions"]
    assert (workdir / "runs/a/best.pth").is_file() and (workdir / "runs/a/summary.json").is_file()


def test_a_damaged_run_does_not_keep_the_others_from_being_measured(cli, run):
    whole = Path(shutil.copytree(run, run.with_name("b")))
    (run / "best.pth").write_bytes((run / "best.pth").read_bytes()[:1000])
    result = cli("--measure runs --corruptions --corrupt-images 5")
    assert result.status == 2 and result.err.count("\n") == 1 and "runs/a/best.pth" in result.err
    assert not (run / "robustness.json").exists()
    assert (whole / "robustness.json").is_file()
    shutil.copytree(run, run.with_name("c"))
    result = cli("--measure runs --corruptions --corrupt-images 5")
    assert result.status == 2 and "2 of 3 runs could not be measured; first: runs/a/best.pth" in result.err


def test_what_cannot_be_measured_is_said_in_one_line_before_anything_is_done(cli, run, workdir):
    (workdir / "empty").mkdir()
    (workdir / "unfinished").mkdir()
    (workdir / "unfinished/settings.json").write_text("{}")
    for path, message in (
        ("nowhere", "--measure nowhere: no such folder"),
        ("runs/a/best.pth", "--measure runs/a/best.pth: is a file; it takes run directories"),
        ("empty", "--measure empty: there is no run in it"),
        ("unfinished", "unfinished: the run is not finished (no summary.json)"),
        (".", None),
    ):
        result = cli("--measure", path, "--corruptions", "--corrupt-images", "5")
        assert (result.status, result.err.count("\n")) == ((0, 0) if message is None else (2, 1)), result.err
        assert message is None or message in result.err
    (run / "robustness.json").unlink()
    summary = (run / "summary.json").read_text()
    (run / "summary.json").write_text(summary[:100])
    assert "summary.json: cannot be read as JSON" in cli("--measure runs").err
    for damaged in ("[]", '{"settings": []}', '{"settings": {"dataset": "digits"}}', '{"settings": {"dataset": 3}}'):
        (run / "summary.json").write_text(damaged)
        assert "summary.json: damaged" in cli("--measure runs/a").err
    (run / "summary.json").unlink()
    assert "--measure runs: none of the runs in it is finished" in cli("--measure runs").err
    (run / "summary.json").write_text(summary)
    (run / "best.pth").unlink()
    result = cli("--measure runs/a")
    assert result.status == 2 and "runs/a: its checkpoint runs/a/best.pth is not there" in result.err
    assert not (run / "robustness.json").exists()


@pytest.mark.parametrize(("command", "message"), [
    ("--measure runs --evaluate x.pth", "cannot be done at once"),
    ("--measure runs --epochs 3", "--epochs has no effect with --measure"),
    ("--measure runs --dataset digits", "--dataset has no effect with --measure"),
    ("--corruptions", "--corruptions has no effect"),
    ("--measure runs --batch-size auto", "--batch-size auto is for training"),
    ("--measure runs --speed --corrupt-images 3", "--corrupt-images has no effect: it needs --corruptions"),
    ("--measure runs --speed --datapath x", "--data-path has no effect: it needs --corruptions"),
])  # fmt: skip
def test_flags_without_effect_are_refused(cli, workdir, command, message):
    (workdir / "runs").mkdir()
    result = cli(command)
    assert result.status == 2 and message in result.err
