"""Names of optimisers: our own four, and those of timm."""

from __future__ import annotations

from typing import Any

from utils import BadRequest, require, suggestion

HAS_MOMENTUM = {"sgd": True, "muon-sgd": True, "adam": False, "adamw": False}
UNSUPPORTED = {"adahessian"}  # second-order gradients need a loop of their own


def check_optimizer(name: str, given: dict[str, Any]) -> None:
    """Raises BadRequest for an unknown name, and for --momentum without effect.

    Imports timm, and with it torch, only for names other than our own.
    """
    known = HAS_MOMENTUM
    if name not in known:
        require("timm")
        from timm.optim import get_optimizer_info, list_optimizers

        known = {
            **{str(other): get_optimizer_info(str(other)).has_momentum for other in list_optimizers()},
            **HAS_MOMENTUM,
        }
        known = {other: momentum for other, momentum in known.items() if other not in UNSUPPORTED}
    if name not in known:
        names = sorted(known)
        raise BadRequest(f"--optimizer {name}: unknown.{suggestion(name, names)} Known: {', '.join(names)}")
    if "momentum" in given and not known[name]:
        raise BadRequest(f"--momentum has no effect: {name} has no momentum to set")
