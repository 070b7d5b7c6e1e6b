"""Command lines as wandb's agents write them: switches with a value, and None for a flag that is not given."""

from __future__ import annotations

import pytest

from settings.scripts import SCRIPTS
from utils import BadRequest


def given(*words: str) -> dict:
    return SCRIPTS["main.py"].ask(["--dataset=digits", *words]).given


@pytest.mark.parametrize("word", ["true", "True", "1"])
def test_a_switch_that_is_true_is_given(workdir, word):
    assert given(f"--rand={word}", f"--overwrite={word}", f"--decay_all={word}").items() >= {
        "rand": True, "overwrite": True, "decay_all": True}.items()  # fmt: skip


@pytest.mark.parametrize("word", ["false", "False", "0"])
def test_a_switch_that_is_false_is_off_or_not_given(workdir, word):
    assert given(f"--rand={word}", f"--overwrite={word}", f"--nesterov={word}") == {"dataset": "digits", "rand": False}


def test_none_is_not_given_unless_it_is_a_word_of_the_flag(workdir):
    words = ("ema", "teacher", "optimizer", "run_name", "rand", "model_arg", "resume", "classes", "lr", "depth")
    assert given(*(f"--{word}=None" for word in words)) == {"dataset": "digits"}
    assert given("--augmentation=None", "--crop=None", "--run-name=none") == {
        "dataset": "digits", "augmentation": "none", "crop": "none", "run_name": "none"}  # fmt: skip


@pytest.mark.parametrize("word", ["--rand=maybe", "--overwrite=", "--rand=2"])
def test_another_value_of_a_switch_is_refused(workdir, word):
    with pytest.raises(BadRequest, match=f"^{word}: is a switch; its values are true and false$"):
        given(word)
