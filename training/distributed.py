"""Many processes that train one model, as torchrun starts them: each has a part of every batch, gradients are averaged
by DistributedDataParallel, and the first process alone writes and speaks. A single process sees no effect.

Numbers on CPUs travel by gloo, those on CUDA devices by NCCL.
"""

from __future__ import annotations

import contextlib
import datetime
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from utils import RunFailed, is_distributed, is_main_process, rank, world_size

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

TIMEOUT = datetime.timedelta(hours=2)  # for the slowest of the processes; that one has died is noticed at once


def start(device: torch.device) -> None:
    """Joins the other processes, if there are any."""
    if is_distributed() and not dist.is_initialized():
        on_gpus = device.type == "cuda"
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
            timeout=TIMEOUT,
            store=_store_without_the_dead(),
            rank=rank(),
            world_size=world_size(),
            device_id=device if on_gpus else None,
        )


def _store_without_the_dead() -> Store:
    """Where the processes leave their addresses. torchrun keeps one store for all of its restarts, in which a process
    that is quicker than another would find the address that the other's dead forerunner had. So the first process
    chooses a new place in it, and tells the others: each asks with a word of its own, and says that it has heard."""
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, count = next(rendezvous("env://", timeout=TIMEOUT))
    place = uuid.uuid4().hex
    if is_main_process():
        deadline = time.monotonic() + TIMEOUT.total_seconds()
        waiting = set(range(1, count))
        while waiting:
            for other in sorted(waiting):
                if store.check([f"asks/{other}"]):  # perhaps it was a forerunner who asked
                    store.set(f"answers/{store.get(f'asks/{other}').decode()}", place)
                if store.check([f"heard/{place}/{other}"]):
                    waiting.remove(other)
            if time.monotonic() > deadline:
                raise RunFailed(f"{len(waiting)} of {count} processes did not start")
            time.sleep(0.005)
    else:
        word = place
        store.set(f"asks/{rank()}", word)
        place = store.get(f"answers/{word}").decode()  # waits for it
        store.set(f"heard/{place}/{rank()}", "")
    return PrefixStore(place, store)


def finish() -> None:
    """Leaves the other processes."""
    if is_distributed() and dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Waits for all."""
    if is_distributed():
        all_reduce_scalar(0.0)  # a barrier on the CPU: torch's own would take a device


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """The first process runs the block while the others wait, then they do."""
    if not is_main_process():
        barrier()
    yield
    if is_main_process():
        barrier()


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes; of a single one the tensor itself."""
    if not is_distributed():
        return tensor
    summed = tensor.clone()
    dist.all_reduce(summed)
    return summed


def all_reduce_scalar(value: float) -> float:
    """The sum of one number of each process."""
    return float(all_reduce_sum(torch.tensor(value, dtype=torch.float64)))


def all_reduce_max(value: int) -> int:
    """The all_reduce_max of one number of each process."""
    if not is_distributed():
        return value
    tensor = torch.tensor(value)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def all_gather(tensor: torch.Tensor) -> torch.Tensor:
    """A CPU tensor of each process, one behind the other in a new first dimension."""
    tensors = [torch.empty_like(tensor) for _ in range(world_size())] if is_distributed() else [tensor]
    if is_distributed():
        dist.all_gather(tensors, tensor)
    return torch.stack(tensors)


def gather_rows(parts: list[torch.Tensor], index: torch.Tensor, count: int, width: int) -> torch.Tensor:
    """A matrix (count, width) of float32 on the CPU, of which each process has the gather_rows of its `index`."""
    matrix = torch.zeros(count, width)
    start = 0
    for part in parts:
        matrix[index[start : start + len(part)]] = part.cpu()
        start += len(part)
    return all_reduce_sum(matrix)


def union(index: torch.Tensor, count: int) -> torch.Tensor:
    """The numbers below `count` that any process has in its index, sorted."""
    return all_reduce_sum(torch.zeros(count).index_fill(0, index, 1.0)).nonzero()[:, 0]


def broadcast_buffers(*modules: torch.nn.Module | None) -> None:
    """Gives the buffers of the first process, such as batch normalisation's averages, to all."""
    if not is_distributed():
        return
    for module in modules:
        for buffer in module.buffers() if module is not None else ():
            dist.broadcast(buffer, 0)


def wrap_ddp(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The model as it is trained: its gradients are the average over all processes.

    Buffers differ between processes until `broadcast_buffers`. DDP would broadcast them in every forward: an evaluation
    would then wait forever for a process without a batch.
    """
    if not is_distributed():
        return model
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


class Vote:
    """Yes or no of any process, which all learn of at the same step: the one after it was cast."""

    def __init__(self):
        self.pending: tuple[Any, torch.Tensor] | None = None

    def cast(self, *flags: bool) -> None:
        ballot = torch.tensor(flags, dtype=torch.int32)
        self.pending = (dist.all_reduce(ballot, dist.ReduceOp.MAX, async_op=True), ballot)

    def outcome(self) -> list[bool]:
        """Of the flags that were cast last; empty where none were."""
        if self.pending is None:
            return []
        work, ballot = self.pending
        self.pending = None
        work.wait()
        return [bool(flag) for flag in ballot]
