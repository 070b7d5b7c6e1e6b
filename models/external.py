"""Models of timm and torchvision, built for the data set's classes, image size and input channels."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import nn

from models import weights
from models.memory import lacks_memory
from utils import BadRequest, in_px


@contextlib.contextmanager
def refusing(what: str):
    """Turns a constructor's errors into BadRequest that begins with `what`; a lack of memory passes through."""
    try:
        yield
    except (TypeError, ValueError, AssertionError, RuntimeError, ArithmeticError, LookupError) as error:
        if lacks_memory(error):
            raise
        raise BadRequest(f"{what}: {error}") from None


def create_timm(
    name: str, num_classes: int, img_size: int | Sequence[int], in_chans: int, pretrained: bool, **model_args
) -> nn.Module:
    """timm's part of `models.create_model`; `model_args` are any keyword arguments of timm's constructor."""
    import timm

    def build(**more):
        return timm.create_model(
            name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **model_args, **more
        )

    try:
        try:
            model = build(img_size=img_size)
        except TypeError as error:  # the only sign that a network takes no image size
            if "img_size" not in str(error):
                raise
            model = build()
    except BadRequest:
        raise
    except (TypeError, AssertionError) as error:
        raise BadRequest(f"timm/{name} cannot be built for {in_px(img_size)} images: {error}") from None
    except Exception as error:  # from the hub, a file or the constructor
        reason = str(error).strip().split("\n")[0][:200]
        if pretrained:
            fault = f"the pretrained weights of timm/{name} cannot be fetched ({reason})"
            raise BadRequest(f"{fault}. {_where(name)}") from None
        raise BadRequest(f"timm/{name} cannot be built for {in_px(img_size)} images: {reason}") from None
    model.head_names = weights.find_head(model, num_classes)
    model.load_notes = []
    published = (getattr(model, "pretrained_cfg", None) or {}).get("num_classes")
    if pretrained and published != num_classes:
        model.load_notes = [f"head replaced: the weights of timm/{name} have {published} classes, not {num_classes}"]
    return model


def _where(name: str) -> str:
    """Where timm publishes the weights of a model, and how they are used without a network."""
    import timm

    published = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if published is None or not (published.hf_hub_id or published.url):
        return "timm publishes none for it; --weights FILE takes others"
    address, file = str(published.url), str(published.url).rsplit("/", 1)[-1]
    if published.hf_hub_id:
        file = published.hf_hub_filename or "model.safetensors"
        address = f"the repository {published.hf_hub_id} of the Hugging Face hub"
    return f"Download the file {file} from {address} where there is a network, and give it with --weights FILE"


def create_torchvision(
    name: str, num_classes: int, img_size: int | Sequence[int], in_chans: int, pretrained: bool, **model_args
) -> nn.Module:
    """torchvision's part of `models.create_model`. Leaves out auxiliary heads (GoogLeNet, Inception): the suite trains
    one head."""
    import torchvision

    build = torchvision.models.get_model_builder(name)
    if name.startswith("vit_"):
        if not isinstance(img_size, int):
            raise BadRequest(f"torchvision/{name} takes square images: use --img-size {min(img_size)}")
        model_args["image_size"] = img_size
    if name in ("googlenet", "inception_v3"):
        # The published weights expect their own normalisation (transform_input), which is part of the model.
        model_args.update(init_weights=True, aux_logits=False, transform_input=in_chans == 3)
    with refusing(f"torchvision/{name} cannot be built for {in_px(img_size)} images"):
        model = build(num_classes=num_classes, **model_args)
    if in_chans != 3:
        replace_first_conv(model, in_chans)
    model.head_names = weights.find_head(model, num_classes)
    model.load_notes = []
    if pretrained:
        enum_name = torchvision.models.get_model_weights(name).__name__
        state = weights.torchvision_weights(enum_name)
        state = {key: value for key, value in state.items() if not key.lower().startswith("aux")}
        model.load_notes = weights.load(model, state, source=enum_name)
    return model


def replace_first_conv(model: nn.Module, in_chans: int) -> None:
    """Replaces the first convolution by one for `in_chans` channels: torchvision's constructors have no such argument.

    Raises BadRequest if no convolution has 3 input channels.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            parent = model.get_submodule(name.rpartition(".")[0])
            conv = nn.Conv2d(
                in_chans,
                module.out_channels,
                module.kernel_size,
                module.stride,
                module.padding,
                bias=module.bias is not None,
            )
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if conv.bias is not None:
                torch.nn.init.zeros_(conv.bias)
            setattr(parent, name.rpartition(".")[2], conv)
            return
    raise BadRequest("this torchvision model has no convolution with 3 input channels to replace")
