"""Commands in child processes that tests can kill. They start in a fraction of the time that the imports take."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import random
import socket
import sys
import time
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
# Every module that a run imports.
_context.set_forkserver_preload(
    ["main", "commands.train", "killing", "matplotlib.pyplot", "sklearn.datasets", "torch._dynamo",
     "torch._inductor.config", "torchmetrics.functional.classification", "torchvision.transforms.v2"]
)  # fmt: skip


def start(words: list[str], folder: Path, log: Path, more: dict[str, str] | None = None) -> multiprocessing.Process:
    """Runs main.py with a command line in `folder` and appends its output to `log`.

    Args:
        more: extra environment variables.
    """
    process = _context.Process(target=_run, args=(words, str(folder), str(log), more or {}))
    process.start()
    return process


def start_many(count: int, words: list[str], folder: Path, log: Path) -> list[multiprocessing.Process]:
    """Starts the processes of one distributed training, as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return [start(words, folder, log, {**where, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)]


def _run(words: list[str], folder: str, log: str, more: dict[str, str]) -> None:
    import torch

    import main
    from settings import terminal

    multiprocessing.set_start_method("fork", force=True)  # for loader workers, as without a fork server
    os.chdir(folder)
    os.environ.update(more)
    torch.set_num_threads(1)
    sys.argv = ["main.py", *words, "--wandb", "disabled"]
    with Path(log).open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        status = terminal.run_script(main.main)
    sys.exit(status)


def finish(process: multiprocessing.Process, timeout: float = 120) -> int:
    """Waits for the process. Returns its exit status, negative after a signal."""
    process.join(timeout)
    assert process.exitcode is not None, "it does not come to an end"
    return process.exitcode


def wait_for_saves(process: multiprocessing.Process, file: Path, count: int) -> bool:
    """Waits until `file` was replaced `count` times. False if the process ended first."""
    seen, last = 0, _identity(file)
    while seen < count and process.is_alive():
        now = _identity(file)
        if now != last:
            seen, last = seen + 1, now
        time.sleep(0.001)
    return process.is_alive()


def _identity(file: Path):
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def kill_until_done(words: list[str], folder: Path, run: Path, log: Path, seed: int, varied=()) -> int:
    """Starts a run and resumes it until a process finishes. Returns the number of kills.

    Each process is killed (SIGKILL) at a random instant after a random number of checkpoints.

    Args:
        varied: extra words of the command line, for each process in turn.
    """
    rng = random.Random(seed)
    kills = 0
    while True:
        more = varied[kills % len(varied)] if varied else []
        process = start([*words, *more, "--resume", "auto"], folder, log)
        if wait_for_saves(process, run / "last.pth", rng.randint(0, 4) if kills else 1):
            time.sleep(rng.uniform(0, 0.03))
            process.kill()
            process.join()
        if process.exitcode == 0:
            return kills
        assert process.exitcode == -9, log.read_text()
        kills += 1


def stop_after(epochs: int, monkeypatch) -> None:
    """Makes the next training end after `epochs` epochs, as if killed."""
    from training import loop

    train = loop.train

    def killed(state, forward, train_batches, val_batches, config, *others):
        train(state, forward, train_batches, val_batches, dataclasses.replace(config, epochs=epochs), *others)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", killed)
