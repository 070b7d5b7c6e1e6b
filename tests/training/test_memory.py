"""Memory does not grow with epochs, nor with the number of images that are streamed."""

from __future__ import annotations

import ctypes
import itertools
import os
import statistics
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from data_transform import Augment
from image_datasets import file_loader
from image_datasets.batches import StreamedTrainBatches
from image_datasets.splits import Split

ROOT = Path(__file__).resolve().parents[2]


MEASURED = """
import ctypes, gc, resource, sys
import main
from training.saving import Saver

trim, save, page = ctypes.CDLL(None).malloc_trim, Saver.save, resource.getpagesize()


def measured(self, is_best=None):
    save(self, is_best)
    self.wait()
    if self.state.epoch % 20 == 0:
        gc.collect()
        trim(0)
        print("resident", int(open("/proc/self/statm").read().split()[1]) * page)


Saver.save = measured
main.main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
@pytest.mark.parametrize(
    "precision", [pytest.param("fp32", marks=pytest.mark.long("bf16 is the same loop, and keeps casts too")), "bf16"]
)
def test_memory_does_not_keep_growing(workdir, precision):
    """An epoch leaves only its row of the history. The first epochs fill the caches of the libraries."""
    line = (
        "--dataset digits --train-fraction 0.03 --model vit_tiny --depth 1 --embed-dim 16 --num-heads 1 --ema 0.9"
        f" --epochs 200 --run-name a --wandb disabled --precision {precision}"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, *line.split()], env=environment, capture_output=True, text=True, check=True
    )
    sizes = [int(line.split()[1]) for line in result.stdout.splitlines() if line.startswith("resident")]
    growth = [(after - before) / 20 for before, after in itertools.pairwise(sizes)]  # bytes per epoch
    assert len(growth) == 9
    assert statistics.median(growth) < 5_000, growth


def test_streaming_takes_little_memory_for_each_image_of_the_list(monkeypatch):
    """The list of files and classes itself does not count."""
    monkeypatch.setattr(
        file_loader, "read_pixels", lambda path, chans, reading: torch.zeros(3, 8, 8, dtype=torch.uint8)
    )

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

    peak(1000)  # the first call allocates more than the others
    assert (peak(101_000) - peak(1000)) / 100_000 < 150
