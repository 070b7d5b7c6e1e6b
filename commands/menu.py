"""The menu of `python main.py` at a terminal: compares MobileNetV3-Small with DeiT-Tiny on CIFAR-10.

Every choice prints its command line and runs exactly that.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from settings.flag_types import COUNT, POSITIVE, path
from utils import BadRequest, RunFailed

ITEMS = ("Initialize Dataset (CIFAR-10)", "Test Dataset", "Train MobileNetV3-Small", "Train DeiT-Tiny", "Exit")
FOLDER = "data"
PICTURE = "cifar10-samples.png"
RUNS = "runs"
# For both models: pixels in [-1, 1], images of 224 px, a fifth of the training images for validation.
PROTOCOL = ("--img-size", "224", "--normalization", "half", "--val-fraction", "0.2")
STEP_SIZE = 10  # epochs until the learning rate is divided by ten


class _Left(Exception):
    """End of input, or Ctrl-C at a question."""


def run_menu(run: Callable[[list[str]], int]) -> int:
    """Shows the menu until Exit, end of input or Ctrl-C at a question. Returns the exit status.

    Failures are printed as one line, and the menu returns. Ctrl-C during a command ends the program.

    Args:
        run: runs the words of a command line.
    """
    folder = FOLDER
    try:
        while True:
            print()
            for number, item in enumerate(ITEMS, 1):
                print(f"{number}  {item}")
            choice = _ask("choice", None, _item)
            if choice == len(ITEMS):
                return 0
            folder = _ask("folder of CIFAR-10", folder, path)
            words = _command(choice, folder)
            print(f"\npython main.py {shlex.join(words)}\n", flush=True)
            _attempt(run, words)
    except _Left:
        print("\nleft the menu")
        return 0


def _attempt(run: Callable[[list[str]], int], words: list[str]) -> None:
    sys.argv = [sys.argv[0], *words]  # settings.json records this command line
    try:
        run(words)
    except BadRequest as error:
        print(f"that cannot be done: {error}".replace("\n", " "))
    except (RunFailed, OSError) as error:
        print(f"that failed: {error}".replace("\n", " "))


def _command(choice: int, folder: str) -> list[str]:
    """Returns the words after main.py for an item. To train, first asks for epochs, learning rate and batch size."""
    data = ["--dataset", "cifar10", "--data-path", folder]
    if choice in (1, 2):
        fetch = ["--download"] if choice == 1 else []
        return [*data, *fetch, *PROTOCOL, "--inspect-data", PICTURE]
    model, default_lr = ("mobilenet_v3_small", 0.001) if choice == 3 else ("deit_tiny", 0.0005)
    epochs = _ask("epochs", 10, COUNT)
    lr = _ask("learning rate", default_lr, POSITIVE)
    batch_size = _ask("batch size", 32, COUNT)
    step = ["--schedule", "step", "--step-size", str(STEP_SIZE), "--gamma", "0.1"]
    schedule = step if epochs > STEP_SIZE else ["--schedule", "constant"]  # a shorter training ends before any decay
    return [*data, "--model", model, *PROTOCOL, "--optimizer", "adam", "--lr", str(lr), *schedule,
            "--epochs", str(epochs), "--batch-size", str(batch_size), "--select-by", "map",
            "--run-name", _free_name(f"cifar10-{model}")]  # fmt: skip


def _free_name(name: str) -> str:
    number, free = 1, name
    while (Path(RUNS) / free).exists():
        number += 1
        free = f"{name}-{number}"
    return free


def _item(text: str) -> int:
    if text not in [str(number) for number in range(1, len(ITEMS) + 1)]:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {len(ITEMS)}")
    return int(text)


def _ask(question: str, default: Any, check: Callable[[str], Any]) -> Any:
    """Asks until the answer passes `check`, and returns it. An empty answer selects the default, if there is one."""
    shown = "" if default is None else f" [{default}]"
    while True:
        try:
            answer = input(f"{question}{shown}: ").strip()
        except (EOFError, KeyboardInterrupt):
            raise _Left from None
        if not answer and default is not None:
            return default
        try:
            return check(answer)
        except argparse.ArgumentTypeError as error:
            print(error)
