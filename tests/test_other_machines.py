"""The suite works without the things that some machines lack; each test removes one."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import compare
import models
import utils
from analysis import speed
from commands.measure import steady_trainer
from image_datasets.batches import EvalBatches
from image_datasets.corruptions import CORRUPTIONS, corrupt
from image_datasets.splits import Split
from models.matrix_units import MATRIX_UNITS
from records import plots
from settings.groups import Settings
from training import batch_size, devices
from training.evaluation import evaluate

ROOT = Path(__file__).resolve().parents[1]
DIGITS = "--dataset digits --train-fraction 0.2 --model resnet9 --widths 8,8,8 --depths 1,1,1 --epochs 1"
STREAMED = (
    "--dataset folder --datapath images --model resnet9 --widths 8,8,8 --depths 1,1,1 --img-size 32 --epochs 2"
    " --batch-size 8 --wandb disabled"
)
CPU, MPS = torch.device("cpu"), torch.device("mps")


@pytest.fixture
def fresh(workdir):
    """Runs main.py with one command line after the other in a child process, after `before`, lines of Python."""

    def run(*commands: str, before: str, **environment: str) -> subprocess.CompletedProcess:
        script = f"import sys\n{before}\nimport main\nfrom settings.terminal import run_script\n"
        each = "[run_script(lambda: main.main(line.split())) for line in sys.argv[1:]]"
        result = subprocess.run(
            [sys.executable, "-c", f"{script}sys.exit(any({each}))", *commands],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result

    return run


def summary(run: str) -> dict:
    return json.loads(Path(f"runs/{run}/summary.json").read_text(encoding="utf-8"))


def predictions(run: str) -> tuple[np.ndarray, list[str]]:
    with np.load(f"runs/{run}/predictions.npz") as file:
        return file["logits"], file["class_names"].tolist()


# ------------------------------------------------------------------------------------------------------- the system


def test_where_the_size_of_a_process_is_not_told(learns, cli, workdir, monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    result = learns(f"{DIGITS} --run-name a")
    assert summary("a")["peak_memory"] is None and "selected      epoch 1" in result.out
    assert "peak memory" not in result.out
    learns(f"{DIGITS} --lr 0.01 --run-name b")
    learns("runs/a runs/b", script=compare)


def test_where_free_memory_is_not_told_batch_size_auto_asks_for_a_number(cli, learns, workdir, monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    assert batch_size.available_memory() is None
    result = cli(f"{DIGITS} --batch-size auto --run-name a")
    assert result.status == 2 and "--batch-size auto: this system does not tell how much memory is free" in result.err
    assert not (workdir / "runs").exists()
    learns(f"{DIGITS} --run-name a")
    learns("--measure runs/a --speed --batch-size 4")


def test_where_there_are_no_locks(learns, workdir, image_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    image_folder(side=80).rename(workdir / "images")
    learns(f"{STREAMED} --cache-resized jpeg --num-workers 0 --run-name a".replace(" --wandb disabled", ""))
    learns("--resume --run-name a")


WINDOWS = """
import os, signal
sys.modules.update(dict.fromkeys(("fcntl", "resource", "termios", "pty", "pwd", "grp")))
for module, names in ((os, ("fork", "sysconf", "sched_getaffinity", "getuid", "geteuid", "killpg", "setsid")),
                      (signal, ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL"))):
    for name in names:
        delattr(module, name)
import multiprocessing
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
"""


@pytest.mark.slow
def test_a_run_from_start_to_end_without_what_windows_lacks(fresh, learns, workdir, image_folder):
    """Loader processes are spawned, not forked; the bits are those of a run without them."""
    image_folder(side=80).rename(workdir / "images")
    fresh(f"{STREAMED} --val-fraction 0 --rand --num-workers 1 --run-name spawned", before=WINDOWS)
    learns(f"{STREAMED} --val-fraction 0 --rand --num-workers 0 --run-name plain")
    assert summary("spawned")["peak_memory"] is None
    assert np.array_equal(predictions("spawned")[0], predictions("plain")[0])


def test_the_number_of_cores_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert utils.cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert utils.cores() == 1


def test_scores_do_not_depend_on_the_number_of_threads(learns, workdir):
    learns(f"{DIGITS} --precision fp32 --run-name a")
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            learns(f"--evaluate runs/a/best.pth --run-name threads{threads}")
    finally:
        torch.set_num_threads(before)
    assert np.allclose(predictions("threads1")[0], predictions("threads3")[0], atol=1e-5)


# ------------------------------------------------------------------------------------------------ names and letters

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NAMES = ["Äpfel", "café", "zebra", "猫"]


@pytest.mark.slow
def test_where_names_of_files_are_ascii(fresh, learns, workdir):
    """As in jobs without a locale: the same classes in the same order, and readable files."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 3)):
        for name in NAMES:
            folder = workdir / "images" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (40 + i, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{'é' * (i % 2)}{i}.png")
    check = "assert sys.getfilesystemencoding() == 'ascii'"
    learns(f"{STREAMED} --num-workers 0 --run-name utf8")
    fresh(
        f"{STREAMED} --num-workers 0 --run-name ascii",
        "--evaluate runs/utf8/best.pth --wandb disabled --run-name again",
        "--inspect-data samples.png --dataset folder --datapath images",
        before=check,
        **ASCII,
    )
    for ours, theirs in zip(predictions("ascii"), predictions("utf8"), strict=True):
        assert np.array_equal(ours, theirs)
    assert predictions("ascii")[1] == sorted(NAMES)
    assert list(summary("ascii")["per_class_accuracy"]) == sorted(NAMES)
    header = (workdir / "runs/ascii/confusion.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.endswith("Äpfel,café,zebra,猫".replace("Äpfel,café,zebra", "café,zebra,Äpfel"))
    assert np.array_equal(predictions("again")[0], predictions("utf8")[0]) and Path("samples.png").is_file()


@pytest.fixture
def fonts(monkeypatch):
    """Sets which of matplotlib's own fonts are installed, by family. DejaVu Sans always is."""
    import matplotlib
    from matplotlib import font_manager

    own = [font for font in font_manager.fontManager.ttflist if "mpl-data" in font.fname]

    def install(*families: str) -> None:
        installed = [font for font in own if font.name in ("DejaVu Sans", *families)]
        monkeypatch.setattr(font_manager.fontManager, "ttflist", installed)
        monkeypatch.setitem(matplotlib.rcParams, "font.family", ["sans-serif"])
        plots._has_glyph.cache_clear()
        plots._families.cache_clear()

    yield install
    plots._has_glyph.cache_clear()
    plots._families.cache_clear()


@pytest.mark.draws
def test_characters_that_no_font_has_are_named_by_their_number(learns, image_folder, fonts):
    fonts()
    assert plots.plain("猫 café") == "U+732B café"
    assert plots.plain("tab\there") == "tabU+0009here"
    root = image_folder(side=16)
    for part in ("train", "test"):
        (root / part / "class0").rename(root / part / "猫")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Glyph")
        learns(f"--dataset folder --datapath {root} --model resnet20 --epochs 1 --run-name a")


def test_characters_that_only_another_font_has_are_written_in_it(fonts):
    character = "\u1d81"
    fonts("Last Resort High-Efficiency")
    assert plots.plain(character) == "U+1D81"
    fonts("STIXGeneral")
    assert plots.plain(character) == character
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.new_figure()
        figure.text(0, 0, character)
        figure.canvas.draw()


# --------------------------------------------------------------------------------------------------------------- MPS


class RefuseFloat64(TorchDispatchMode):
    """Raises TypeError for a float64 tensor, as MPS does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                raise TypeError(f"{func}: MPS has no float64")
        return result


@pytest.fixture
def like_mps(monkeypatch):
    """The CPU acts as MPS: the suite treats it as a device without float64, and a float64 tensor is an error."""
    real = utils.widest_float
    assert real(MPS) == torch.float32 and real(CPU) == torch.float64
    for module in ("training.metrics", "image_datasets.corruptions"):
        monkeypatch.setattr(f"{module}.widest_float", lambda device: real(MPS))
    return RefuseFloat64


def test_on_mps_auto_means_fp32(monkeypatch):
    model = models.create_model("resnet20", 10, 32, 3)
    for units in ("on", "off"):
        monkeypatch.setenv(MATRIX_UNITS, units)
        assert devices.choose_precision("auto", MPS, model) == "fp32"
    assert devices.choose_precision("bf16", MPS, model) == "bf16"
    with pytest.raises(utils.BadRequest, match="fp16 needs a CUDA GPU; on mps"):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        devices.set_up("mps", None, "fp16")


@pytest.mark.parametrize("model", ["resnet20", "vit_tiny", "mobilenet_v3_small", "mobilevit_xxs", "resnet9"])
def test_training_and_evaluation_do_without_float64(like_mps, model):
    settings = Settings.of({"model": model, "lr": 0.1, "weight_decay": 0.05, "optimizer": "adamw", "ema": 0.9,
                            "augmentation": "cutmix+mixup", "clip_grad": 1.0})  # fmt: skip
    network = models.create_model(model, 10, 32, 3)
    trainer = steady_trainer(settings, network, 10, CPU, "fp32")
    ready = speed.ReadyBatches(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 9]), 2)
    with like_mps():
        assert trainer.train(ready)["loss"] > 0
        means, _ = evaluate(network.eval(), ready_for_evaluation(), 10, "fp32")
    assert 0 <= means["top1"] <= 1


def ready_for_evaluation() -> EvalBatches:
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    return EvalBatches(Split(np.arange(6), images), 32, (0.5,) * 3, (0.2,) * 3, CPU, 4)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_without_float64_are_those_with_it(monkeypatch, name):
    """Except for pixels next to a half, which round to the other side."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), dtype=np.uint8))
    exact = corrupt(images, [0, 1, 2], name, 3, 0)
    monkeypatch.setattr("image_datasets.corruptions.widest_float", lambda device: torch.float32)
    difference = (corrupt(images, [0, 1, 2], name, 3, 0).int() - exact.int()).abs()
    assert difference.max() <= 1 and difference.float().mean() < 0.01


def test_no_device_is_claimed_that_is_not_there(cli, workdir):
    with contextlib.suppress(AttributeError):
        if torch.backends.mps.is_available():
            pytest.skip("there is one")
    result = cli(f"{DIGITS} --device mps")
    assert result.status == 2 and "--device mps: there is no such device here" in result.err
