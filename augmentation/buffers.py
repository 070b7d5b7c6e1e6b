"""Reusable CPU memory for batches."""

from __future__ import annotations

import math
import threading
import weakref

import numpy as np
import torch


class Buffers:
    """CPU memory for batches, reused once no tensor refers to it.

    Allocating a batch of 224 px, page by page, takes longer than computing it.

    Args:
        dtype: of the tensors that `take` returns.
    """

    KEPT = 2  # the batch in the making, and the previous one, which the training loop still holds

    def __init__(self, dtype: type[np.generic] = np.float32):
        self.lock, self.dtype = threading.Lock(), np.dtype(dtype)
        self.lent: list[tuple[np.ndarray, weakref.ref]] = []

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Returns an uninitialised tensor of this shape."""
        size = math.prod(shape)
        with self.lock:
            unused = (entry for entry in self.lent if entry[1]() is None)
            free = max(unused, key=lambda entry: entry[0].size, default=None)
            if not free or free[0].size < size:
                # torch aligns memory to cache lines; NumPy does not, which slows vector instructions.
                free = torch.empty(size * self.dtype.itemsize, dtype=torch.uint8).numpy().view(self.dtype), None
            memory = free[0]
            array = memory[:size].reshape(shape)  # kept alive by the tensor and by every view of it
            others = [entry for entry in self.lent if entry is not free]
            self.lent = [(memory, weakref.ref(array)), *others][: self.KEPT]
        return torch.from_numpy(array)
