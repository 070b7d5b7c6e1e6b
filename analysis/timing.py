"""Waiting for a device, so that what it does can be timed. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def synchronizer(device: torch.device) -> Callable[[], None]:
    """A function that waits until the device has done all that it was asked for."""
    import torch

    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None
