"""How many images fit into memory: `--batch-size auto`, and what to advise where a batch did not fit."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import torch

LARGEST = 1024  # where memory is no bound: above it most recipes need another learning rate
MARGIN = 0.8  # share of a CPU's free memory that a step may take; the estimate came within 12 % of five models' growth


def largest_that_fits(step: Callable[[int], None], first: int, device: torch.device) -> int | None:
    """The first of `first`, a half of it, a quarter, ... with which `step` does not run out of memory; None if not even
    a batch of one image fits.

    A CPU's system lends memory that it does not have, and kills the process that uses it. There nothing is tried: what
    two and four images keep for the backward pass is extrapolated, and must leave a part of what is free. Where the
    system does not tell what is free, any size counts as fitting.

    Args:
        step: makes a training step of so many images.
    """
    fits = _fits_free_memory(step) if device.type == "cpu" else lambda size: _does_not_fail(step, size)
    size = first
    while size >= 1:
        if fits(size):
            return size
        size //= 2
    return None


def _does_not_fail(step: Callable[[int], None], size: int) -> bool:
    try:
        step(size)
    except torch.OutOfMemoryError:
        return False
    finally:
        release()
    return True


def _fits_free_memory(step: Callable[[int], None]) -> Callable[[int], bool]:
    free = available_memory()
    if free is None:
        return lambda size: True
    two, four = _saved_bytes(step, 2), _saved_bytes(step, 4)
    return lambda size: two + (four - two) / 2 * (size - 2) <= MARGIN * free


def _saved_bytes(step: Callable[[int], None], size: int) -> int:
    """What a step of `size` images keeps for its backward pass, each piece of memory counted once."""
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(size)
    return sum(storages.values())


def release() -> None:
    """Gives back what no tensor uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def available_memory() -> int | None:
    """Bytes that this process may still use: of the machine, and of its control group, by which SLURM and containers
    set bounds. None where the system does not tell (Windows)."""
    if not hasattr(os, "sysconf"):
        return None
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = (line.split() for line in meminfo.read_text(encoding="ascii").splitlines())
        found += [1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:"]
    try:
        name = Path("/proc/self/cgroup").read_text(encoding="utf-8").split("::")[1].strip(" \n/")
        group = Path("/sys/fs/cgroup") / name
        bound, used = ((group / file).read_text(encoding="ascii") for file in ("memory.max", "memory.current"))
        found.append(int(bound) - int(used))
    except (OSError, ValueError, IndexError):  # no such bound
        pass
    return max(0, min(found))
