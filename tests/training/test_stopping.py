"""Signals, time limits, locks, dead workers: a run stops in time, says why, and can be resumed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from killing import finish, start, wait_for_saves
from test_main import QUICK, REPO, assert_same_run

from commands import train
from records import lock
from settings.scripts import SCRIPTS
from training import stopping
from training.progress import Progress
from training.stopping import Stop
from utils import BadRequest

LONG = f"{QUICK} --epochs 40"


@pytest.fixture
def signalled(cli, monkeypatch):
    """Runs a command that gets a signal after a number of batches."""

    def run_command(number: int, batches: int, *words: str):
        step = Progress.step
        seen = 0

        def stepping(self, *args, **kwargs):
            nonlocal seen
            seen += 1
            if seen == batches:
                os.kill(os.getpid(), number)
            step(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Progress, "step", stepping)
            return cli(*words)

    return run_command


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
)
def test_a_signal_saves_after_the_step_and_the_run_ends_with_the_same_bits(signalled, learns, workdir, number, status):
    line = f"{QUICK} --epochs 2 --accumulate 2"
    before = signal.getsignal(number)
    learns(line, "--run-name", "whole")
    result = signalled(number, 6, line, "--run-name", "left")
    assert result.status == status
    assert result.err.splitlines()[-1] == (
        f"main.py: stopped by {signal.Signals(number).name} after epoch 1, step 4; saved in runs/left, --resume"
        " continues it"
    )
    kept = torch.load(workdir / "runs/left/last.pth", weights_only=True)
    assert (kept["epoch"], kept["batch"]) == (1, 2)  # an epoch has five batches; the next step has two
    assert "after epoch 1 of 2, batch 2 of the next" in learns("--resume --run-name left").out
    assert_same_run(workdir / "runs/whole", workdir / "runs/left")
    assert signal.getsignal(number) == before


ask = SCRIPTS["main.py"].ask


def test_a_signal_while_validating_loses_no_step(cli, learns, workdir, monkeypatch):
    line = f"{QUICK} --epochs 2"
    learns(line, "--run-name", "whole")
    check = Stop.check
    seen = 0

    def signalling(self):
        nonlocal seen
        seen += 1
        if seen == 3:  # the first two are before training
            os.kill(os.getpid(), signal.SIGTERM)
        check(self)

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "check", signalling)
        assert cli(line, "--run-name", "left").status == 143
    kept = torch.load(workdir / "runs/left/last.pth", weights_only=True)
    assert (kept["epoch"], kept["batch"], kept["history"]) == (0, 5, [])
    learns("--resume --run-name left")
    assert_same_run(workdir / "runs/whole", workdir / "runs/left")


@pytest.mark.slow
def test_a_second_signal_leaves_at_once_and_harms_nothing(workdir):
    log = workdir / "log"
    process = start([*LONG.split(), "--checkpoint-every", "1", "--run-name", "a"], workdir, log)
    assert wait_for_saves(process, workdir / "runs/a/last.pth", 3)
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(stopping.SAME_REQUEST_SECONDS + 0.1)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGINT)
    assert finish(process) in (130, 143)  # 143 if the run had stopped before the second signal came
    for name in ("last.pth", "previous.pth"):
        assert torch.load(workdir / "runs/a" / name, weights_only=True)["step"] >= 1


@pytest.mark.parametrize(("pause", "status"), [(0.0, 143), (stopping.SAME_REQUEST_SECONDS + 0.1, 130)])
def test_a_signal_that_is_repeated_at_once_is_one_request(pause, status):
    """SLURM preempts a job with two SIGTERM within milliseconds: the second must not keep it from saving."""
    code = f"""
import os, signal, sys, time
from training.stopping import Stop
stop = Stop()
with stop.listening():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep({pause})
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.requested()
sys.exit(stop.status)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, check=False).returncode == status


def test_the_time_limit_saves_and_leaves(cli, learns, workdir, monkeypatch):
    result = cli(LONG, "--run-name", "a", "--max-minutes", "0.02")
    assert result.status == 143 and "stopped by --max-minutes 0.02 after epoch" in result.err
    assert not (workdir / "runs/a/summary.json").exists()
    assert "max_minutes" not in json.loads((workdir / "runs/a/settings.json").read_text())["settings"]


def test_a_slurm_job_ends_before_its_time_limit(monkeypatch):
    now = time.time()
    monkeypatch.setenv("SLURM_JOB_START_TIME", str(int(now - 7200)))
    for left, requested in ((3600, False), (100, True)):
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(now + left)))
        stop = Stop()
        assert stop.requested() is requested
    assert (stop.reason, stop.status) == ("the time limit of the SLURM job", 143)
    monkeypatch.setenv("SLURM_JOB_START_TIME", str(int(now)))  # the last ten seconds of a job of 100
    assert not Stop().requested()
    assert stopping.MARGIN == 120


def test_resume_auto_starts_continues_and_is_done(signalled, learns, workdir):
    line = f"{QUICK} --epochs 2 --resume auto"
    whole = learns(line, "--run-name", "whole")
    assert "resumed" not in whole.out
    assert "finished already" in learns(line, "--run-name", "whole").out
    assert signalled(signal.SIGUSR1, 3, line, "--run-name", "left").status == 138
    assert "resumed       after epoch 0 of 2, batch 3 of the next" in learns(line, "--run-name", "left").out
    assert_same_run(workdir / "runs/whole", workdir / "runs/left")


def test_resume_auto_needs_no_name_and_refuses_other_flags(cli, learns, workdir):
    line = f"{QUICK} --epochs 1 --resume auto"
    learns(line)
    (workdir / "runs/digits-resnet20-seed0/summary.json").unlink()
    assert "resumed       after epoch 1 of 1" in learns(line).out
    result = cli(f"{line} --lr 0.7")
    assert result.status == 2 and "--lr 0.7: the run to be resumed has" in result.err
    result = cli(f"{line} --overwrite")
    assert result.status == 2 and "contradict each other" in result.err
    assert cli(f"{QUICK} --resume always").status == 2


def test_resume_finds_a_run_that_was_named_automatically(signalled, cli, learns, workdir):
    learns(f"{QUICK} --epochs 2 --run-name whole")
    assert signalled(signal.SIGTERM, 3, f"{QUICK} --epochs 2").status == 143
    assert "resumed       after epoch 0 of 2, batch 3 of the next" in learns(f"{QUICK} --resume").out
    assert_same_run(workdir / "runs/whole", workdir / "runs/digits-resnet20-seed0")
    result = cli("--dataset digits --model resnet20 --seed 3 --resume")
    assert result.status == 2 and "there is no run in runs/digits-resnet20-seed3, the name that" in result.err


def test_a_recipe_that_names_the_model_names_the_run_for_every_kind_of_start(workdir, cifar100_folder):
    words = ["--data-path", str(cifar100_folder), "--recipe", "cifar-fast"]
    names = [ask([*words, *more]).settings.run.run_name for more in ([], ["--resume", "auto"])]
    assert names == ["cifar100-airbench94-seed0"] * 2
    with pytest.raises(BadRequest, match="no run in runs/cifar100-airbench94-seed0, the name"):
        ask([*words, "--resume"])
    assert ask([*words, "--model", "resnet20", "--resume", "auto"]).settings.run.run_name.startswith(
        "cifar100-resnet20"
    )


def test_a_second_process_is_refused_while_the_first_lives(cli, workdir):
    log = workdir / "log"
    process = start([*LONG.split(), "--run-name", "a"], workdir, log)
    assert wait_for_saves(process, workdir / "runs/a/last.pth", 1)
    for more in ("--resume", "--overwrite"):
        result = cli(LONG, "--run-name", "a", more)
        assert result.status == 2, result
        assert f"runs/a: process {process.pid} on " in result.err and "is at work on this run" in result.err
    assert process.is_alive()
    process.kill()
    process.join()
    with lock.locked(workdir / "runs/a"):  # a dead process holds nothing
        pass


def test_a_lock_is_let_go_of_at_the_end_of_the_block(tmp_path):
    with lock.locked(tmp_path):
        code = (
            f"import sys; sys.path.insert(0, {str(REPO)!r})\n"
            "from pathlib import Path; from records import lock\n"
            f"with lock.locked(Path({str(tmp_path)!r})): pass"
        )
        refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "BadRequest" in refused.stderr and f"process {os.getpid()} on" in refused.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(BadRequest, match="cannot be written"), lock.locked(tmp_path / ".lock"):
        pass


def test_a_dead_loader_worker_is_one_line_and_the_run_can_be_resumed(cli, learns, workdir, image_folder, monkeypatch):
    line = (
        f"--dataset folder --datapath {image_folder(side=80)} --img-size 32 --model resnet20 --batch-size 4 --epochs 2"
    )
    learns(line, "--run-name", "whole", "--num-workers", "0")
    save = train.Saver.save

    def killing(self, is_best=None):
        import multiprocessing

        save(self, is_best)
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(train.Saver, "save", killing)
        result = cli(line, "--run-name", "hurt", "--num-workers", "1")
    assert result.status == 1 and "a process that decodes images died" in result.err
    assert len(result.err.splitlines()) == 1
    learns("--resume --run-name hurt")
    assert_same_run(workdir / "runs/whole", workdir / "runs/hurt")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_loader_workers_ignore_signals_to_the_whole_group(workdir, image_folder, number, status):
    words = f"--dataset folder --datapath {image_folder(side=80)} --img-size 32 --model resnet20 --batch-size 4"
    command = [sys.executable, str(REPO / "main.py"), *words.split(), "--epochs", "500", "--num-workers", "2"]
    command += ["--run-name", "a", "--wandb", "disabled"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    while not (workdir / "runs/a/last.pth").is_file():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == status
    assert f"stopped by {number.name}" in output.splitlines()[-1] and "Traceback" not in output
