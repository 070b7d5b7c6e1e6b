"""A study completes although a run fails, continues where it was stopped, and hands signals on."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import termios
import time

import pytest
from fake_training import Studies

from records import lock


@pytest.fixture
def studies(tmp_path):
    return Studies(tmp_path)


def test_a_failure_stops_nothing_and_is_reported_at_the_end(studies):
    studies.write(a="model = 'resnet20'", bad="model = 'vgg11'", c="model = 'resnet18'")
    status, out, err = studies.run()
    assert status == 1
    assert [line.split(":")[0] for line in out.splitlines()[1:]] == [
        "[1/3] a-seed0", "[2/3] bad-seed0", "[3/3] c-seed0",
    ]  # fmt: skip
    assert "a-seed0: finished after" in out and "top-1 75.00 % on test" in out and "bad-seed0: failed after" in out
    assert err.splitlines() == ["bad-seed0: failed (exit status 1): main.py: failed: no memory; see"
                                " runs/s/logs/bad-seed0.log"]  # fmt: skip
    log = (studies.folder / "runs/s/logs/bad-seed0.log").read_text()
    assert log.startswith("$ ") and "--model vgg11" in log and "about to fail" in log
    # Again: finished runs are skipped.
    before = studies.summary("a-seed0").stat().st_mtime_ns
    status, out, err = studies.run()
    assert status == 1 and "3 runs (2 finished, 1 new)" in out and "[3/3] bad-seed0" in out
    assert studies.summary("a-seed0").stat().st_mtime_ns == before
    assert len([line for line in studies.notes() if line.startswith("a-seed0 begins")]) == 1


def test_study_json_tells_what_the_runs_are(studies):
    studies.write(a="model = 'resnet20'", b="model = 'resnet18'")
    assert studies.run("--only", "a")[0] == 0
    content = json.loads((studies.folder / "runs/s/study.json").read_text())
    assert content["name"] == "s" and content["script"] == "main.py" and content["published"] == {}
    assert [(run["name"], run["variant"], run["seed"], run["fraction"]) for run in content["runs"]] == [
        ("a-seed0", "a", 0, None), ("b-seed0", "b", 0, None),
    ]  # fmt: skip
    assert content["runs"][1]["flags"]["model"] == "resnet18"
    assert studies.summary(content["runs"][0]["name"]).is_file()


def test_a_run_with_other_settings_is_reported_and_repeated_only_when_asked(studies):
    studies.write(a="model = 'resnet20'", b="model = 'resnet18'")
    assert studies.run()[0] == 0
    studies.write(a="model = 'resnet20'\nlr = 0.3", b="model = 'resnet18'")
    status, out, err = studies.run()
    assert status == 1 and "2 runs (1 finished, 1 with other settings)" in out
    assert err.splitlines() == ["a-seed0: differs from the study, it was run with --lr 0.1 in place of 0.3; --overwrite"
                                " repeats it, --name keeps it"]  # fmt: skip
    assert len([line for line in studies.notes() if "begins" in line]) == 2
    assert studies.run("--overwrite")[0] == 0
    assert json.loads((studies.folder / "runs/s/a-seed0/settings.json").read_text())["settings"]["lr"] == 0.3
    assert [line for line in studies.notes() if "begins" in line][2:] == ["a-seed0 begins with nothing, None threads"]


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138), (signal.SIGHUP, 129)],
)
def test_a_signal_reaches_the_run_once_which_saves_and_is_continued(studies, number, status):
    studies.write(a="model = 'vgg13'", b="model = 'resnet18'")
    process = studies.start()
    studies.await_note("begins")
    process.send_signal(number)
    studies.await_note("signal")
    process.send_signal(number)  # the same request again, as SLURM preempts
    ended, _, err = studies.finish(process)
    assert ended == status
    assert studies.notes()[1:] == [
        f"a-seed0 signal {number}",
        "a-seed0 saved",
    ]  # the study waited for it; b has not begun
    assert err.splitlines() == [f"study.py: stopped by {signal.Signals(number).name}; the same command continues"]
    assert studies.run()[0] == 0
    assert studies.notes()[3].startswith("a-seed0 begins with a checkpoint")
    assert studies.summary("a-seed0").is_file() and studies.summary("b-seed0").is_file()


def test_a_run_that_leaves_by_itself_before_its_end_is_not_taken_for_finished(studies):
    studies.write(a="model = 'vgg13'", b="model = 'resnet18'")
    process = studies.start()
    studies.await_note("begins")
    child = int(os.popen(f"pgrep -P {process.pid}").read())
    os.kill(child, signal.SIGTERM)
    status, out, err = studies.finish(process)
    assert status == 143 and "[2/2] b-seed0: finished" in out
    assert err.splitlines() == ["a-seed0: saved before its end (exit status 143); the same command continues it"]


def test_trainings_of_a_study_that_was_killed_save_and_the_next_one_continues_them(studies):
    studies.write(a="model = 'vgg13'")
    process = studies.start()
    studies.await_note("begins")
    process.kill()
    process.wait()
    assert studies.run()[0] == 0  # at once, while the training is still saving
    assert studies.notes()[1:3] == [f"a-seed0 signal {signal.SIGTERM}", "a-seed0 saved"]
    assert studies.notes()[3].startswith("a-seed0 begins with a checkpoint")


def test_a_run_that_another_process_holds_is_waited_for_while_others_run(studies):
    studies.write(a="model = 'resnet20'", b="model = 'resnet18'")
    with lock.locked(studies.folder / "runs/s/a-seed0"):
        process = studies.start()
        studies.await_note("b-seed0 ends")
        time.sleep(0.5)
        assert process.poll() is None
    status, out, err = studies.finish(process)
    assert status == 0 and not err
    lines = out.splitlines()[1:]
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    assert lines[0] == f"a-seed0: {holder} is at work on this run; waiting for it"
    assert [line.split(":")[0] for line in lines[1:]] == ["[1/2] b-seed0", "[2/2] a-seed0"]


def test_a_run_that_another_process_took_a_moment_before_has_not_failed(studies):
    studies.write(a="model = 'vgg19'", b="model = 'resnet18'")
    status, out, err = studies.run()
    assert status == 0 and not err
    assert out.count("a-seed0: process ") == 1 and "[2/2] a-seed0: finished" in out


def test_a_study_that_is_stopped_waits_for_nobody(studies):
    studies.write(a="model = 'resnet20'")
    with lock.locked(studies.folder / "runs/s/a-seed0"):
        process = studies.start()
        while "waiting for it" not in (studies.folder / "out").read_text():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert studies.finish(process)[0] == 143


def test_jobs_run_at_once_and_share_the_processors(studies):
    studies.write(a="model = 'vgg16'", b="model = 'vgg16'\nlr = 0.5")  # each waits until the other has begun
    assert studies.run("--jobs", "2")[0] == 0
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert sorted(studies.notes())[0].endswith(f"begins with nothing, {threads} threads")


def test_a_study_with_set_has_a_folder_of_its_own(studies):
    studies.write(a="model = 'resnet20'")
    assert studies.run()[0] == 0
    assert studies.run("--set", "lr=0.5", "--name", "fast")[0] == 0
    stored = [json.loads((studies.folder / f"runs/{name}/a-seed0/settings.json").read_text()) for name in ("s", "fast")]
    assert [one["settings"]["lr"] for one in stored] == [0.1, 0.5]
    # A flag that results do not depend on needs no new name, and no new run.
    status, out, _ = studies.run("--set", "device=cpu")
    assert status == 0 and "1 run (1 finished)" in out


def test_a_terminal_gets_a_bar_for_the_study_and_one_for_each_run(studies):
    studies.write(a="model = 'vgg16'", b="model = 'vgg16'\nlr = 0.5")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 70, 0, 0))
    process = studies.start("--jobs", "2", terminal=slave)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal has closed
        while part := os.read(master, 4096):
            shown += part
    os.close(master)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert "study: 100%" in text and "2/2 [" in text and "a-seed0:   0%" in text and "b-seed0:   0%" in text
    pieces = re.split(r"\x1b\[A|[\r\n]", text)
    assert max(len(piece) for piece in pieces if "%|" in piece) <= 70
