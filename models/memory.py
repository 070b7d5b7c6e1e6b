"""Telling a lack of memory from other errors."""

from __future__ import annotations

# torch's allocators (CPU: "can't allocate memory", CUDA: "Tried to allocate"), the driver, cuBLAS and cuDNN, and
# cuDNN on a card too full for the workspace of any algorithm.
SIGNS = ("allocate", "out of memory", "ALLOC_FAILED", "unable to find an engine")


def lacks_memory(error: BaseException) -> bool:
    """Whether an error means that the memory, of the system or of a device, is not enough."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)
