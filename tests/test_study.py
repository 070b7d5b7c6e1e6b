"""The shipped studies, and a small one with a real training."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import study

REPO = Path(study.__file__).resolve().parent
SHIPPED = sorted((REPO / "studies").rglob("*.toml"))


def test_all_of_them_are_here():
    names = {"cifar100_cnn_vs_vit", "deit_vs_mobilenet_cifar10", "mobilevit_cifar10", "mobilenet_v2_cifar10",
             "mobilenet_v2_ablation", "vit_vs_deit_imagenet100", "recipe_ablation", "quick_digits"}  # fmt: skip
    assert names <= {file.stem for file in SHIPPED}


@pytest.mark.parametrize("file", SHIPPED, ids=[file.stem for file in SHIPPED])
def test_a_shipped_study_passes_the_whole_check(cli, workdir, file):
    teacher = workdir / "data/efficientnet-lite0.pth"  # the one file that a shipped study names
    teacher.parent.mkdir()
    teacher.touch()
    result = cli(f"{file} --dry-run --no-estimate", script=study)
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    runs = [shlex.split(line) for line in lines[1:]]
    assert len({line[line.index("--run-name") + 1] for line in runs}) == len(runs) == int(lines[0].split()[2])


@pytest.mark.slow
def test_a_real_run(cli, workdir):
    """It has the flags that a study adds; the second call finds it finished."""
    (workdir / "s.toml").write_text(
        "[base]\ndataset = 'digits'\ntrain-fraction = 0.2\nbatch-size = 32\nwandb = 'disabled'\nepochs = 1\n"
        "[variants]\ncnn = { model = 'resnet20' }\n"
    )
    ended = subprocess.run([sys.executable, REPO / "study.py", "s.toml"], cwd=workdir, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    folder = workdir / "runs/s/cnn-seed0"
    stored = json.loads((folder / "settings.json").read_text())["settings"]
    assert stored["model"] == "resnet20"
    assert f"top-1 {100 * json.loads((folder / 'summary.json').read_text())['top1']:.2f} % on test" in ended.stdout
    assert (folder / "predictions.npz").is_file()
    again = cli("s.toml", script=study)
    assert again.status == 0 and "1 run (1 finished)" in again.out


def test_a_study_is_checked_without_loading_what_trains():
    """The process that waits for the runs loads no framework either."""
    code = (
        "import sys, study, experiments.execution; study.main(sys.argv[1:]);"
        " sys.exit(' '.join({'torch', 'timm', 'numpy', 'wandb', 'submitit'} & set(sys.modules)) or 0)"
    )
    command = [sys.executable, "-c", code, "studies/quick_digits.toml", "--dry-run", "--no-estimate"]
    ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert ended.stderr.strip() == "" and ended.returncode == 0
