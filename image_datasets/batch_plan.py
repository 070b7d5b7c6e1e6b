"""Which images are in which batch, and where each draw of the augmentation comes from.

All of it is a function of the position, (seed, epoch, step or image index): the draws before it do not matter.
"""

from __future__ import annotations

import torch

from utils import derive_seed


def batch_bounds(count: int, batch_size: int, world_size: int = 1) -> list[tuple[int, int]]:
    """(start, end) of each batch; all images are covered. A last batch that has but one image for one of the processes
    that share it, for which batch normalisation is undefined, is joined to the one before.

    Args:
        batch_size: of each of the `world_size` processes.
    """
    starts = list(range(0, count, batch_size * world_size))
    if len(starts) > 1 and batch_size > 1 and count - starts[-1] < 2 * world_size:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


def share_of(bound: tuple[int, int], rank: int, world_size: int) -> tuple[int, int]:
    """The part of a batch that process `rank` has: parts are equal, or differ by one image."""
    start, end = bound
    return start + (end - start) * rank // world_size, start + (end - start) * (rank + 1) // world_size


def epoch_order(count: int, seed: int, epoch: int) -> torch.Tensor:
    """The order in which an epoch visits the images, int64 (count,)."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


def local_seed(rank: int) -> tuple[int, ...]:
    """What the seed of a process's own draws has behind those of the first."""
    return (rank,) if rank else ()


def seed_draws(*parts: int | str) -> None:
    """Seeds the CPU's generator, from which every augmentation draws. torch.manual_seed would seed all accelerators
    too, for as much time as a batch of small images takes."""
    torch.default_generator.manual_seed(derive_seed(*parts))
