"""Which images form each batch, and how the draws of the augmentation are seeded.

All of it is a function of the position, (seed, epoch, step or image index), never of earlier draws.
"""

from __future__ import annotations

import torch

from utils import derive_seed


def batch_bounds(count: int, batch_size: int, world_size: int = 1) -> list[tuple[int, int]]:
    """Returns (start, end) of each batch; together they cover all images.

    A last batch that leaves some process only one image joins the previous one: batch norm is undefined for it.

    Args:
        batch_size: of each of the `world_size` processes.
    """
    starts = list(range(0, count, batch_size * world_size))
    if len(starts) > 1 and batch_size > 1 and count - starts[-1] < 2 * world_size:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


def share_of(bound: tuple[int, int], rank: int, world_size: int) -> tuple[int, int]:
    """Returns (start, end) of the part of a batch that process `rank` gets. Parts differ by at most one image."""
    start, end = bound
    return start + (end - start) * rank // world_size, start + (end - start) * (rank + 1) // world_size


def epoch_order(count: int, seed: int, epoch: int) -> torch.Tensor:
    """Order in which an epoch visits the images, int64 (count,)."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


def local_seed(rank: int) -> tuple[int, ...]:
    """Extra seed parts of a process; none for rank 0, so it draws what a single process draws."""
    return (rank,) if rank else ()


def seed_draws(*parts: int | str) -> None:
    """Seeds the CPU generator, which all augmentation draws from.

    torch.manual_seed would seed all accelerators too, which takes as long as a batch of small images.
    """
    torch.default_generator.manual_seed(derive_seed(*parts))
