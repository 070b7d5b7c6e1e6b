"""The README's commands work: each is run, shortened to one epoch; the CIFAR-100 lines are run by test_main."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from test_main import BCE_LINE, SGD_LINE, VGG_LINE

from training.flags import FLAGS

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("python main.py ")
]


def test_the_cifar_100_lines_are_those_that_are_tested():
    documented = [line.removeprefix("python main.py ") for line in COMMANDS if "--wandb_run_name" in line]
    assert documented == [VGG_LINE, SGD_LINE, BCE_LINE]


def test_every_other_command_works(cli, workdir, image_folder):
    Image.new("L", (8, 8)).save(workdir / "IMAGE.png")
    path = str(image_folder(side=32))
    first = cli("--dataset digits --model resnet20 --epochs 1 --run-name digits")  # what `make train` leaves
    assert first.status == 0
    others = [line for line in COMMANDS if "--wandb_run_name" not in line]
    assert len(others) >= 8
    for line in others:
        words = [path if word == "PATH" else word for word in shlex.split(line)[2:]]
        if "--epochs" in words:
            words[words.index("--epochs") + 1] = "1"
        result = cli("", *words)
        assert result.status == 0, line + "\n" + result.err


@pytest.mark.parametrize("flag", re.findall(r"`(--[a-z-]+)", README))
def test_every_flag_that_is_mentioned_exists(flag):
    names = {name for f in FLAGS.values() for name in (f.name, *f.aliases, *([f"no-{f.name}"] if f.negatable else []))}
    assert flag.removeprefix("--") in names | {"help"}


def test_every_picture_is_there():
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert pictures
    for picture in pictures:
        assert (Path(__file__).resolve().parent.parent / picture).is_file()
