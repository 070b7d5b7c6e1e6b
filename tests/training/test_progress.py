"""Progress is a bar on a terminal, and a line a minute elsewhere."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import pytest

from training.progress import Progress, describe_epoch

REPO = Path(__file__).resolve().parents[2]
QUICK = "--dataset digits --model resnet20 --batch-size 64 --train-fraction 0.2 --epochs 1"


def test_a_row_with_mixed_targets_says_agreement():
    row = {"epoch": 1, "lr": 0.1, "train_loss": 1.0, "train_agreement_top1": 0.5}
    assert "agreement 50.00 %" in describe_epoch(row)


def test_a_log_tells_once_a_minute_how_long_the_epoch_and_the_run_will_take(monkeypatch, capsys):
    clock = 0.0
    monkeypatch.setattr("training.progress.time.perf_counter", lambda: clock)
    totals = SimpleNamespace(means=lambda: {"loss": 1.5, "top1": 0.25})
    progress = Progress()
    shown = []
    for epoch in range(2):
        progress.start_epoch(epoch, 3, images=10_000, done=0)
        for _ in range(10):  # 1,000 images in 25 s
            clock += 25
            progress.step(1000, totals, lr=0.1)
        clock += 50  # validation
        progress.end_epoch({"lr": 0.1, "train_loss": 1.5, "train_top1": 0.25}, is_best=True)
        shown.append([line for line in capsys.readouterr().out.splitlines() if "images/s" in line])
    assert [len(lines) for lines in shown] == [3, 3]
    assert shown[0][0] == (
        "epoch 1/3: 3000/10000 images, loss 1.5000, top-1 25.00 %, lr 0.1, 40 images/s, 2.9 min left of the epoch,"
        " 11 min of the run"
    )
    assert shown[1][2].endswith("25 s left of the epoch, 6.2 min of the run")  # 25 + 50 + 250 + 50 s


@pytest.mark.slow
def test_a_terminal_gets_bars_and_ctrl_c_leaves_cleanly(tmp_path):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, str(REPO / "main.py"), *QUICK.split(), "--epochs", "200", "--wandb", "disabled"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    )
    os.close(follower)
    seen = b""
    interrupted = False
    while True:
        try:
            chunk = os.read(leader, 4096)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        seen += chunk
        if b"epoch   3/200:" in seen and not interrupted:
            interrupted = True
            process.send_signal(2)
    os.close(leader)
    text = seen.decode()
    assert process.wait(timeout=60) == 130
    assert "img/s" in text and "\r" in text
    assert "--resume continues" in text and "Traceback" not in text
    assert (tmp_path / "runs/digits-resnet20-seed0/last.pth").is_file()
