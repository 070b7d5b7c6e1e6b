"""What the surroundings of a command do to it: terminals, pipes, signals, packages, variables."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SCRIPTS = ("main.py", "train_deit_imagenet100.py", "viz_random_10_vit_vs_deit.py", "study.py", "compare.py")
SHORT = "--dataset digits --model resnet20 --train-fraction 0.1 --epochs 1 --wandb disabled --run-name a"


def start(folder: Path, script: str, *words: str, **how) -> subprocess.Popen:
    """A script in a process of its own, with one thread, in `folder`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **how.pop("env", {})}
    return subprocess.Popen([sys.executable, str(REPO / script), *words], cwd=folder, env=environment, **how)


def read_all(handle: int) -> str:
    """What is printed to a terminal until nobody holds its other side."""
    shown = b""
    with contextlib.suppress(OSError):  # how the end of a terminal reads
        while part := os.read(handle, 4096):
            shown += part
    os.close(handle)
    return shown.decode()


def pipe_without_a_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_fits_the_terminal_and_is_always_alike_elsewhere(tmp_path, script):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 72, 0, 0))
    process = start(tmp_path, script, "--help", stdout=follower, env={"COLUMNS": ""})
    os.close(follower)
    shown = read_all(leader).splitlines()
    assert process.wait(timeout=60) == 0
    assert max(map(len, shown)) <= 72 and len(shown) > 20
    piped, _ = start(tmp_path, script, "--help", stdout=subprocess.PIPE, text=True).communicate(timeout=60)
    assert 100 < max(map(len, piped.splitlines())) <= 110


@pytest.mark.parametrize("line", [*(f"{script} --help" for script in SCRIPTS), "main.py --list-models resnet20"])
def test_a_reader_that_leaves_is_no_failure(tmp_path, line):
    writer = pipe_without_a_reader()
    process = start(tmp_path, *line.split(), stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 0


@pytest.mark.parametrize("closed", [False, True])
def test_a_training_that_nobody_listens_to_goes_on(tmp_path, closed):
    """`| head`, and `>&-`."""
    writer = pipe_without_a_reader()
    close = (lambda: os.close(1)) if closed else None
    process = start(
        tmp_path, "main.py", *SHORT.split(), stdout=writer, stderr=subprocess.PIPE, text=True, preexec_fn=close
    )
    os.close(writer)
    assert process.communicate(timeout=120)[1] == "" and process.returncode == 0
    assert json.loads((tmp_path / "runs/a/summary.json").read_text())["epochs"] == 1
