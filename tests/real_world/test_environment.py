"""The environment of a command: terminals, pipes, signals, packages, variables."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
import torch
from simulated import write_study
from test_main import QUICK as DIGITS

import study
from comparison.request import Request as CompareRequest
from experiments.request import Request as StudyRequest
from image_datasets import decode, image_check
from image_datasets.resized import making
from settings import scripts, terminal
from settings.two_models import TwoModels

REPO = Path(__file__).resolve().parents[2]
SCRIPTS = ("main.py", "train_deit_imagenet100.py", "viz_random_10_vit_vs_deit.py", "study.py", "compare.py")
QUICK = f"{DIGITS} --epochs 1"
SHORT = f"{QUICK} --wandb disabled --run-name a"


def start(folder: Path, script: str, *words: str, **how) -> subprocess.Popen:
    """Starts a script in a child process, with one thread, in `folder`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **how.pop("env", {})}
    return subprocess.Popen([sys.executable, str(REPO / script), *words], cwd=folder, env=environment, **how)


def read_all(handle: int) -> str:
    """Reads a terminal until no process holds its other end."""
    shown = b""
    with contextlib.suppress(OSError):  # a closed terminal raises OSError
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


@pytest.mark.slow
@pytest.mark.parametrize("line", [*(f"{script} --help" for script in SCRIPTS), "main.py --list-models resnet20"])
def test_a_reader_that_leaves_is_no_failure(tmp_path, line):
    writer = pipe_without_a_reader()
    process = start(tmp_path, *line.split(), stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 0


def own_terminal(follower: int) -> None:
    """In a new process: makes the terminal its controlling one, so that closing it sends a signal."""
    os.setsid()
    fcntl.ioctl(follower, termios.TIOCSCTTY, 0)


@pytest.mark.slow
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
def interrupted(monkeypatch):
    """Sends Ctrl-C at the fifth call of a function, and makes each call take `seconds`. Returns the list of calls."""

    def arrange(module, name: str, seconds: float = 0.01) -> list:
        calls, function = [], getattr(module, name)

        def calling(*args):
            calls.append(args)
            if len(calls) == 5:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(seconds)
            return function(*args)

        monkeypatch.setattr(module, name, calling)
        return calls

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    yield arrange
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("what", ["--model resnet20 --run-name a", "--inspect-data a.png"])
def test_ctrl_c_acts_at_once_while_images_are_checked(cli, workdir, image_folder, interrupted, what):
    root = image_folder(parts={"train": 100})
    calls = interrupted(image_check, "read_image")
    result = cli(f"{what} --dataset folder --datapath {root} --check-images --num-workers 2")
    assert result.status == 130 and "Traceback" not in result.err
    assert len(calls) < 50 and not list(workdir.iterdir())


def test_ctrl_c_acts_at_once_while_small_images_are_decoded(cli, workdir, image_folder, interrupted):
    root = image_folder(parts={"train": 150, "test": 2})
    calls = interrupted(decode, "read_pixels")
    result = cli(f"--dataset folder --datapath {root} --model resnet20 --num-workers 2")
    assert result.status == 130 and result.err == "main.py: stopped by SIGINT\n"
    assert len(calls) < 150 and not list(workdir.iterdir())


def test_ctrl_c_acts_at_once_while_copies_are_made_and_what_is_made_is_kept(
    cli, learns, workdir, image_folder, interrupted, monkeypatch
):
    root = image_folder(side=80, parts={"train": 60, "test": 2})
    line = f"--dataset folder --datapath {root} --model resnet20 --img-size 32 --epochs 1 --cache-resized jpeg"
    line += f" --cache-dir {workdir}/copies --num-workers 2 --run-name a"
    with monkeypatch.context() as patch:
        patch.setattr(making, "read_resized", lambda *args, made=making.read_resized: time.sleep(0.02) or made(*args))
        interrupted(making._Writer, "add", seconds=0.0)
        result = cli(line)
    assert result.status == 130 and result.err == "main.py: stopped by SIGINT\n"
    monkeypatch.undo()
    monkeypatch.chdir(workdir)
    (said,) = [one for one in learns(line).out.splitlines() if one.startswith("copy ")]
    assert "180 training images were copied" in said and "180 of 180" not in said


@pytest.fixture
def run_with(tmp_path):
    """Runs a script in a child process after lines of Python that remove something. Returns (status, its only line)."""

    def run(before: str, line: str, *python: str, **environment: str) -> tuple[int, str]:
        script, *words = line.split()
        code = f"import runpy, sys\nsys.argv = {[script, *words]!r}\n{before}\n"
        code += f"runpy.run_path({str(REPO / script)!r}, run_name='__main__')"
        done = subprocess.run([sys.executable, *python, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(REPO), **environment})  # fmt: skip
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.returncode, done.stderr.strip()

    return run


ADVICE = f"not installed for {sys.executable}; run .venv/bin/python, which `make train` sets up, or install"


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("main.py --dataset digits", "torch>=2.11, torchvision>=0.26, numpy>=1.26, ... (4 more)"),
        ("main.py --list-models", "torch>=2.11"),
        ("main.py --model timm/resnet10t", "timm>=1.0.20"),
        ("main.py --optimizer lamb", "timm>=1.0.20"),
        ("train_deit_imagenet100.py --data-path {shards}", "torch>=2.11"),
        ("study.py {repo}/studies/quick_digits.toml", "torch>=2.11"),
        ("compare.py {runs}", "numpy>=1.26, scipy>=1.15, statsmodels>=0.14, ... (3 more)"),
        ("viz_random_10_vit_vs_deit.py --first {file} --second {file}", "torch>=2.11"),
    ],
)
def test_outside_the_environment_each_script_says_in_one_line_what_is_missing(
    run_with, tmp_path, shards, line, missing
):
    write_study(tmp_path / "runs/s", {"resnet20": 0.9, "vit": 0.8})
    before = sorted(tmp_path.rglob("*"))
    places = {"shards": shards(), "repo": REPO, "runs": tmp_path / "runs/s", "file": REPO / "main.py"}
    status, said = run_with("", line.format(**places), "-S")  # -S: Python without site-packages
    assert status == 2 and said.startswith(f"{line.split()[0]}: error: {missing}") and ADVICE in said
    assert [path for path in sorted(tmp_path.rglob("*")) if "shards" not in path.parts] == before


def test_a_package_that_only_the_end_of_a_training_needs_is_missed_at_its_start(run_with, tmp_path):
    status, said = run_with("sys.modules['matplotlib'] = None", f"main.py {SHORT}")
    assert status == 2 and said.startswith(f"main.py: error: matplotlib>=3.8 is {ADVICE}")
    status, said = run_with("sys.modules['sklearn'] = None", f"main.py {SHORT}")
    assert status == 2 and said.startswith(f"main.py: error: scikit-learn>=1.4 is {ADVICE}")
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_too_old_is_named_with_what_it_should_be(run_with, tmp_path):
    old = tmp_path / "old"
    (old / "torch-1.9.1.dist-info").mkdir(parents=True)
    (old / "torch-1.9.1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.9.1+cu111\n")
    (old / "torch.py").write_text("class Tensor: pass\n")
    status, said = run_with("", f"main.py {SHORT}", PYTHONPATH=f"{REPO}:{old}")
    assert status == 1 and said.startswith("main.py: failed: ImportError: cannot import name 'nn' from 'torch'")
    assert "; torch 1.9.1+cu111 is installed, torch>=2.11 is needed; run .venv/bin/python, which" in said


def test_a_package_that_is_missed_later_is_named_too(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert terminal.run_script(lambda: importlib.import_module("timm")) == 1
    assert f" failed: timm>=1.0.20 is {ADVICE}" in capsys.readouterr().err


def test_an_error_that_no_package_is_to_blame_for_keeps_its_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        terminal.run_script(lambda: 1 / 0)
    monkeypatch.setattr("importlib.metadata.version", lambda package: "9999")
    with pytest.raises(ModuleNotFoundError):
        terminal.run_script(lambda: importlib.import_module("training.nowhere"))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def test_every_flag_that_takes_a_path_knows_the_home_folder(home):
    titles = [TwoModels.titles(), StudyRequest.titles(), CompareRequest.titles()]
    titles += [script.titles for script in scripts.SCRIPTS.values()]
    flags = [flag for groups in titles for flags in groups.values() for flag in flags]
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


@pytest.mark.slow
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
