"""Parameter groups, optimisers and their step."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn

from training.muon import MuonSGD
from utils import BadRequest

Clip = Callable[[Iterable[torch.Tensor]], Any]


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    decay_all: bool = False,
    layer_decay: float | None = None,
    head_scale: float | None = None,
    own_scales: bool = False,
) -> list[dict]:
    """Groups the trainable parameters by weight decay and "lr_scale", a factor of the learning rate.

    Parameters with one dimension (biases, normalisation layers) get no weight decay, nor do those that the model names
    in `no_weight_decay()` (class tokens, position embeddings), unless `decay_all`.

    Args:
        layer_decay: the lr_scale of a layer is this to the power of its distance from the head (arXiv:2003.10555).
        head_scale: the lr_scale of the head, the modules in `model.head_names`, if it is given.
        own_scales: whether the factors in `model.lr_scales()` count too, where the model has some. They leave the speed
            of weight decay as it is.
    """
    without_decay = getattr(model, "no_weight_decay", set)()
    head = _head_prefixes(model)
    scales = dict.fromkeys((name for name, _ in model.named_parameters()), 1.0)
    own: dict[str, float] = {}
    if own_scales and hasattr(model, "lr_scales"):
        own = cast(Any, model).lr_scales()
        if head_scale is not None or getattr(model, "backbone_frozen", False):  # then the rate is meant for the head
            own = {name: 1.0 if name.startswith(head) else factor for name, factor in own.items()}
    if layer_decay is not None:
        layers = _layer_numbers(model)
        scales = {name: layer_decay ** (max(layers.values()) - layers[name]) for name in scales}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = decay_all or (parameter.ndim > 1 and name not in without_decay)
            factor = own.get(name, 1.0)
            given = head_scale if name.startswith(head) else None
            scale = (scales[name] if given is None else given) * factor
            groups.setdefault((weight_decay / factor if decays else 0.0, scale), []).append(parameter)
    return [{"params": params, "weight_decay": wd, "lr_scale": scale} for (wd, scale), params in groups.items()]


def _head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """What the names of the head's parameters begin with."""
    return tuple(f"{name}." for name in cast(Any, model).head_names)


def _layer_numbers(model: nn.Module) -> dict[str, int]:
    """Maps the name of each parameter to its layer, counted from 0 at the input up to the head.

    The layers are those of `model.group_matcher`, timm's protocol. Without it each block with a number in its name is a
    layer. Raises BadRequest if there is no such block.
    """
    names = [name for name, _ in model.named_parameters()]
    layers: dict[str, int] = {}
    if (matcher := getattr(model, "group_matcher", None)) is not None:
        from timm.models import group_parameters

        layers = cast("dict[str, int]", group_parameters(model, matcher(coarse=False), reverse=True))
    else:
        blocks: dict[str, int] = {}
        number = 0
        for name in names:
            if block := re.match(r".*?[._]\d+(?=\.)", name):
                number = blocks.setdefault(block[0], len(blocks) + 1)
            layers[name] = number
        if not blocks:
            raise BadRequest("--layer-decay: this model does not tell which of its parameters lie at which depth")
    head = _head_prefixes(model)
    top = max(layers[name] for name in names if not name.startswith(head))
    return {name: top + 1 if name.startswith(head) else layers[name] for name in names}


def freeze_backbone(model: nn.Module) -> None:
    """Freezes all parameters but those of the head, the modules in `model.head_names`."""
    head = _head_prefixes(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(head))
    cast(Any, model).backbone_frozen = True


def train_mode(model: nn.Module) -> None:
    """`model.train()`, except that a frozen backbone stays in eval mode.

    It has no dropout then, and its batch norm uses the statistics that came with the weights.
    """
    model.train()
    if getattr(model, "backbone_frozen", False):
        head = _head_prefixes(model)
        for name, module in model.named_modules():
            # The model itself is in train mode, in which one with two heads returns both.
            module.training = name == "" or f"{name}.".startswith(head)


def make_optimizer(groups: list[dict], name: str, lr: float, momentum: float, nesterov: bool) -> torch.optim.Optimizer:
    """Makes the optimiser of that name.

    sgd, adam and adamw are torch's, fused if the device has that. muon-sgd is `MuonSGD`. Any other name is timm's.

    Args:
        groups: from `parameter_groups`.

    Raises BadRequest if the optimiser cannot be used on this machine.
    """
    trainable = [parameter for group in groups for parameter in group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trainable)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr, fused=fused)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=fused)
    if name == "muon-sgd":
        return MuonSGD(groups, lr, momentum)
    from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]

    try:
        # Without it each process draws other numbers.
        more: dict[str, Any] = {"deterministic": True} if name.startswith("kron") else {}
        return create_optimizer_v2(groups, opt=name, lr=lr, momentum=momentum, **more)
    except Exception as error:  # some need packages or devices that are missing
        raise BadRequest(f"--optimizer {name}: cannot be used here ({type(error).__name__}: {error})") from None


def make_clip(limit: float | None, mode: str) -> Clip | None:
    """Returns a function that bounds the gradients of parameters in place, or None without a limit.

    Args:
        limit: of the global L2 norm with mode "norm", of the absolute value of each element with "value".
    """
    if limit is None:
        return None
    if mode == "value":
        return functools.partial(nn.utils.clip_grad_value_, clip_value=limit)
    return functools.partial(nn.utils.clip_grad_norm_, max_norm=limit)


def optimizer_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    lr: float,
    clip_grad: Clip | None = None,
    readable_share: float = 1.0,
) -> None:
    """One optimiser step with the accumulated gradients, which are then freed.

    Args:
        lr: learning rate, multiplied by the "lr_scale" of each parameter group.
        clip_grad: from `make_clip`.
        readable_share: fraction of the step's images that could be read. Gradients are divided by it, which makes them
            the mean over these images.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    scaler.unscale_(optimizer)
    if readable_share < 1:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(readable_share)
    if clip_grad is not None:
        clip_grad(model.parameters())
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
