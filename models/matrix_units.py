"""Whether the CPU multiplies matrices in bf16 by units of its own, on which the fastest way of a layer depends."""

from __future__ import annotations

import os

import torch

from utils import BadRequest

MATRIX_UNITS = "SUITE_MATRIX_UNITS"


def has_matrix_units() -> bool:
    """Whether this CPU has units that multiply bf16 matrices (AMX).

    The environment variable SUITE_MATRIX_UNITS, "on" or "off", overrides what the CPU says, so that tests can behave
    like either kind of machine. To keep oneDNN from using the units, set ONEDNN_MAX_CPU_ISA as well.

    Raises BadRequest if the variable holds anything else.
    """
    forced = os.environ.get(MATRIX_UNITS)
    if forced is None:
        return torch.cpu._is_amx_tile_supported()
    if forced not in ("on", "off"):
        raise BadRequest(f"{MATRIX_UNITS}={forced}: this environment variable is neither on nor off")
    return forced == "on"
