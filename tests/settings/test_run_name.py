"""--run-name with settings in braces."""

from __future__ import annotations

import pytest

from settings.scripts import SCRIPTS
from utils import BadRequest


def name(template: str, *words: str) -> str:
    return SCRIPTS["main.py"].ask([f"--run-name={template}", "--dataset=digits", *words]).settings.run.run_name


def test_settings_are_filled_in_as_recipes_and_other_flags_resolve_them(workdir):
    assert name("{model}-lr{lr}-seed{seed}") == "resnet18-lr0.1-seed0"
    words = ("--recipe=deit", "--model=deit_tiny", "--seed=123456789", "--teacher=resnet18", "--teacher-epochs=1")
    template = "sweep/{model}-{lr}-{seed}-{drop_path}-{weight-decay}-{rand}-{distill}-{weights}"
    assert name(template, *words) == "sweep/deit_tiny-0.000125-123456789-0.1-0.05-true-hard-none"
    assert name(template, *words, "--resume=auto") == name(template, *words)
    words = ("--model=timm/resnet18", "--schedule=multistep", "--milestones=3,5", "--ema=0.9990")
    assert name("{model}-{milestones}-{ema}", *words) == "timm_resnet18-3x5-0.999"
    assert name("{img_size}-{in_chans}", "--img-size=24,32", "--in-chans=1") == "24x32-1"


@pytest.mark.parametrize(
    ("template", "needle"),
    [
        ("{lrr}", "{lrr} is no setting. Did you mean lr?"),
        ("{lr:.2f}", "{lr:.2f} is no setting."),
        ("{}", "{} is no setting."),
        ("{run_name}", "{run_name} is no setting."),
        ("a{lr", "a brace has no partner; {lr} is"),
        ("a}", "a brace has no partner; {lr} is"),
        ("{{lr}}", "a brace has no partner; {lr} is"),
        ("{img_size}", "{img_size} is not known yet: data or device decide it, unless --img-size is given"),
        ("{precision}", "{precision} is not known yet"),
        ("{lr}" * 40, "is not a name for a folder"),
    ],
)
def test_names_that_cannot_be_filled_in(workdir, template, needle):
    with pytest.raises(BadRequest) as refused:
        name(template, "--lr=1.23457e-7")
    assert str(refused.value).startswith(f"--run-name {template}: ") and needle in str(refused.value)


def test_the_settings_of_an_evaluation_are_not_known_yet(workdir):
    (workdir / "best.pth").touch()
    with pytest.raises(BadRequest, match="names settings, which are known with training alone"):
        SCRIPTS["main.py"].ask(["--evaluate=best.pth", "--run-name={model}"])
