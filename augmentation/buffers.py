"""Memory that batches take turns in."""

from __future__ import annotations

import math
import threading
import weakref

import numpy as np
import torch


class Buffers:
    """Memory for batches on the CPU, which is used again once no tensor refers to it: a batch of 224 px takes longer to
    get from the system, page by page, than to compute."""

    KEPT = 2  # the batch that is being made, and the one before, which the training loop still holds

    def __init__(self, dtype: type[np.generic] = np.float32):
        self.lock, self.dtype = threading.Lock(), np.dtype(dtype)
        self.lent: list[tuple[np.ndarray, weakref.ref]] = []

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """An uninitialised tensor."""
        size = math.prod(shape)
        with self.lock:
            unused = (entry for entry in self.lent if entry[1]() is None)
            free = max(unused, key=lambda entry: entry[0].size, default=None)
            if not free or free[0].size < size:
                # torch's memory begins at a cache line, NumPy's does not: vector instructions then take longer.
                free = torch.empty(size * self.dtype.itemsize, dtype=torch.uint8).numpy().view(self.dtype), None
            memory = free[0]
            array = memory[:size].reshape(shape)  # the tensor, and every view of it, keeps this object alive
            others = [entry for entry in self.lent if entry is not free]
            self.lent = [(memory, weakref.ref(array)), *others][: self.KEPT]
        return torch.from_numpy(array)
