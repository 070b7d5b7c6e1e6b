"""Flags declared by architectures: each has one meaning and a help text, and none hides another flag."""

import argparse

import pytest

import models
from models.arguments import KINDS
from settings import model_flags
from settings.groups import FLAGS
from settings.request import Request
from utils import BadRequest

ENTRIES = [models.find_model(name) for name in models.list_models()]


def test_a_name_means_the_same_in_all_models():
    kinds = {}
    for entry in ENTRIES:
        for argument in entry.arguments:
            assert kinds.setdefault(argument.name, (argument.kind, argument.choices)) == (
                argument.kind, argument.choices
            ), f"{entry.name}: {argument.name}"  # fmt: skip
    assert {kind for kind, _ in kinds.values()} <= {*KINDS, "Literal", "other"}


def test_no_flag_of_a_model_hides_one_of_training():
    taken = {
        name.replace("-", "_")
        for flag in (*Request.flags().values(), *FLAGS.values())
        for name in (flag.name, *flag.aliases)
    }
    assert not taken & set(models.all_arguments())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_flag_has_a_help_text_and_a_default_that_its_check_accepts(entry):
    for argument in entry.arguments:
        if argument.kind == "other":
            continue
        flag = model_flags.flags_of(entry.name)[argument.name]
        assert len(argument.help) > 15, f"{entry.name}: {argument.name}"
        if flag.check is None:
            assert isinstance(flag.default, bool)
        elif flag.default is not None:
            try:
                value = flag.check(str(flag.default))
                assert value == (list(argument.default) if argument.kind == "Counts" else argument.default)
            except argparse.ArgumentTypeError as error:
                pytest.fail(f"{entry.name}: {error}")


def test_what_is_given_takes_the_place_of_the_defaults():
    settled = model_flags.settle(
        "mobilenet_v2", {"se": True, "model": "mobilenet_v2", "model_args": [("kernel_size", "5")]}
    )
    assert settled["se"] is True and settled["kernel_size"] == 5
    assert settled["activation"] == "relu6" and settled["width_mult"] == 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.5", 0.5), ("3", 3), ("true", True), ("None", None), ("none", None), ("(1, 2)", [1, 2]), ("gelu", "gelu"),
     ("__import__('os')", "__import__('os')")],
)  # fmt: skip
def test_arguments_of_library_models_are_python_literals_or_text(text, value):
    assert model_flags.settle("timm/resnet18", {"model_args": [("x", text)]}) == {"x": value}


def test_switches_are_given_as_true_or_false():
    assert model_flags.settle("mobilenet_v2", {"model_args": [("se", "true")]})["se"] is True
    with pytest.raises(BadRequest, match="--model-arg se: '1' is neither true nor false"):
        model_flags.settle("mobilenet_v2", {"model_args": [("se", "1")]})
