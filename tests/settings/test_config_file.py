"""--config: a TOML file of flags, and the settings.json of a run, which is repeated."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from settings.checks import Asked
from settings.scripts import SCRIPTS
from utils import BadRequest

TOML = """\
dataset = "digits"
model = "resnet9"
widths = [8, 16, 16]
lr = 0.05
rand = true
early_stopping = 3
keep = ["best:1", "every:2"]
"""
RUN = (
    "--dataset digits --model resnet9 --widths 8,16,16 --depths 1,1,1 --recipe deit --epochs 3 --train-fraction 0.2"
    " --warmup-epochs 1 --ema 0.9 --augmentation cutmix --batch-size 32 --seed 3 --clip-grad 1 --schedule multistep"
    " --milestones 1,2 --gamma 0.5 --lr 0.01"
)


def ask(line: str, script: str = "main.py") -> Asked:
    return SCRIPTS[script].ask(shlex.split(line))


def stored(folder: str, line: str, **changes: Any) -> Path:
    """Writes the settings.json of a run with these flags."""
    file = Path(folder) / "settings.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    asked = ask(f"{line} --overwrite").settings
    file.write_text(json.dumps({"settings": {**asked.stored(), **changes}, "wandb_run_id": "id"}))
    return file


@pytest.fixture
def toml(workdir) -> Path:
    file = workdir / "x.toml"
    file.write_text(TOML)
    return file


def test_a_run_is_repeated_bit_for_bit_from_its_settings(learns, workdir):
    learns(f"{RUN} --epochs 2 --milestones 1 --train-fraction 0.1 --run-name a")
    learns("--config runs/a/settings.json --run-name b")
    one, other = (json.loads(Path(f"runs/{name}/settings.json").read_text())["settings"] for name in "ab")
    assert {key for key in one if one[key] != other[key]} == {"run_name"}
    for file in ("last.pth", "best.pth"):
        a, b = (torch.load(f"runs/{name}/{file}", weights_only=True) for name in "ab")
        assert a["history"] == b["history"]
        for part in ("model", "ema"):
            assert all(torch.equal(a[part][key], b[part][key]) for key in a[part])


def test_flags_of_a_toml_file_count_as_if_given_and_the_command_line_wins(toml):
    def of(line: str):
        settings = ask(f"--config x.toml {line}").settings
        return settings.optimization.lr, settings.augmentation.rand, settings.run.keep, settings.model.model_args

    widths = {"depths": [2, 2, 2], "widths": [8, 16, 16], "stem_stride": 1}
    assert of("") == (0.05, True, ["best:1", "every:2"], widths)
    line = "--lr 0.2 --no-rand --keep best:2 --widths 4,4,4"
    assert of(line) == (0.2, False, ["best:2"], {**widths, "widths": [4, 4, 4]})
    assert ask("--config x.toml --early-stopping=None").settings.optimization.early_stopping is None
    with pytest.raises(BadRequest, match="--early-stopping has no effect"):
        ask("--config x.toml --val-fraction 0")


def test_a_device_or_data_set_of_the_command_line_replaces_all_of_the_file_s(workdir):
    Path("x.toml").write_text('dataset = "csv/train.csv"\ngpu = 1\n')
    settings = ask("--config x.toml --dataset digits --device cpu").settings
    assert (settings.data.data_path, settings.hardware.gpu) == (None, None)
    assert ask("--config x.toml --datapath there.csv").settings.data.data_path == "there.csv"


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("epoch = 3", "x.toml: unknown flag --epoch. Did you mean --epochs"),
        ("[base]\nlr = 1", "x.toml: base: is a table"),
        ("lr = 'high'", "x.toml: --lr: 'high' is not a number above 0"),
        ("rand = 1", "x.toml: rand: is a switch: true or false"),
        ("config = 'y.toml'", "x.toml: unknown flag --config"),
        ("lr = ", "x.toml: is no TOML: "),
    ],
)
def test_what_is_wrong_in_a_toml_file_is_named_with_the_file(workdir, text, needle):
    Path("x.toml").write_text(text)
    with pytest.raises(BadRequest) as refused:
        ask("--config x.toml")
    assert needle in str(refused.value) and "\n" not in str(refused.value)


def test_a_requeued_job_with_a_toml_file_continues_its_run(toml):
    command = "--config x.toml --run-name {model}-lr{lr} --resume auto"
    assert ask(command).settings.run.resume is False
    flags = "--dataset digits --model resnet9 --widths 8,16,16 --lr 0.05 --rand --early-stopping 3"
    stored("runs/resnet9-lr0.05", f"{flags} --run-name resnet9-lr0.05")
    assert ask(command).settings.run.resume is True
    toml.write_text(TOML.replace("rand = true", "rand = false"))
    assert ask(f"{command} --rand").settings.run.resume is True
    with pytest.raises(BadRequest, match="the run to be resumed has --widths"):
        ask(f"{command} --widths 4,4,4")


def test_flags_win_over_the_settings_of_the_run_and_the_rest_stays(workdir):
    place = "--runs-dir elsewhere --device cpu --num-workers 3 --wandb offline --wandb-group g"
    file = stored("a", f"{RUN} {place} --data-path there")
    settings = ask(f"--config {file} --optimizer sgd --schedule cosine --ema=None --depths 2,2,2").settings
    group, run = settings.optimization, settings.run
    assert (group.optimizer, group.schedule, group.lr, group.weight_decay) == ("sgd", "cosine", 0.01, 0.05)
    assert (group.ema, group.gamma, group.min_lr, group.recipe) == (None, 0.5, 0.0001, "deit")
    assert settings.model.model_args == {"depths": [2, 2, 2], "widths": [8, 16, 16], "stem_stride": 1}
    assert (run.run_name, run.runs_dir, run.wandb, run.wandb_group) == ("digits-resnet9-seed3", "runs", "auto", None)
    assert settings.hardware.device is None and settings.data.data_path == "there"


def test_another_model_gets_its_own_arguments(workdir):
    file = stored("a", RUN)
    assert ask(f"--config {file} --model vit_tiny --depth 2").settings.model.model_args["depth"] == 2
    assert ask(f"--config {file} --model timm/resnet18").settings.model.model_args == {}
    assert ask(f"--config {file} --model resnet9").settings.model.model_args["widths"] == [8, 16, 16]
    arguments = {"drop_rate": 0.1, "global_pool": "avg"}
    file = stored("b", RUN, model="timm/resnet18", model_args=arguments)
    assert ask(f"--config {file}").settings.model.model_args == arguments
    assert ask(f"--config {file} --model-arg drop_rate=0.5").settings.model.model_args["drop_rate"] == 0.5


@pytest.mark.parametrize(
    ("changes", "flags", "needle"),
    [
        ({"extend": 3}, "", "a/settings.json: its run was extended (--extend 3)"),
        ({"newer": 1}, "", "a/settings.json: unknown setting newer; a newer version wrote the file"),
        ({"model_args": {"newer": 1}}, "", "a/settings.json: unknown setting model_args: newer"),
        ({"lr": "high"}, "", "a/settings.json: damaged (its lr is 'high')"),
        ({"evaluated": "b"}, "", "a holds an evaluation"),
        ({}, "--resume", "--resume contradicts --config a/settings.json"),
        ({}, "--recipe seed", "--recipe seed has no effect: a/settings.json has the value of every flag"),
        ({}, "--epochs 1", "shorter than the training (--epochs 1) (a/settings.json stores --warmup-epochs)"),
        ({}, "--step-size 3", "--step-size has no effect: it needs --schedule step"),
        ({}, "--inspect-data x.png", "--config has no effect with --inspect-data"),
    ],
)
def test_runs_that_cannot_be_repeated(workdir, changes, flags, needle):
    file = stored("a", RUN, **changes)
    with pytest.raises(BadRequest) as refused:
        ask(f"--config {file} {flags}")
    assert needle in str(refused.value) and "\n" not in str(refused.value)


def test_other_files_and_the_runs_of_another_script(workdir):
    for name, text in (("a.json", "[1]"), ("b.json", "{"), ("c.txt", "")):
        Path(name).write_text(text)
        with pytest.raises(BadRequest, match=name):
            ask(f"--config {name}")
    file = stored("a", RUN)
    with pytest.raises(BadRequest, match=r"its dataset is digits, and here it is always imagenet100; main\.py repeats"):
        ask(f"--config {file}", "train_deit_imagenet100.py")


def test_a_flag_that_others_follow_from_decides_them_anew(workdir):
    file = stored("a", "--dataset digits --model resnet20", img_size=8, in_chans=1, crop="pad", val_fraction=0.1)
    augmented = ask(f"--config {file} --rand").settings.augmentation
    assert (augmented.auto_augment, augmented.random_erasing, augmented.crop) == ("randaugment", 0.25, None)
    folded = ask(f"--config {file} --val-fold 1/5").settings.data
    assert (folded.val_fold, folded.val_fraction) == ("1/5", None)
    other = ask(f"--config {file} --dataset npz/other.npz").settings.data
    assert (other.dataset, other.img_size, other.in_chans) == ("npz", None, None)


def test_a_run_is_not_continued_as_the_repetition_of_another(workdir):
    file = stored("a", "--dataset digits --model resnet20")
    stored("runs/b", "--dataset digits --model resnet20 --lr 0.5")
    with pytest.raises(BadRequest, match=r"its --lr is 0\.1, that of the run in runs/b is 0\.5"):
        ask(f"--config {file} --resume auto --run-name b")
