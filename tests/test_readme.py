"""Every command in README.md, CONTRIBUTING.md and docs/ works. Each is run here, shortened to one epoch; test_main runs
the CIFAR-100 lines."""

import importlib
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import WNIDS, class_images, fit_head
from PIL import Image
from simulated import write_study
from test_main import BCE_LINE, SGD_LINE, VGG_LINE

import compare
import main
import models
import study
from analysis import speed
from data_transform import Normalize, image_transform
from image_datasets.dataset import IMAGENET_MEAN, IMAGENET_STD
from image_datasets.image_files import read_image
from utils import parse_toml

REPO = Path(__file__).resolve().parent.parent
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    """The lines of a page's bash blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines() if line]


LINES = list(dict.fromkeys(line for page in PAGES for line in commands(page)))


def starting(*words: str) -> list[str]:
    return [line for line in LINES if line.startswith(words)]


MENU = ["python main.py"]
COMMANDS = starting("python main.py ")
MANY = starting("torchrun ")
STUDIES = starting("python study.py ")
COMPARISONS = starting("python compare.py ")
STUDY = starting("python train_deit_imagenet100.py", "python viz_random_10")
JOBS = starting("sbatch ")
BENCHMARKS = starting("python -m benchmarks.")
MAKE = starting("make ")
TESTS = starting("python -m pytest ")
WORKTREES = starting("git worktree ")
SAME_BITS = starting("python tests/same_bits.py ")
TESTED = [*MENU, *COMMANDS, *MANY, *STUDIES, *COMPARISONS, *STUDY, *JOBS, *BENCHMARKS, *MAKE, *TESTS, *WORKTREES,
          *SAME_BITS]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_line_is_run_by_one_of_these_tests(page):
    assert [line for line in commands(page) if line not in TESTED] == []
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"^```(\S+)$", text, re.MULTILINE)) <= {"bash", "text", "toml", "python", "mermaid"}
    assert not re.findall(r"^    (?:python|make|torchrun|sbatch|git) ", text, re.MULTILINE), "outside a bash block"


def test_no_line_is_run_twice():
    assert len(LINES) == len(TESTED)


def test_the_cifar_100_lines_are_those_that_are_tested():
    documented = [line.removeprefix("python main.py ") for line in COMMANDS if "--wandb_run_name" in line]
    assert documented == [VGG_LINE, SGD_LINE, BCE_LINE]


def shortened(line: str, path: str) -> list[str]:
    """The words after the script's name, with this data folder, for one epoch (digits: on a fifth of the images)."""
    words = [{"PATH": path, "cat,dog": "class0,class1"}.get(word, word) for word in shlex.split(line)[2:]]
    if "--epochs" in words:
        words[words.index("--epochs") + 1] = "1"
        if "digits" in words and "--train-fraction" not in words:
            words += ["--train-fraction", "0.2"]
    return words


@pytest.mark.slow
def test_every_other_command_works(cli, workdir, image_folder, monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0.01)  # of each measured time
    Image.new("L", (8, 8)).save(workdir / "IMAGE.png")
    path = str(image_folder(side=32))
    files = sorted(Path(path).glob("train/*/*"))
    config = re.search(r"```toml\n(# (small\.toml)\n.*?)```", (REPO / "docs/training.md").read_text(), re.DOTALL)
    Path(config[2]).write_text(config[1].replace("epochs = 20", "epochs = 1\ntrain-fraction = 0.2"))
    Path("LIST").write_text("path,label\n" + "".join(f"{file},{file.parent.name}\n" for file in files))
    torch.save(models.create_model("resnet20", 3, 32).state_dict(), workdir / "WEIGHTS.pth")
    # The result of `make train`: above chance, so it may be a teacher.
    first = cli(
        "--dataset digits --model resnet20 --lr 0.05 --batch-size 16 --train-fraction 0.3 --epochs 3 --run-name digits"
    )
    assert first.status == 0
    elsewhere = ("--wandb_run_name", "--pretrained", "--dataset cifar10 ", "--model perceptron")
    others = [line for line in COMMANDS if not any(words in line for words in elsewhere)]
    assert len(others) >= 12
    for line in others:
        result = cli("", *shortened(line, path))
        assert result.status == 0, line + "\n" + result.err


def test_the_menu_opens(workdir, monkeypatch, capsys):
    """test_menu runs its choices."""
    assert set(MENU) <= set(LINES)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: "5")
    assert main.main([]) == 0
    assert "Train DeiT-Tiny" in capsys.readouterr().out


@pytest.fixture
def cifar10_folder(tmp_path) -> Path:
    """CIFAR-10's Python format with 5 + 2 images per class. The checksums are not the published ones."""
    folder = tmp_path / "cifar10/cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, per_class in (*((f"data_batch_{i}", 1) for i in range(1, 6)), ("test_batch", 2)):
        labels = np.repeat(np.arange(10), per_class)
        rows = class_images(rng, labels, 32).transpose(0, 3, 1, 2).reshape(len(labels), -1)
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": labels.tolist()}, protocol=2))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    return folder.parent


@pytest.mark.slow
def test_mobilevit_is_compared_by_class(cli, workdir, cifar10_folder):
    """At 32 px, which takes a thirtieth of the time per step."""
    lines = [line for line in COMMANDS if "--dataset cifar10 " in line]
    assert [shlex.split(line)[7] for line in lines] == ["mobilevit_xxs", "mobilevit_xs", "mobilevit_s"]
    for line in lines:
        words = shortened(line, str(cifar10_folder))
        result = cli("", *words, "--img-size", "32", "--no-verify-checksum")
        assert result.status == 0, line + "\n" + result.err
    (line,) = [line for line in COMPARISONS if "mobilevit" in line]
    assert compare.main(shlex.split(line)[2:]) == 0
    report = (workdir / "runs/comparison/report.md").read_text()
    assert all(name in report for name in ("mobilevit_xxs", "mobilevit_xs", "mobilevit_s", "airplane", "truck"))


@pytest.mark.slow
def test_fine_tuning_works(cli, workdir, image_folder, publish):
    """With random instead of published weights, and smaller images."""
    path = str(image_folder(side=32))
    lines = [line for line in COMMANDS if "--pretrained" in line]
    assert len(lines) >= 2
    for line in lines:
        words = shortened(line, path)
        publish(words[words.index("--model") + 1])
        result = cli("", *words, "--img-size", "64")
        assert result.status == 0, line + "\n" + result.err
        assert "replaced: " in result.out
        assert ("interpolated from 14x14 to 4x4 patches" in result.out) == ("vit_b_16" in line)


@pytest.mark.slow
def test_a_model_is_added_as_documented(workdir):
    """Adds the file from docs/architecture.md to a copy of the suite."""
    for part in REPO.iterdir():
        if (part / "__init__.py").is_file():
            shutil.copytree(part, workdir / part.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif part.suffix == ".py":
            shutil.copy(part, workdir)
    (example,) = re.findall(r"```python\n(.*?)```", (REPO / "docs/architecture.md").read_text(), re.DOTALL)
    (workdir / "models/perceptron.py").write_text(example)
    shown, trained = (
        subprocess.run([sys.executable, "main.py", *words], cwd=workdir, capture_output=True, text=True, check=False)
        for words in (shortened(line, "") for line in COMMANDS if "--model perceptron" in line)
    )
    assert "units of the hidden layer (default: 1024)" in " ".join(shown.stdout.split()), shown.stderr
    assert trained.returncode == 0, trained.stderr


def test_studies_start_as_documented(cli, workdir):
    """test_study.py runs whole studies."""
    (workdir / "data").mkdir()
    (workdir / "data/efficientnet-lite0.pth").touch()  # a teacher that one of them names
    assert len(STUDIES) >= 9
    for line in STUDIES:
        words = [str(REPO / word) if word.endswith(".toml") else word for word in shlex.split(line)[2:]]
        content = parse_toml(Path(words[0]).read_text(encoding="utf-8"))
        seeds = re.search(r"--seeds((?: \d+)+)", line)
        runs = len(content["variants"]) * len(seeds[1].split() if seeds else content["seeds"])
        told = f"{runs} of {len(content['variants']) * len(content['seeds'])} runs" if seeds else f"{runs} runs"
        assert runs == 15 or "quick_digits" not in line
        more = [] if "--dry-run" in words else ["--dry-run"]
        result = cli("", *words, *more, "--no-estimate", script=study)
        assert result.status == 0 and told in result.out, result.err


@pytest.mark.slow
def test_comparisons_work_as_documented(workdir):
    models = {"quick_digits": {"resnet20": 0.95, "vit": 0.8}, "mobilenet_v2_ablation": {"baseline": 0.9, "silu": 0.95}}
    for name, accuracies in models.items():
        write_study(workdir / "runs" / name, accuracies)
    lines = [line for line in COMPARISONS if "mobilevit" not in line]
    assert len(lines) == len(models)
    for line in lines:
        assert compare.main(shlex.split(line)[2:]) == 0
    for name in models:
        assert (workdir / "runs" / name / "comparison/report.html").is_file()


@pytest.mark.slow
def test_several_processes_train_as_documented(workdir):
    """tests/training/test_distributed.py covers a killed worker."""
    (line,) = MANY
    words = shlex.split(line.replace("main.py", str(REPO / "main.py")).replace("--epochs 20", "--epochs 1"))
    command = [sys.executable, "-m", "torch.distributed.run", *words[1:], "--wandb", "disabled"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=workdir, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "processes     2: batches of 64 images each, 128 in all" in done.stdout


@pytest.mark.slow
def test_the_jobs_of_a_cluster_train_as_documented(cli, cifar100_folder):
    """Runs the words that the batch scripts pass to main.py and study.py. tests/slurm runs the scripts on a cluster."""
    assert len(JOBS) >= 5
    handed_on = set()
    for line in JOBS:
        words = shlex.split(line)[1:]
        options = [word for word in words if word.startswith("--")][: words.index(next(w for w in words if "/" in w))]
        assert all("=" in option for option in options), line
        script, *words = words[len(options) :]
        assert (REPO / script).is_file() and script.endswith(".sbatch"), line
        words = [word for word in words if word not in ("--run-name", "x", "y", "z")]
        handed_on.add((script, *words))
    for script, *words in handed_on:
        if script == "slurm/study.sbatch":
            result = cli(str(REPO / words[0]), *words[1:], "--dry-run", "--no-estimate", script=study)
        else:
            words = [str(cifar100_folder) if word == "PATH" else word for word in words]
            result = cli("", *words, "--epochs", "1")
        assert result.status == 0, " ".join(words) + "\n" + result.err


@pytest.mark.slow
def test_the_imagenet_100_study_works(cli, workdir, shards, publish, monkeypatch):
    """The whole chain, shortened to one epoch. The published network is a random one fitted to these images."""
    root = shards(side=225, per_class=4)  # above 224 px, the size of the published network
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
        name = shlex.split(line)[1]
        words = shortened(line, "")
        result = cli("", *words, script=importlib.import_module(name.removesuffix(".py")))
        assert result.status == 0, line + "\n" + result.err
        if "--teacher" in words:
            assert "teacher       resnet18, published ImageNet weights: top-1 100.00 % on validation" in result.out
    assert {path.name for path in root.glob("*.png")} == {"vit_vs_deit_random10.png", "attention.png"}


@pytest.mark.parametrize("name", [line.split()[2] for line in BENCHMARKS])
def test_every_benchmark_can_be_run(name, monkeypatch, capsys):
    """tests/benchmarks runs the benchmarks themselves."""
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(name).main(["--help"])
    assert end.value.code == 0 and "--quick" in capsys.readouterr().out


@pytest.mark.parametrize("line", MAKE)
def test_make_knows_its_targets(line):
    """.ci/run runs `make train` and `make test` themselves."""
    done = subprocess.run([*shlex.split(line), "--dry-run"], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "python" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("line", TESTS)
def test_the_tests_that_are_named_are_there(line):
    command = [sys.executable, *line.split()[1:], "--collect-only", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_two_commits_are_compared_as_documented(tmp_path):
    """By the text of --help, the quickest comparison. test_same_bits compares trainings."""
    here = tmp_path / "here"
    identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.invalid")
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", here], check=True)
    subprocess.run(["git", *identity, "commit", "--quiet", "--allow-empty", "--message", "first"], cwd=here, check=True)
    for line in WORKTREES:
        subprocess.run(line.split(), cwd=here, check=True)
    assert (tmp_path / "before/.git").exists()
    assert {line.partition(" --")[0] for line in SAME_BITS} == {"python tests/same_bits.py ../before ."}
    assert importlib.import_module("same_bits").main([str(REPO), str(REPO), "--help-texts"]) == 0
