"""Names of optimisers: our own four, and those of timm."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

from utils import BadRequest, require, suggestion

HAS_MOMENTUM = {"sgd": True, "muon-sgd": True, "adam": False, "adamw": False}
REFUSED = {  # patterns of timm's names, and the reason
    "adahessian": "it needs second-order gradients, which the training loop does not compute",
    "bnb*": "it needs the package bitsandbytes and a GPU",
    "fused*": "it needs NVIDIA's package apex; lamb, novograd, adam and adamw do without",
}


def check_optimizer(name: str, given: dict[str, Any]) -> None:
    """Raises BadRequest for a name that is unknown or refused, and for --momentum without effect.

    Imports timm, and with it torch, only for names other than our own.
    """
    known = HAS_MOMENTUM
    if name not in known:
        require("timm")
        from timm.optim import get_optimizer_info, list_optimizers

        names = [str(other) for other in list_optimizers()]
        if name in names and (reason := refusal(name)):
            raise BadRequest(f"--optimizer {name}: {reason}")
        of_timm = {other: get_optimizer_info(other).has_momentum for other in names if not refusal(other)}
        known = {**of_timm, **HAS_MOMENTUM}
    if name not in known:
        names = sorted(known)
        raise BadRequest(f"--optimizer {name}: unknown.{suggestion(name, names)} Known: {', '.join(names)}")
    if "momentum" in given and not known[name]:
        raise BadRequest(f"--momentum has no effect: {name} has no momentum to set")


def refusal(name: str) -> str | None:
    """Why the suite does not train with this optimiser of timm; None if it does."""
    return next((reason for pattern, reason in REFUSED.items() if fnmatch(name, pattern)), None)
