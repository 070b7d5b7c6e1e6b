"""The README's commands work: each is run, shortened to one epoch; the CIFAR-100 lines are run by test_main."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import WNIDS, fit_head
from PIL import Image
from settings.flags import FLAGS
from simulated import write_study
from test_main import BCE_LINE, SGD_LINE, VGG_LINE

import compare
import models
import study
from data_transform import Normalize, image_transform
from image_datasets.dataset import IMAGENET_MEAN, IMAGENET_STD
from image_datasets.image_files import read_image
from settings import model_flags
from viz_random_10_vit_vs_deit import GROUPS

REPO = Path(__file__).resolve().parent.parent
README = (REPO / "README.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("python main.py ")]
MANY = [line for line in LINES if line.startswith("torchrun ")]
STUDIES = [line for line in LINES if line.startswith("python study.py ")]
COMPARISONS = [line for line in LINES if line.startswith("python compare.py ")]
STUDY = [line for line in LINES if line.startswith(("python train_deit_imagenet100.py", "python viz_random_10"))]


def test_the_cifar_100_lines_are_those_that_are_tested():
    documented = [line.removeprefix("python main.py ") for line in COMMANDS if "--wandb_run_name" in line]
    assert documented == [VGG_LINE, SGD_LINE, BCE_LINE]


def test_every_other_command_works(cli, workdir, image_folder):
    Image.new("L", (8, 8)).save(workdir / "IMAGE.png")
    path = str(image_folder(side=32))
    # What `make train` leaves: a network that knows more than chance, and so may teach.
    first = cli("--dataset digits --model resnet20 --lr 0.05 --batch-size 32 --epochs 3 --run-name digits")
    assert first.status == 0
    others = [line for line in COMMANDS if "--wandb_run_name" not in line and "--pretrained" not in line]
    assert len(others) >= 12
    for line in others:
        words = [path if word == "PATH" else word for word in shlex.split(line)[2:]]
        if "--epochs" in words:
            words[words.index("--epochs") + 1] = "1"
        result = cli("", *words)
        assert result.status == 0, line + "\n" + result.err


def test_fine_tuning_works(cli, workdir, image_folder, publish):
    """With random weights in the place of the published ones, and smaller images."""
    path = str(image_folder(side=32))
    lines = [line for line in COMMANDS if "--pretrained" in line]
    assert len(lines) >= 2
    for line in lines:
        words = [path if word == "PATH" else word for word in shlex.split(line)[2:]]
        publish(words[words.index("--model") + 1])
        result = cli("", *words, "--img-size", "64", "--epochs", "1")
        assert result.status == 0, line + "\n" + result.err
        assert "replaced: " in result.out
        assert ("interpolated from 14x14 to 4x4 patches" in result.out) == ("vit_b_16" in line)


def test_every_line_is_run_by_one_of_these_tests():
    assert len(LINES) == len(COMMANDS) + len(STUDY) + len(MANY) + len(STUDIES) + len(COMPARISONS)


def test_studies_start_as_documented(cli):
    """Whole ones are run by test_study.py."""
    for line in STUDIES:
        words = [str(REPO / word) if word.endswith(".toml") else word for word in shlex.split(line)[2:]]
        more = [] if "--dry-run" in words else ["--dry-run"]
        result = cli("", *words, *more, "--no-estimate", script=study)
        assert result.status == 0 and "15 runs" in result.out, result.err


def test_comparisons_work_as_documented(workdir):
    write_study(workdir / "runs/quick_digits", {"resnet20": 0.95, "vit": 0.8})
    for line in COMPARISONS:
        assert compare.main(shlex.split(line)[2:]) == 0
    assert (workdir / "runs/quick_digits/comparison/report.html").is_file()


def test_several_processes_train_as_documented(workdir):
    """A killed worker is the business of tests/training/test_distributed.py."""
    (line,) = MANY
    words = shlex.split(line.replace("main.py", str(REPO / "main.py")).replace("--epochs 20", "--epochs 1"))
    command = [sys.executable, "-m", "torch.distributed.run", *words[1:], "--wandb", "disabled"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=workdir, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "processes     2: batches of 64 images each, 128 in all" in done.stdout


def test_the_imagenet_100_study_works(cli, workdir, shards, publish, monkeypatch):
    """The whole chain, shortened to one epoch, with a random network that knows these images as the published one."""
    root = shards(side=225, per_class=4)  # at 224 px, as the published network
    monkeypatch.chdir(root)
    files = sorted(root.glob("train.X*/*/*"))
    transform = image_transform(None, 224)
    normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD, torch.device("cpu"))
    images = normalize(torch.stack([transform(read_image(str(file), 3)) for file in files]))
    index = dict(zip(WNIDS, (0, 1, 2, 999), strict=True))
    targets = torch.tensor([index[file.parent.name] for file in files])

    def know(model):
        head, model.fc = model.fc, torch.nn.Identity()
        with torch.no_grad():
            fit_head(head, model.eval()(images), targets)
        model.fc = head

    publish("resnet18", know)
    assert len(STUDY) == 4
    for line in STUDY:
        name, *words = shlex.split(line)[1:]
        if "--epochs" in words:
            words[words.index("--epochs") + 1] = "1"
        result = cli("", *words, script=importlib.import_module(name.removesuffix(".py")))
        assert result.status == 0, line + "\n" + result.err
        if "--teacher" in words:
            assert "teacher       resnet18, published ImageNet weights: top-1 100.00 % on validation" in result.out
    assert {path.name for path in root.glob("*.png")} == {"vit_vs_deit_random10.png", "attention.png"}


def test_the_table_of_models_is_right(cli):
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) / ([\d,]+) \| ([\d.]+ [MG]) / ([\d.]+ [MG]) \|", README, re.MULTILINE)
    assert len(rows) >= 17
    for name, *numbers in rows:
        for size, params, flops in zip(("32", "224"), numbers[:2], numbers[2:], strict=True):
            shown = cli("--list-models", name, "--dataset", "cifar10", "--img-size", size).out
            line = next(line for line in shown.splitlines() if line.split()[0] == name)
            assert f" {params}  " in line and f" {flops}  " in line, line


def test_every_model_is_named():
    missing = [name for name in models.list_models() if f"`{name}`" not in README]
    assert not missing


@pytest.mark.parametrize("flag", re.findall(r"`(--[a-z-]+)", README))
def test_every_flag_that_is_mentioned_exists(flag):
    flags = [
        *FLAGS.values(),
        *model_flags.flags_of(None).values(),
        *(flag for groups in (GROUPS, compare.GROUPS, study.GROUPS) for group in groups.values() for flag in group),
    ]
    names = {name for f in flags for name in (f.name, *f.aliases, *([f"no-{f.name}"] if f.negatable else []))}
    assert flag.removeprefix("--") in names | {"help"}


@pytest.mark.parametrize("name", re.findall(r"`python -m ([a-z.]+)", README))
def test_every_module_that_is_mentioned_can_be_run(name, monkeypatch, capsys):
    """Benchmarks themselves are run by tests/benchmarks."""
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(name).main(["--help"])
    assert end.value.code == 0 and "--repeats" in capsys.readouterr().out


def test_every_picture_is_there():
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert pictures
    for picture in pictures:
        assert (Path(__file__).resolve().parent.parent / picture).is_file()
