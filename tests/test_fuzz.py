"""Whatever the command line or a file holds, a script ends with a documented status and one line, never a traceback.
Training itself, which follows the checks, is left out here."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import main
import models
import train_deit_imagenet100
import viz_random_10_vit_vs_deit
from assembly import trained
from commands import catalogue, compare_predictions, evaluate, inspect_data, predict, train
from image_datasets.splits import Split
from records import checkpoint
from settings import model_flags, terminal
from settings.groups import FLAGS
from settings.request import Request
from settings.scripts import SCRIPTS as TRAINING
from settings.two_models import TwoModels
from training.metrics import Totals
from training.state import RunState, restore

MORE = int(os.environ.get("FUZZ_MORE", "1"))  # multiplies the examples; above 1 they differ in each session
SCRIPTS = (main, main, main, train_deit_imagenet100, viz_random_10_vit_vs_deit)
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
    """Maps each name of a flag to the words that it accepts as a value; switches and their opposites accept none."""
    found: dict[str, list[str]] = {}
    for flag in {**model_flags.flags_of(None), **Request.flags(), **FLAGS, **TwoModels.flags()}.values():
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
    """Existing flags with accepted or arbitrary values; some without a value, with two, misspelt, or with
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
    """Runs a script in this process and asserts a documented status and a single line. Returns the status."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = terminal.run_script(lambda: script.main(argv))
        except SystemExit as end:  # from --help
            status = end.code
    assert status in (0, 1, 2)
    if status:
        assert len(err.getvalue().splitlines()) == 1, err.getvalue()
    return status


@pytest.fixture
def place(workdir, image_folder, shards, monkeypatch) -> Path:
    """A working directory with data sets, files and a run. Patches the scripts to stop before the work begins."""
    image_folder(side=16, parts={"train": 2, "test": 1}).rename(workdir / "images")
    shards(per_class=1).rename(workdir / "shards")
    (workdir / "broken/train/a").mkdir(parents=True)
    (workdir / "notes.txt").write_text("no image")
    made = TRAINING["main.py"].ask(["--model", "vit_tiny", "--epochs", "9", "--run-name", "a"]).settings
    made = made.replace(in_chans=1, img_size=8)
    (workdir / "runs/a").mkdir(parents=True)
    stored = {"settings": made.stored(), "wandb_run_id": "0123abcd"}
    for name in ("settings", "runs/a/settings.json"):
        (workdir / name).write_text(json.dumps(stored))
    (workdir / "runs/a/last.pth").write_bytes(b"no checkpoint")
    for module, name in ((train, "run_training"), (evaluate, "run_evaluation"), (predict, "run_prediction"),
                         (inspect_data, "inspect_data"), (compare_predictions, "show_predictions"),
                         (catalogue, "print_summary"), (catalogue, "print_models")):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *args: None)
    return workdir


@pytest.mark.slow
@fuzz(2000)
@given(st.sampled_from(SCRIPTS), command_lines())
def test_command_lines(place, script, argv):
    assert_ends_well(script, argv)


JUNK = st.sampled_from(
    [
        None,
        True,
        [],
        {},
        "",
        "x",
        "nan",
        -1,
        0,
        2,
        0.5,
        1e300,
        10**30,
        float("nan"),
        [1, "a"],
        ["a", "b"],
        {"a": 1},
        [[]],
    ]
)


@st.composite
def damages(draw) -> list[tuple[float, object]]:
    """(place, value) pairs for a nested dict: place in [0, 1) picks an entry; value replaces it, `...` deletes it."""
    other = st.one_of(JUNK, st.just(...))
    return draw(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), other), min_size=1, max_size=3))


def damage(content: dict, damaged: list[tuple[float, object]]) -> None:
    for place, value in damaged:
        inner = [value for value in content.values() if isinstance(value, dict)]
        places = [(mapping, key) for mapping in (content, *inner) for key in mapping]
        if not places:
            return
        mapping, key = places[int(place * len(places))]
        if value is ...:
            del mapping[key]
        else:
            mapping[key] = value


def bytes_damaged(content: bytes, place: float, how: str) -> bytes:
    at = int(place * len(content))
    if how == "cut":
        return content[:at]
    return content[:at] + bytes([content[at] ^ 1 << int(how)]) + content[at + 1 :]


WHERE = st.floats(0, 1, exclude_max=True)
HOW = st.sampled_from(["cut", *"01234567"])


@pytest.mark.slow
@fuzz(300)
@given(damages(), st.sampled_from([[], ["--batch-size", "8"], ["--model", "resnet18"], ["--depth", "3"]]))
def test_stored_settings_with_other_values(place, damaged, more):
    file = place / "runs/a/settings.json"
    content = json.loads((place / "settings").read_text())
    damage(content, damaged)
    file.write_text(json.dumps(content))
    assert_ends_well(main, ["--resume", "--run-name", "a", *more])


@fuzz(100)
@given(WHERE, HOW)
def test_stored_settings_with_damaged_bytes(place, where, how):
    content = (place / "settings").read_bytes()
    (place / "runs/a/settings.json").write_bytes(bytes_damaged(content, where, how))
    assert_ends_well(main, ["--resume", "--run-name", "a"])


def make_state(content: dict) -> RunState:
    stored = content["settings"]
    model = models.create_model("vit_tiny", 10, 8, 1, **stored["model_args"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.param_groups[0]["lr_scale"] = 1.0
    return RunState(model, optimizer, Totals(10, torch.device("cpu")))


TINY = "--model vit_tiny --depth 1 --embed-dim 12 --patch-size 4 --img-size 8 --in-chans 1 --run-name a"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The bytes of a small network's checkpoint."""
    words = [
        "--model",
        "vit_tiny",
        "--depth",
        "1",
        "--embed-dim",
        "12",
        "--patch-size",
        "4",
        "--img-size",
        "8",
        "--in-chans",
        "1",
        "--run-name",
        "a",
    ]
    made = TRAINING["main.py"].ask(words).settings
    data = {"class_names": [str(i) for i in range(10)], "wnids": None, "mean": (0.5,), "std": (0.2,), "img_size": 8,
            "in_chans": 1, "eval_crop": 1.0, "selected_on": "validation"}  # fmt: skip
    stored = {**made.stored(), "data_path": None}
    state = make_state({"settings": stored})
    state.best = {"epoch": 1, "weights": "raw", "top1": 0.5, "score": [0.5, -1.0]}
    file = io.BytesIO()
    torch.save({"format": checkpoint.FORMAT, **state.state_dict(), "settings": stored, **data}, file)
    return file.getvalue()


def use_it(file: Path, resumed: bool) -> int:
    """Does with a checkpoint what --resume does, or else --evaluate and the picture."""
    if resumed:
        restore(STATE["state"], checkpoint.load_checkpoint(file), file)
        return 0
    model, content = trained.read_trained(str(file))
    checkpoint.match_classes(str(file), content, [str(i) for i in range(10)], "digits")
    batches = trained.batches_for(
        content, Split(np.zeros(1, int), np.zeros((1, 8, 8, 1), np.uint8)), torch.device("cpu"), 1, 0
    )
    for images, _ in batches:
        model(images)
    return 0


STATE: dict[str, RunState] = {}


@pytest.mark.slow
@fuzz(150)
@given(damages(), st.booleans())
def test_checkpoints_with_other_values(place, whole, damaged, resumed):
    content = torch.load(io.BytesIO(whole), weights_only=True)
    STATE.setdefault("state", make_state(content))
    damage(content, damaged)
    torch.save(content, place / "x.pth")
    assert_ends_well(SimpleNamespace(main=lambda argv: use_it(place / "x.pth", resumed)), [])


@fuzz(100)
@given(WHERE, HOW)
def test_checkpoints_with_damaged_bytes(place, whole, where, how):
    (place / "x.pth").write_bytes(bytes_damaged(whole, where, how))
    assert_ends_well(SimpleNamespace(main=lambda argv: use_it(place / "x.pth", resumed=False)), [])


class Payload:
    """Its pickle makes a folder when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch", "old torch", "pickle"])
def test_a_pickle_that_would_run_code_is_refused_wherever_it_is_given(place, monkeypatch, form):
    monkeypatch.undo()
    monkeypatch.chdir(place)
    evil = place / "evil.pth"
    if form == "pickle":
        evil.write_bytes(pickle.dumps({"model": Payload(), "settings": {}}))
    else:
        torch.save({"model": Payload()}, evil, _use_new_zipfile_serialization=form == "torch")
    shutil.copy(evil, place / "runs/a/last.pth")
    shutil.copy(evil, place / "runs/a/best.pth")
    line = "--dataset digits --epochs 1 --wandb disabled --run-name b --model resnet20"
    uses = [
        (main, f"{line} --weights evil.pth"),
        (main, f"{line} --teacher resnet20 --teacher-weights evil.pth"),
        (main, "--evaluate evil.pth"),
        (main, "--predict evil.pth images/train/class0/0.png"),
        (main, "--resume --run-name a"),
        (viz_random_10_vit_vs_deit, "--first evil.pth --second evil.pth"),
        (viz_random_10_vit_vs_deit, "--first runs/a --second runs/a"),
    ]
    for script, words in uses:
        assert assert_ends_well(script, words.split()) == 2, words
        assert not (place / "pwned").exists()


def test_a_name_that_the_terminals_encoding_lacks_is_printed_all_the_same(place):
    name = "é\udcff"
    (place / "runs/a").rename(place / "runs" / name)
    (place / "runs" / name / "summary.json").write_text("{}")
    script = Path(main.__file__)
    done = subprocess.run(
        [sys.executable, script, "--resume", "--run-name", name],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "finished already" in done.stdout
