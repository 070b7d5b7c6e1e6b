"""How many images fit into memory, for `--batch-size auto` and for the advice after a batch did not fit."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import torch

from models.memory import lacks_memory
from training.devices import peak_memory, reset_peak_memory

LARGEST = 1024  # larger batches need another learning rate in most recipes
MARGIN = 0.8  # share of a CPU's free memory that a step may take; the estimate was within 12 % for five models
GPU_MARGIN = 0.9  # share of a GPU's; the rest is for cuDNN's workspaces, DDP's buckets and fragments


def largest_that_fits(step: Callable[[int], object], first: int, device: torch.device, reserved: int = 0) -> int | None:
    """Returns the first of `first`, `first // 2`, `first // 4`, ... images that fit, or None if not even one does.

    On a GPU a size fits if `step` does not run out of memory and leaves a tenth of it free. On a CPU nothing is tried:
    the system lends memory that it does not have, and kills the process that uses it. There the memory that two and
    four images keep for the backward pass is extrapolated, and must leave a part of the free memory. If the system does
    not tell how much is free, any size fits.

    Args:
        step: runs one training step on that many images.
        reserved: bytes that a run allocates beside its steps, such as the images that it keeps on the device.
    """
    release()  # a step that failed before may have left cycles of its graph
    fits = _fits_free_memory(step, reserved) if device.type == "cpu" else _fits_gpu(step, device, reserved)
    size = first
    while size >= 1:
        if fits(size):
            return size
        size //= 2
    return None


def _fits_gpu(step: Callable[[int], object], device: torch.device, reserved: int) -> Callable[[int], bool]:
    room = gpu_memory(device)

    def fits(size: int) -> bool:
        try:
            if room is not None:
                reset_peak_memory(device)
            step(size)
            return room is None or (peak_memory(device) or 0) + reserved <= GPU_MARGIN * room
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            return False
        finally:
            release()

    return fits


def gpu_memory(device: torch.device) -> int | None:
    """Bytes that this process uses or may still use on a CUDA device; None on other devices."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


def _fits_free_memory(step: Callable[[int], object], reserved: int) -> Callable[[int], bool]:
    free = available_memory()
    if free is None:
        return lambda size: True
    two, four = _saved_bytes(step, 2), _saved_bytes(step, 4)
    return lambda size: two + (four - two) / 2 * (size - 2) + reserved <= MARGIN * free


def _saved_bytes(step: Callable[[int], object], size: int) -> int:
    """Bytes that a step of `size` images keeps for its backward pass. Tensors that share memory count once."""
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(size)
    return sum(storages.values())


def release() -> None:
    """Frees the memory that no tensor uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def available_memory() -> int | None:
    """Bytes that this process may still use, or None if the system does not tell (Windows).

    The smaller of what the machine and the control group have left: SLURM and containers set bounds by control groups.
    """
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
    except (OSError, ValueError, IndexError):  # no control group sets a bound
        pass
    return max(0, min(found))
