"""The menu through a pseudo-terminal, as a user sees it, with a small data set in CIFAR-10's published format."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import pty
import re
import select
import shlex
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import menu
from settings.scripts import SCRIPTS
from settings.terminal import run_script
from utils import RunFailed

REPO = Path(__file__).resolve().parents[2]
PATIENCE = 120  # seconds for one step
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
MENU = "5  Exit\nchoice: "

DRIVER = """
import fcntl, json, signal, sys, termios, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C reaches this process
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
facts = json.loads(sys.argv[1])
if facts:
    from torchvision import datasets
    for name, value in facts.items():
        setattr(datasets.CIFAR10, name, value)
    sys.modules["wandb"] = None

    from training.stopping import Stop
    from training.progress import Progress
    begin, requested = Progress.start_epoch, Stop.requested

    def waiting(self):  # a training of twelve epochs stands still at its first step, for Ctrl-C
        if "1/12" in Progress.at:
            print("standing still", flush=True)
            while self.signal is None:
                time.sleep(0.01)
        return requested(self)

    def noting(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        Progress.at = self.title

    Progress.at, Progress.start_epoch, Stop.requested = "", noting, waiting
import main
from settings.terminal import run_script
sys.argv = ["main.py"]
sys.exit(run_script(main.main))
"""


class Terminal:
    """Runs `python main.py` without flags in its own terminal."""

    def __init__(self, folder: Path, facts: dict | None = None):
        self.screen, side = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, json.dumps(facts or {})],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPO)},
            stdin=side,
            stdout=side,
            stderr=side,
            start_new_session=True,
        )
        os.close(side)
        self.shown = ""  # all output
        self.seen = 0  # length of the output already waited for

    def _read(self, timeout: float) -> bool:
        """Reads output; False after a timeout. Raises OSError at the end of output."""
        if not select.select([self.screen], [], [], max(0, timeout))[0]:
            return False
        text = os.read(self.screen, 65536)
        if not text:
            raise OSError("end of output")
        self.shown = (self.shown + text.decode()).replace("\r\n", "\n")
        return True

    def until(self, text: str, patience: float = PATIENCE) -> str:
        """Waits for `text`. Returns the output from the end of the last call up to it."""
        end = time.monotonic() + patience
        while text not in self.shown[self.seen :]:
            try:
                came = self._read(end - time.monotonic())
            except OSError:
                came = False
            assert came, f"waited for {text!r}:\n{self.shown}"
        start, self.seen = self.seen, self.shown.index(text, self.seen) + len(text)
        return self.shown[start : self.seen]

    def type(self, *lines: str) -> None:
        """Answers one question after another."""
        for line in lines:
            self.until(": ")
            os.write(self.screen, f"{line}\n".encode())

    def press(self, key: bytes) -> None:
        os.write(self.screen, key)

    def interrupt_question(self, answer: str) -> None:
        """Presses Ctrl-C, and again if it came between the question and the wait for its answer: Python then keeps
        waiting."""
        for _ in range(PATIENCE):
            self.press(b"\x03")
            try:
                self.until(answer, patience=1)
                return
            except AssertionError:
                assert self.process.poll() is None, self.shown
        raise AssertionError(self.shown)

    def end(self) -> int:
        """Waits for the exit status."""
        stop = time.monotonic() + PATIENCE
        try:
            while time.monotonic() < stop and self._read(stop - time.monotonic()):
                pass
        except OSError:
            pass
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.screen)


@pytest.fixture
def terminal(workdir):
    opened = Terminal(workdir)
    yield opened
    opened.close()


def commands(shown: str) -> list[str]:
    return re.findall(r"^python main\.py (.+)$", shown, re.MULTILINE)


# ------------------------------------------------------------------------------------------------------------ questions


def test_exit(terminal, workdir):
    shown = terminal.until(MENU)
    for line in ("1  Initialize Dataset (CIFAR-10)", "2  Test Dataset", "3  Train MobileNetV3-Small"):
        assert line in shown
    assert "4  Train DeiT-Tiny" in shown
    terminal.press(b"5\n")
    assert terminal.end() == 0
    assert list(workdir.iterdir()) == []


def test_nonsense_is_asked_again(terminal):
    terminal.type("6", "", "three", "3", "nowhere", "many", "0", "1.5", "2", "fast", "-1", "nan", "0.01", "0", "8")
    shown = terminal.until(MENU)
    for question, times in (("choice", 4), ("folder of CIFAR-10", 1), ("epochs", 4), ("learning rate", 4)):
        assert terminal.shown.removesuffix(MENU).count(f"\n{question}") == times, question
    assert "'three' is not a number from 1 to 5" in terminal.shown
    assert "'1.5' is not a whole number from 1" in terminal.shown
    assert "'nan' is not a number above 0" in terminal.shown
    (line,) = commands(terminal.shown)
    assert "--epochs 2 --batch-size 8 " in line and "--lr 0.01 " in line
    assert "that cannot be done: --datapath nowhere: no such folder" in shown


COMMON = {
    "dataset": "cifar10",
    "img_size": 224,
    "normalization": "half",
    "val_fraction": 0.2,
    "optimizer": "adam",
    "weight_decay": 0.0,
    "select_by": "map",
}


@pytest.mark.parametrize(
    ("answers", "settings"),
    [
        (
            ["3", "", "", "", ""],
            {"model": "mobilenet_v3_small", "data_path": "data", "epochs": 10, "lr": 0.001, "batch_size": 32},
        ),
        (
            ["4", "my data/it's", "", "", ""],
            {"model": "deit_tiny", "data_path": "my data/it's", "epochs": 10, "lr": 0.0005, "batch_size": 32},
        ),
        (
            ["4", "~/data", "30", "0.00012345678", "48"],
            {"model": "deit_tiny", "data_path": str(Path("~/data").expanduser()), "epochs": 30, "lr": 0.00012345678,
             "batch_size": 48, "schedule": "step", "step_size": 10, "gamma": 0.1},
        ),
        (["3", "", "11", "", ""], {"epochs": 11, "schedule": "step", "step_size": 10, "gamma": 0.1}),
    ],
)  # fmt: skip
def test_the_printed_command_is_accepted_and_says_what_was_asked_for(terminal, workdir, answers, settings):
    terminal.type(*answers)
    terminal.until(MENU)
    (line,) = commands(terminal.shown)
    asked = SCRIPTS["main.py"].ask(shlex.split(line))
    parsed, given = asked.settings.flat(), asked.given
    expected = {"schedule": "constant", **COMMON, **settings}
    assert asked.mode == "train" and {key: parsed[key] for key in expected} == expected
    assert ("step_size" in given) == ("gamma" in given) == (parsed["epochs"] > 10)


def test_defaults_are_shown_and_the_last_folder_becomes_one(terminal):
    terminal.type("2", "elsewhere", "4", "", "", "", "")
    terminal.until(MENU)
    for question in ("folder of CIFAR-10 [data]", "folder of CIFAR-10 [elsewhere]", "epochs [10]",
                     "learning rate [0.0005]", "batch size [32]"):  # fmt: skip
        assert terminal.shown.count(f"{question}: ") == 1
    assert [shlex.split(line)[3] for line in commands(terminal.shown)] == ["elsewhere", "elsewhere"]


def test_names_of_runs_that_are_there_are_not_taken_again(terminal, workdir):
    for name in ("cifar10-deit_tiny", "cifar10-deit_tiny-2"):
        (workdir / "runs" / name).mkdir(parents=True)
    terminal.type("4", "", "", "", "", "3", "", "", "", "")
    terminal.until(MENU)
    names = [shlex.split(line)[-1] for line in commands(terminal.shown)]
    assert names == ["cifar10-deit_tiny-3", "cifar10-mobilenet_v3_small"]


@pytest.mark.parametrize("answers", [[], ["3", ""]])
def test_leaving_at_a_question(workdir, answers):
    for key in (b"\x03", b"\x04"):
        terminal = Terminal(workdir)
        try:
            terminal.type(*answers)
            terminal.until(": ")
            if key == b"\x03":
                terminal.interrupt_question("left the menu\n")
            else:
                terminal.press(key)
                terminal.until("left the menu\n")
            assert terminal.end() == 0
            assert terminal.shown.endswith("\nleft the menu\n") and "Traceback" not in terminal.shown
        finally:
            terminal.close()


def test_without_a_terminal_there_is_a_line_on_usage(tmp_path):
    command = [sys.executable, str(REPO / "main.py")]
    result = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and "usage: main.py" in result.stderr


def test_what_fails_while_running_is_one_line_and_the_menu_comes_again(monkeypatch, capsys):
    answers = iter(["2", "data", "2", "data", "5"])
    errors = iter([RunFailed("no memory\nat all"), PermissionError(13, "Permission denied", "x.png")])
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    monkeypatch.setattr("sys.argv", ["main.py"])

    def run(words):
        raise next(errors)

    assert menu.run_menu(run) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "that failed: no memory at all" in lines
    assert "that failed: [Errno 13] Permission denied: 'x.png'" in lines
    assert lines.count("5  Exit") == 3


def test_an_error_of_the_program_is_not_taken_for_the_end_of_input(monkeypatch):
    answers = iter(["2", "data"])
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    monkeypatch.setattr("sys.argv", ["main.py"])

    def run(words):
        raise EOFError("a truncated file")

    with pytest.raises(EOFError):
        menu.run_menu(run)


# ------------------------------------------------------------------------------------------------------------- CIFAR-10


def small_cifar10(root: Path) -> dict:
    """Writes CIFAR-10's archive with 5 + 2 images per class. Returns the attributes that torchvision stores for the
    published one."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    batches = [f"data_batch_{i}" for i in range(1, 6)]
    for name, per_class in (*((batch, 1) for batch in batches), ("test_batch", 2)):
        labels = np.repeat(np.arange(10), per_class)
        data = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels.tolist()}, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}, protocol=2))
    archive = root / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)

    def md5(path: Path) -> str:
        return hashlib.md5(path.read_bytes()).hexdigest()

    return {
        "train_list": [[name, md5(folder / name)] for name in batches],
        "test_list": [["test_batch", md5(folder / "test_batch")]],
        "meta": {"filename": "batches.meta", "key": "label_names", "md5": md5(folder / "batches.meta")},
        "tgz_md5": md5(archive),
        "url": "file:///nowhere/cifar-10-python.tar.gz",  # as without a network
    }


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A user's session in the menu: (folder, torchvision's attributes of the archive, output of each step, status).

    The folder "data" holds only the archive; "elsewhere" does not exist.
    """
    root = tmp_path_factory.mktemp("menu")
    facts = small_cifar10(root / "source")
    folder = root / "work"
    (folder / "data").mkdir(parents=True)
    (root / "source/cifar-10-python.tar.gz").rename(folder / "data/cifar-10-python.tar.gz")
    terminal = Terminal(folder, facts)
    steps = {}
    try:
        terminal.until(MENU)
        for name, answers in (
            ("no network", ["1", "elsewhere"]),
            ("initialize", ["1", "data"]),
            ("test", ["2", ""]),
            ("train", ["3", "", "1", "", "16"]),
        ):
            terminal.seen -= len(": ")
            terminal.type(*answers)
            steps[name] = terminal.until(MENU)
        terminal.seen -= len(": ")
        terminal.type("3", "", "12", "", "16")
        steps["train again"] = terminal.until("standing still")
        terminal.press(b"\x03")
        status = terminal.end()
        steps["interrupted"] = terminal.shown[terminal.seen :]
    finally:
        terminal.close()
    assert "Traceback" not in terminal.shown, terminal.shown
    return folder, facts, steps, status


def test_initialising_without_a_network_is_one_line_and_the_menu_comes_again(session):
    _, facts, steps, _ = session
    (said,) = [line for line in steps["no network"].splitlines() if line.startswith("that cannot be done")]
    assert f"{facts['url']} cannot be downloaded" in said and "put cifar-10-python.tar.gz into elsewhere" in said


def test_initialising_unpacks_and_counts(session):
    folder, _, steps, _ = session
    (line,) = commands(steps["initialize"])
    assert "--download" in line.split()
    assert (folder / "data/cifar-10-batches-py/batches.meta").is_file()
    for name in ("initialize", "test"):  # one image of five per class, like the validation of the trainings
        for label in CLASSES:
            assert re.search(rf"^{label} +4 +1 +2$", steps[name], re.MULTILINE)
        assert re.search(r"^all +40 +10 +20$", steps[name], re.MULTILINE)


def test_testing_shows_statistics_and_a_picture(session):
    folder, _, steps, _ = session
    (line,) = commands(steps["test"])
    assert "--download" not in line.split()
    half = "0.5000, 0.5000, 0.5000"
    assert f"mean {half}; deviation {half} (half)" in steps["test"]
    pixels = []
    for path in sorted((folder / "data/cifar-10-batches-py").glob("data_batch_*")):
        with path.open("rb") as file:
            pixels.append(pickle.load(file)["data"].reshape(-1, 3, 1024) / 255)
    pixels = np.concatenate(pixels)
    mean, std = (", ".join(f"{value:.4f}" for value in f(pixels, axis=(0, 2))) for f in (np.mean, np.std))
    assert f"mean {mean}; deviation {std} " in steps["test"]
    with Image.open(folder / "cifar10-samples.png") as picture:
        assert picture.format == "PNG" and np.asarray(picture.convert("L")).std() > 30


def test_training_does_what_it_says(session):
    folder, _, steps, _ = session
    directory = folder / "runs/cifar10-mobilenet_v3_small"
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["images"] == {"train": 40, "val": 10, "test": 20}
    assert summary["selected_by"] == "map" and (directory / "best.pth").is_file()
    assert "mobilenet_v3_small: 1,528,106 parameters" in steps["train"]  # Howard et al.'s, with a head for ten classes
    assert "colour images of 224 px (from 32 px)" in steps["train"]
    (line,) = commands(steps["train"])
    stored = json.loads((directory / "settings.json").read_text())
    assert shlex.split(stored["command"])[1:] == ["main.py", *shlex.split(line)]


def test_the_printed_command_does_the_same_outside_of_the_menu(session, monkeypatch, capsys):
    from torchvision import datasets

    import main

    folder, facts, steps, _ = session
    (line,) = commands(steps["train"])
    for name, value in facts.items():
        monkeypatch.setattr(datasets.CIFAR10, name, value)
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["main.py", *shlex.split(line), "--run-name", "again"])
    assert run_script(main.main) == 0, capsys.readouterr().err
    first, again = folder / "runs/cifar10-mobilenet_v3_small", folder / "runs/again"
    settings = [json.loads((path / "settings.json").read_text())["settings"] for path in (first, again)]
    assert settings[0].pop("run_name") == "cifar10-mobilenet_v3_small" and settings[1].pop("run_name") == "again"
    assert settings[0] == settings[1]
    losses = [json.loads((path / "summary.json").read_text())["loss"] for path in (first, again)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_second_training_has_a_name_of_its_own_and_ctrl_c_stops_it(session):
    folder, _, steps, status = session
    (line,) = commands(steps["train again"])
    assert shlex.split(line)[-1] == "cifar10-mobilenet_v3_small-2"
    assert status == 130
    assert "main.py: stopped by SIGINT" in steps["interrupted"]
    assert not (folder / "runs/cifar10-mobilenet_v3_small-2/summary.json").exists()
    assert (folder / "runs/cifar10-mobilenet_v3_small/summary.json").is_file()
