"""Several processes train one model, started by torchrun. A single process is not affected.

Each process has a part of every batch, DistributedDataParallel averages the gradients, and rank 0 alone writes files
and prints. Tensors on CPUs travel by gloo, those on CUDA devices by NCCL.
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

TIMEOUT = datetime.timedelta(hours=2)  # for the slowest process; a dead one is noticed at once


def start(device: torch.device) -> None:
    """Joins the process group, if there are several processes."""
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
    """A store for the addresses of this start alone.

    torchrun keeps one store over all restarts, where a fast process would find the address of another's dead
    predecessor. So rank 0 chooses a new prefix. Each other rank asks for it with a key of its own, and confirms it.
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, count = next(rendezvous("env://", timeout=TIMEOUT))
    place = uuid.uuid4().hex
    if is_main_process():
        deadline = time.monotonic() + TIMEOUT.total_seconds()
        waiting = set(range(1, count))
        while waiting:
            for other in sorted(waiting):
                if store.check([f"asks/{other}"]):  # by this process or by its predecessor
                    store.set(f"answers/{store.get(f'asks/{other}').decode()}", place)
                if store.check([f"heard/{place}/{other}"]):
                    waiting.remove(other)
            if time.monotonic() > deadline:
                raise RunFailed(f"{len(waiting)} of {count} processes did not start")
            time.sleep(0.005)
    else:
        word = place
        store.set(f"asks/{rank()}", word)
        place = store.get(f"answers/{word}").decode()  # blocks until it is set
        store.set(f"heard/{place}/{rank()}", "")
    return PrefixStore(place, store)


def finish() -> None:
    """Leaves the process group."""
    if is_distributed() and dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Blocks until every process has got here."""
    if is_distributed():
        all_reduce_scalar(0.0)  # on the CPU; torch's barrier needs a device


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """Rank 0 runs the block first, then the others."""
    if not is_main_process():
        barrier()
    yield
    if is_main_process():
        barrier()


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes. A single process gets the tensor itself."""
    if not is_distributed():
        return tensor
    summed = tensor.clone()
    dist.all_reduce(summed)
    return summed


def all_reduce_scalar(value: float) -> float:
    """The sum of a number over all processes."""
    return float(all_reduce_sum(torch.tensor(value, dtype=torch.float64)))


def all_reduce_max(value: int) -> int:
    """The maximum of a number over all processes."""
    if not is_distributed():
        return value
    tensor = torch.tensor(value)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def all_gather(tensor: torch.Tensor) -> torch.Tensor:
    """Stacks a CPU tensor of each process: (...) becomes (world_size, ...)."""
    tensors = [torch.empty_like(tensor) for _ in range(world_size())] if is_distributed() else [tensor]
    if is_distributed():
        dist.all_gather(tensors, tensor)
    return torch.stack(tensors)


def gather_rows(parts: list[torch.Tensor], index: torch.Tensor, count: int, width: int) -> torch.Tensor:
    """Assembles a float32 matrix (count, width) on the CPU from rows that lie in different processes.

    Args:
        parts: rows (n, width) of this process, in pieces.
        index: their places in the matrix, int64 (n,).
    """
    matrix = torch.zeros(count, width)
    start = 0
    for part in parts:
        matrix[index[start : start + len(part)]] = part.cpu()
        start += len(part)
    return all_reduce_sum(matrix)


def union(index: torch.Tensor, count: int) -> torch.Tensor:
    """The sorted numbers below `count` that are in the index of any process, int64 (n,)."""
    return all_reduce_sum(torch.zeros(count).index_fill(0, index, 1.0)).nonzero()[:, 0]


def broadcast_buffers(*modules: torch.nn.Module | None) -> None:
    """Copies the buffers of rank 0, such as the running averages of batch norm, to all processes."""
    if not is_distributed():
        return
    for module in modules:
        for buffer in module.buffers() if module is not None else ():
            dist.broadcast(buffer, 0)


def wrap_ddp(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Wraps the model in DDP, which averages its gradients over all processes. A single process keeps the model.

    Buffers differ between processes until `broadcast_buffers`. DDP itself would broadcast them in every forward, and an
    evaluation would hang if a process had no batch left.
    """
    if not is_distributed():
        return model
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


class Vote:
    """Flags that any process can raise, and that all processes see at the same step: the one after the vote."""

    def __init__(self):
        self.pending: tuple[Any, torch.Tensor] | None = None

    def cast(self, *flags: bool) -> None:
        """Starts a vote. It does not wait for the other processes."""
        ballot = torch.tensor(flags, dtype=torch.int32)
        self.pending = (dist.all_reduce(ballot, dist.ReduceOp.MAX, async_op=True), ballot)

    def outcome(self) -> list[bool]:
        """Whether any process raised each of the flags of the last vote. Empty if there was none."""
        if self.pending is None:
            return []
        work, ballot = self.pending
        self.pending = None
        work.wait()
        return [bool(flag) for flag in ballot]
