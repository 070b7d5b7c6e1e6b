"""Whatever the command line or a file says, a script ends with a status that is documented, and with one line: never
with a traceback. What comes after the checks, training itself, is left out here."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import main
import train_deit_imagenet100
import viz_random_10_vit_vs_deit
from training import answers, catalogue, inspection, model_flags, options, run, use
from training.flags import FLAGS

MORE = int(os.environ.get("FUZZ_MORE", "1"))  # times as many examples, and other ones each time
SCRIPTS = (main, main, main, train_deit_imagenet100, viz_random_10_vit_vs_deit)
VIZ = {flag.key: flag for flags in viz_random_10_vit_vs_deit.GROUPS.values() for flag in flags}
PLAIN_WORDS = """0 -1 1 2 3.5 1e-3 1e400 nan -inf 0x10 1_0 १ -- - -x a=b = stem=cifar depth=1 é图☃ ../.. / . /dev/null
    {x} $HOME * [ timm/* [! none true auto 1,2,3 3,2 , 64,128,256,512 digits folder cifar10 imagenet100 tiny-imagenet
    images broken shards notes.txt runs/a runs/a/last.pth images/train/class0/0.png resnet18 resnet20 vit_tiny
    deit_tiny_distill mobilevit_xxs mobilenet_v2 timm/resnet10t timm/nosuch torchvision/vit_b_32 torchvision/x cutmix
    cutmix+mixup pad resized deit seed cifar-fast sgd adamw lamb muon-sgd adam cosine step multistep BCE CE soft hard
    cpu cuda:99 mps bf16 fp16 skip error jpeg raw pretrained reported map offline disabled a a/b new x.png backbone
    0.1 0.5 5 10 32 224 10s rollback"""
WORDS = ["", " ", "9" * 30, "9" * 5000, "x=[" * 300, "two\nlines", "\0", "\udcff", "a" * 300, "%s %d"]
WORDS += PLAIN_WORDS.split()
VALUE = st.one_of(st.sampled_from(WORDS), st.integers(-2, 300).map(str), st.floats().map(str), st.text(max_size=8))


def accepted() -> dict[str, list[str]]:
    """The words that are a value of each flag, for its names; of switches and their opposites none."""
    found: dict[str, list[str]] = {}
    for flag in {**model_flags.flags_of(None), **FLAGS, **VIZ}.values():
        right = []
        for word in WORDS if flag.check else ():
            with contextlib.suppress(ValueError, argparse.ArgumentTypeError):
                flag.check(word)
                right.append(word)
        names = [flag.name, *flag.aliases, *([f"no-{flag.name}"] if flag.negatable else [])]
        found.update({f"--{name}": right for name in names})
    return found


RIGHT = accepted()


@st.composite
def command_lines(draw) -> list[str]:
    """Flags that exist, with values of theirs or any others; sometimes without, with two, misspelt, or with
    underscores."""
    words = []
    for _ in range(draw(st.integers(0, 7))):
        name = draw(st.sampled_from(sorted(RIGHT)))
        values = [draw(st.sampled_from(RIGHT[name]))] if RIGHT[name] else []
        form = draw(st.integers(0, 20))
        if form == 0:
            name = draw(st.text(max_size=5))
        elif form == 1:
            name = name.replace("-", "_")
        elif form < 6:
            values = draw(st.lists(VALUE, max_size=2))
        words += [f"{name}={values[0]}"] if values and draw(st.booleans()) else [name, *values]
    return words


def fuzz(examples: int):
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples * MORE, derandomize=MORE == 1, deadline=None, database=None,
                    suppress_health_check=quiet)  # fmt: skip


def assert_ends_well(script, argv: list[str]) -> int:
    """Runs a script in this process. Gives its exit status."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = options.one_line_errors(lambda: script.main(argv))
        except SystemExit as end:  # of --help
            status = end.code
    assert status in (0, 1, 2)
    if status:
        assert len(err.getvalue().splitlines()) == 1, err.getvalue()
    return status


@pytest.fixture
def place(workdir, image_folder, shards, monkeypatch) -> Path:
    """A working directory with data sets, files and a run; and scripts that stop where the work would begin."""
    image_folder(side=16, parts={"train": 2, "test": 1}).rename(workdir / "images")
    shards(per_class=1).rename(workdir / "shards")
    (workdir / "broken/train/a").mkdir(parents=True)
    (workdir / "notes.txt").write_text("no image")
    _, made, _ = options.parse(["--model", "vit_tiny", "--epochs", "9", "--run-name", "a"], "")
    made.in_chans, made.img_size = 1, 8
    (workdir / "runs/a").mkdir(parents=True)
    stored = {"settings": run.stored_settings(made), "wandb_run_id": "0123abcd"}
    (workdir / "runs/a/settings.json").write_text(json.dumps(stored))
    (workdir / "runs/a/last.pth").write_bytes(b"no checkpoint")
    for module, name in ((run, "run_training"), (use, "run_evaluation"), (use, "run_prediction"),
                         (inspection, "inspect_data"), (answers, "show_answers"), (catalogue, "print_summary"),
                         (catalogue, "print_models")):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *args: None)
    return workdir


@fuzz(2000)
@given(st.sampled_from(SCRIPTS), command_lines())
def test_command_lines(place, script, argv):
    assert_ends_well(script, argv)
