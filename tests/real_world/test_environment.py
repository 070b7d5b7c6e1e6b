"""What the surroundings of a command do to it: terminals, pipes, signals, packages, variables."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch
from test_main import QUICK as DIGITS

import compare
import study
import viz_random_10_vit_vs_deit
from training import scripts

REPO = Path(__file__).resolve().parents[2]
SCRIPTS = ("main.py", "train_deit_imagenet100.py", "viz_random_10_vit_vs_deit.py", "study.py", "compare.py")
QUICK = f"{DIGITS} --epochs 1"
SHORT = f"{QUICK} --wandb disabled --run-name a"


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


def own_terminal(follower: int) -> None:
    """In a new process: it gets what the terminal's end does to those that run in it."""
    os.setsid()
    fcntl.ioctl(follower, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize("nohup", [False, True])
def test_a_run_whose_terminal_is_closed_is_saved_or_goes_on_under_nohup(tmp_path, nohup):
    leader, follower = pty.openpty()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    words = f"{SHORT} --epochs {3 if nohup else 500}".split()
    process = start(tmp_path, "main.py", *words, stdin=follower, stdout=follower, stderr=follower,
                    preexec_fn=lambda: own_terminal(follower))  # fmt: skip
    signal.signal(signal.SIGHUP, before)
    os.close(follower)
    while not (tmp_path / "runs/a/last.pth").is_file():
        select.select([leader], [], [], 0.1)[0] and os.read(leader, 4096)
        assert process.poll() is None
    os.close(leader)
    assert process.wait(timeout=60) == (0 if nohup else 129)
    assert torch.load(tmp_path / "runs/a/last.pth", weights_only=True)["step"] > 0
    assert (tmp_path / "runs/a/summary.json").is_file() == nohup


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def test_every_flag_that_takes_a_path_knows_the_home_folder(home):
    groups = [viz_random_10_vit_vs_deit.GROUPS, study.GROUPS, compare.GROUPS]
    groups += [script.groups for script in scripts.SCRIPTS.values()]
    flags = [flag for group in groups for flags in group.values() for flag in flags]
    words = ("PATH", "FILE", "PNG", "DIR", "CHECKPOINT", "RUN", "STUDY")
    paths = [flag for flag in flags if flag.metavar and any(word in flag.metavar for word in words)]
    paths += [flag for flag in flags if isinstance(flag.metavar, tuple)]
    assert {"evaluate", "predict", "measure", "weights", "runs_dir", "first", "study", "runs"} <= {f.key for f in paths}
    for flag in paths:
        assert flag.check("~/a b") == f"{home}/a b" and flag.check("b~/~") == "b~/~", flag.name
        with pytest.raises(argparse.ArgumentTypeError, match=r"no such home folder; \./~no-one/x is a name"):
            flag.check("~no-one/x")


def test_a_home_folder_in_flags_and_in_a_study_file(cli, learns, workdir, home):
    learns(f"{QUICK} --runs-dir=~/runs --run-name a")
    assert (home / "runs/a/summary.json").is_file() and not list(workdir.iterdir())
    assert learns("--evaluate=~/runs/a/best.pth --runs-dir=~/runs").status == 0
    (workdir / "s.toml").write_text("[base]\ndataset = 'folder'\ndata-path = '~/images'\n[variants.a]\nlr = 0.1\n")
    result = cli("s.toml --dry-run", script=study)
    assert result.status == 2 and f"--datapath {home}/images: no such folder" in result.err
    result = cli("s.toml --dry-run --set data-path=~/others", script=study)
    assert result.status == 2 and f"--datapath {home}/others: no such folder" in result.err


def test_a_run_of_an_earlier_version_that_stored_the_sign_itself_can_be_resumed(learns, workdir, home):
    learns(f"{QUICK} --runs-dir ./~/runs --run-name a")
    settings = workdir / "~/runs/a/settings.json"
    settings.write_text(settings.read_text().replace('"./~/runs"', '"~/runs"'))
    assert "finished already" in learns("--resume --runs-dir ./~/runs --run-name a").out


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
