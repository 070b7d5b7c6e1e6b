"""The table of models and the layers of one: the numbers match real models and a hand count."""

from __future__ import annotations

import re
import sys

import pytest
from PIL import Image

import models
from settings import terminal


@pytest.fixture
def command(workdir, monkeypatch, capsys):
    """Runs main.py with a command line. Returns its status and output, which must not hold a traceback."""
    import main

    def run(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["main.py", *line.split()])
        capsys.readouterr()
        status = terminal.run_script(main.main)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def prints(command):
    def run(line: str) -> str:
        status, out, err = command(line)
        assert status == 0, err
        return out

    return run


def rows(table: str) -> dict[str, list[str]]:
    """Maps each model's name to the columns of its line in a table of models."""
    lines = table.splitlines()
    assert lines[0].split() == ["name", "px", "parameters", "FLOPs", "year", "paper"]
    return {line.split()[0]: re.split(r"\s{2,}", line)[1:] for line in lines[1:-2]}


def count(name: str, *size: int, **model_args) -> int:
    return sum(parameter.numel() for parameter in models.create_model(name, *size, **model_args).parameters())


# -------------------------------------------------------------------------------------------------------- --list-models


@pytest.mark.slow
def test_parameters_are_those_of_models_built_for_the_data_set(prints):
    for flags, size in (
        ("--dataset cifar10 --img-size 96", (10, 96, 3)),
        ("--dataset digits", (10, 8, 1)),
        ("--in-chans 1", (100, 32, 1)),  # cifar100 in grey
    ):
        table = rows(prints(f"--list-models mobilenet_v3* {flags}"))
        assert list(table) == ["mobilenet_v3_large", "mobilenet_v3_small"]
        for name, (px, params, _, year, paper) in table.items():
            assert int(px) == size[1] and int(params.replace(",", "")) == count(name, *size)
            assert (year, paper) == ("2019", "arXiv:1905.02244")


def test_flops_are_those_counted_by_hand(prints):
    """resnet20 for 100 classes at 32 px: each product of a convolution comes with one addition."""
    products = 3 * 16 * 9 * 32**2 + 6 * 16 * 16 * 9 * 32**2
    products += (16 * 32 + 5 * 32 * 32) * 9 * 16**2
    products += (32 * 64 + 5 * 64 * 64) * 9 * 8**2
    products += 64 * 100
    assert rows(prints("--list-models resnet20"))["resnet20"][2] == f"{2 * products / 1e6:.2f} M"


def test_a_model_that_does_not_work_at_the_size_is_shown_as_such(prints):
    table = rows(prints("--list-models *11* --dataset digits"))
    assert table["vgg11"][:2] == ["8", "not for this size"]
    assert table["resnet110"][:2] == ["8", f"{count('resnet110', 10, 8, 1):,}"]


def test_the_folder_of_a_data_set_tells_classes_size_and_channels(prints, workdir):
    for name in ("a", "b", "c", "d"):
        (workdir / "set/train" / name).mkdir(parents=True)
        Image.new("L", (20, 20)).save(workdir / "set/train" / name / "0.png")
    out = prints("--list-models resnet20 --dataset folder --data-path set")
    assert rows(out)["resnet20"][:2] == ["20", f"{count('resnet20', 4, 20, 1):,}"]
    assert "for folder: 4 classes, grey" in out


@pytest.mark.parametrize(
    ("pattern", "some"),
    [
        ("timm/resnet10*", {"timm/resnet10t", "timm/resnet101"}),
        ("torchvision/vit", {"torchvision/vit_b_16", "torchvision/vit_h_14"}),
    ],
)
def test_models_of_the_libraries_are_listed_by_name(prints, pattern, some):
    lines = prints(f"--list-models {pattern}").splitlines()
    assert some <= set(lines) and all(line.startswith(pattern.rstrip("*")) for line in lines)


@pytest.mark.parametrize(
    ("line", "needle"),
    [
        ("--list-models nosuch", "no model matches"),
        ("--list-models timm/nosuch*", "no model matches"),
        ("--list-models resnet20 --dataset cifar11", "unknown data set 'cifar11'. Did you mean cifar10"),
        ("--list-models resnet20 --dataset folder", "needs --datapath"),
        ("--list-models timm/resnet10t --dataset cifar10", "--dataset has no effect"),
        ("--list-models torchvision/vit --img-size 64", "--img-size has no effect"),
        ("--summary --model vgg11 --dataset digits", "8 px is too small"),
        ("--summary --model torchvision/vit_b_16 --img-size 30", "torchvision/vit_b_16 cannot be built for 30 px"),
        ("--summary --model resnet20 --stem cifar", "--stem has no effect"),
        ("--summary --model timm/resnet10t --model-arg wings=2", "wings"),
        ("--summary --model resnet21", "unknown model"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(command, line, needle):
    status, out, err = command(line)
    assert status == 2 and needle in err and err.startswith("main.py: error: ") and len(err.splitlines()) == 1
    assert out == ""


# ------------------------------------------------------------------------------------------------------------ --summary


def layers(summary: str) -> list[tuple[str, list[int], int]]:
    """(kind and name, output shape, parameters) per line of a summary's table."""
    found = re.findall(r"^[│├└─ ]*(\w+ \(\w+\)) +\[([\d, ]+)\] +(--|[\d,]+)$", summary, re.MULTILINE)
    return [
        (name, [int(side) for side in shape.split(", ")], 0 if params == "--" else int(params.replace(",", "")))
        for name, shape, params in found
    ]


@pytest.mark.parametrize(
    ("flags", "size", "last"),
    [
        ("--model resnet20", (10, 8, 1), "Linear (fc)"),
        ("--model deit_tiny_distill --dataset cifar100", (100, 32, 3), "Linear (head_dist)"),
        ("--model timm/resnet10t --dataset cifar10", (10, 32, 3), "Linear (fc)"),
        # its constructor computes with tensors, so it cannot be built without data
        ("--model torchvision/regnet_y_400mf --dataset cifar10 --in-chans 1", (10, 32, 1), "Linear (fc)"),
    ],
)
def test_the_summary_shows_shapes_and_all_parameters(prints, flags, size, last):
    out = prints(f"--summary {flags}")
    table = layers(out)
    name = flags.split()[1]
    total = count(name, *size)
    assert sum(params for _, _, params in table) == total
    assert f"Total params: {total:,}\n" in out
    assert table[0][1] == [1, size[0]]
    assert table[-1][0] == last and table[-1][1] == [1, size[0]]
    assert f"{size[0]} classes, {'grey' if size[2] == 1 else 'colour'} images of {size[1]} px" in out


def test_the_summary_shows_the_layers_inside_of_blocks(prints):
    """Queries, keys and values of 64 patches, class token and distillation token, in each of twelve blocks."""
    table = layers(prints("--summary --model deit_tiny_distill --dataset cifar10"))
    assert table.count(("Linear (qkv)", [1, 66, 3 * 192], 192 * 3 * 192 + 3 * 192)) == 12


def test_torchinfos_own_counts_are_left_out(prints):
    """Its mult-adds carry the unit "Units.MEGABYTES", and its megabytes leave parameters out."""
    out = prints("--summary --model torchvision/vit_b_32 --dataset cifar10 --img-size 64")
    assert "mult-adds" not in out and "Units" not in out and "(MB)" not in out
    assert f"Total params: {count('torchvision/vit_b_32', 10, 64, 3):,}\n" in out


def test_arguments_change_the_summary(prints):
    """The first convolution of a resnet18 for 32 px images has stride 1, or stride 2 with ImageNet's stem."""
    first = {}
    for flags in ("", "--stem imagenet", "--model-arg stem=imagenet"):
        out = prints(f"--summary --model resnet18 --dataset cifar10 {flags}")
        assert f"stem={'imagenet' if flags else 'auto'}" in out
        first[flags] = next(layer for layer in layers(out) if layer[0].startswith("Conv"))
    assert first[""][1:] == ([1, 64, 32, 32], 64 * 3 * 9)
    assert first["--stem imagenet"][1:] == ([1, 64, 16, 16], 64 * 3 * 49)
    assert first["--model-arg stem=imagenet"] == first["--stem imagenet"]


def test_arguments_of_a_librarys_model_change_the_summary(prints):
    narrow = prints("--summary --model timm/resnet10t --dataset digits --model-arg stem_width=16")
    assert "arguments: stem_width=16" in narrow
    assert f"Total params: {count('timm/resnet10t', 10, 8, 1, stem_width=16):,}\n" in narrow


def test_without_torchinfo_the_package_is_named(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchinfo", None)
    status, _, err = command("--summary")
    assert status == 2 and "pip install torchinfo" in err and len(err.splitlines()) == 1
