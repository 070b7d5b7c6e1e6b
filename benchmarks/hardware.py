"""The machine a benchmark runs on: its names and numbers, and its peak rates."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.timing import synchronizer
from benchmarks.timing import Repeated, spread
from records.run_directory import versions
from utils import cores, cpu_name

if TYPE_CHECKING:
    import torch


def facts(device: torch.device | None = None) -> dict[str, Any]:
    """Describes the machine: versions, processor, usable cores, torch's threads, GPU, load average of 1, 5 and 15 min.

    Without a device torch is not imported, and "threads" and "gpu" are None.
    """
    found = {
        "versions": versions(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cores": cores(),
        "threads": None,
        "gpu": None,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
        "command": [Path(sys.executable).name, *sys.argv],
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    if device is not None:
        import torch

        found["threads"] = torch.get_num_threads()
        found["gpu"] = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return found


def matrix_rate(device: torch.device, precision: str, seconds: float, repeats: int, quick: bool) -> dict[str, Any]:
    """FLOP/s of a product of two large square matrices; a multiply-add counts as two."""
    import torch

    from training.devices import PRECISIONS

    n = 256 if quick else 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device, dtype=PRECISIONS[precision] or torch.float32) for _ in range(2))
    product = torch.empty_like(a)

    def work(count: int) -> None:
        for _ in range(count):
            torch.mm(a, b, out=product)

    return _rate(work, 2 * n**3, "FLOP/s", device, seconds, repeats)


def copy_rate(device: torch.device, seconds: float, repeats: int, quick: bool) -> dict[str, Any]:
    """Bytes read and written per second when copying a tensor too large for any cache."""
    import torch

    size = (1 << 20) if quick else (1 << 28) if device.type == "cpu" else (1 << 30)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)

    def work(count: int) -> None:
        for _ in range(count):
            target.copy_(source)

    return _rate(work, 2 * size, "B/s", device, seconds, repeats)


def _rate(
    work: Callable[[int], None], amount: float, unit: str, device: torch.device, seconds: float, repeats: int
) -> dict[str, Any]:
    measure = Repeated(work, seconds, synchronizer(device), lambda elapsed: amount / elapsed)
    measure()
    return {"unit": unit, **spread([measure() for _ in range(repeats)])}
