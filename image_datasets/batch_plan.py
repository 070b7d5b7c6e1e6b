"""Which images form each batch, and how the draws of the augmentation are seeded.

All of it is a function of the position, (seed, epoch, step or image index), never of earlier draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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


@dataclass(frozen=True)
class EpochOrder:
    """Which images an epoch visits, and in what order.

    Attributes:
        targets: class indices, int64 (N,).
        bounds: (start, end) of each batch of all processes together.
        sampler: "shuffle", each image once; or "balanced", as many images of each class, up to one, where an image of a
            class comes a second time only after all others of its class.
        repeats: repeated augmentation (Berman et al., arXiv:1902.05509; DeiT): so many copies of each image, in one
            batch. They lie apart in it, as CutMix and MixUp mix neighbours. An epoch has fewer different images.
    """

    targets: np.ndarray
    bounds: list[tuple[int, int]]
    seed: int
    sampler: str = "shuffle"
    repeats: int = 1

    def __call__(self, epoch: int) -> torch.Tensor:
        """The image of each place in the epoch, int64 (N,)."""
        different = [-(-(end - start) // self.repeats) for start, end in self.bounds]  # images of each batch
        if self.sampler == "balanced":
            order = _balanced_order(self.targets, sum(different), self.seed, epoch)
        else:
            order = epoch_order(len(self.targets), self.seed, epoch)
        if self.repeats == 1:
            return order
        parts = order[: sum(different)].split(different)
        return torch.cat([
            part.repeat(self.repeats)[: end - start] for part, (start, end) in zip(parts, self.bounds, strict=True)
        ])  # fmt: skip

    def copies(self, order: torch.Tensor) -> torch.Tensor:
        """How often the image of each place has come before in the epoch, int64 (N,)."""
        if self.sampler == "shuffle" and self.repeats == 1:
            return torch.zeros_like(order)
        places = order.argsort(stable=True)
        images = order[places]
        return torch.empty_like(order).index_copy(
            0, places, torch.arange(len(order)) - torch.searchsorted(images, images)
        )


def _balanced_order(targets: np.ndarray, count: int, seed: int, epoch: int) -> torch.Tensor:
    """An order of `count` places with as many images of each class, up to one. int64 (count,)."""
    rng = np.random.default_rng(derive_seed(seed, "balanced order", epoch))
    classes = [np.flatnonzero(targets == label) for label in rng.permutation(np.unique(targets))]
    places = np.full(len(classes), count // len(classes))
    places[: count % len(classes)] += 1
    drawn = [
        np.concatenate([rng.permutation(members) for _ in range(-(-place // len(members)))])[:place]
        for members, place in zip(classes, places, strict=True)
    ]
    return torch.from_numpy(rng.permutation(np.concatenate(drawn)))


def local_seed(rank: int) -> tuple[int, ...]:
    """Extra seed parts of a process; none for rank 0, so it draws what a single process draws."""
    return (rank,) if rank else ()


def seed_draws(*parts: int | str) -> None:
    """Seeds the CPU generator, which all augmentation draws from.

    torch.manual_seed would seed all accelerators too, which takes as long as a batch of small images.
    """
    torch.default_generator.manual_seed(derive_seed(*parts))
