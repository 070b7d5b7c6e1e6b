"""Memory does not grow with epochs, and in the streamed path not with the images either."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import finish, start, wait_for_saves

from data_transform import Augment
from image_datasets import batches
from image_datasets.batches import StreamedTrainBatches
from image_datasets.splits import Split


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the size is read from /proc")
def test_memory_stays_flat_over_many_epochs(workdir):
    line = (
        "--dataset digits --train-fraction 0.03 --model vit_tiny --depth 1 --embed-dim 16 --num-heads 1 --ema 0.9"
        " --epochs 500 --run-name a"
    )
    process = start(line.split(), workdir, workdir / "log")
    sizes = []
    for saves in (40, 80):
        assert wait_for_saves(process, workdir / "runs/a/last.pth", saves), (workdir / "log").read_text()
        sizes.append(resident_bytes(process.pid))
    process.kill()
    finish(process)
    assert sizes[1] - sizes[0] < 80 * 10_000  # an epoch leaves its row of the history, and nothing else


def test_streaming_takes_little_memory_for_each_image_of_the_list(monkeypatch):
    """Besides the list of files and classes itself."""
    monkeypatch.setattr(batches, "read_pixels", lambda path, chans: torch.zeros(3, 8, 8, dtype=torch.uint8))

    def peak(count: int) -> int:
        split = Split(np.zeros(count, dtype=np.int64), None, ["x"] * count)
        tracemalloc.start()
        streamed = StreamedTrainBatches(
            split, Augment(), 8, (0.5,) * 3, (0.5,) * 3, torch.device("cpu"), 64, seed=0, workers=0
        )
        for _ in itertools.islice(streamed.epoch(0), 8):
            pass
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000)  # what the first call alone allocates
    assert (peak(101_000) - peak(1000)) / 100_000 < 150
