"""Prints the table of models, or the layers of one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import image_datasets
import models
from analysis import cost
from image_datasets.reading import CURRENT
from models.fast_layers import use_plain_layers
from settings.checks import Asked
from training import devices
from utils import BadRequest, human, in_px, sides


def build(
    name: str, num_classes: int, img_size: int | Sequence[int], in_chans: int, **model_args: Any
) -> tuple[nn.Module, int]:
    """Returns (a model, its FLOPs per image). If possible builds it on the meta device, without memory for weights.

    Raises BadRequest if the model does not work with images of this size.
    """

    def create() -> tuple[nn.Module, int]:
        model = models.create_model(name, num_classes, img_size, in_chans, **model_args)
        return model, cost.count_flops(model, img_size, in_chans, name)

    try:
        with torch.device("meta"):
            return create()
    except Exception:  # some constructors compute with tensors, and some models read their values
        return create()


def print_models(asked: Asked) -> None:
    """Prints a table of the matching models: parameters, FLOPs per image for the data set, year and paper.

    For timm and torchvision, which have over a thousand models, prints the names alone.
    """
    data, pattern = asked.settings.data, str(asked.request.to_do.list_models)
    names = models.list_models(pattern)
    if models.find_model(names[0]) is None:
        print("\n".join(names))
        return
    num_classes, side, chans = image_datasets.dimensions(image_datasets.Wanted.of(vars(data), reading=CURRENT))
    chans = data.in_chans or chans
    print(f"{'name':20}  {'px':>4}  {'parameters':>12}  {'FLOPs':>8}  year  paper")
    for name in names:
        entry = models.find_model(name)
        size = models.image_size(data.img_size, name, side)
        try:
            model, flops = build(name, num_classes, size, chans)
            costs = f"{cost.count_parameters(model):>12,}  {human(flops).strip():>8}"
        except BadRequest:
            costs = f"{'not for this size':>22}"
        px = size if isinstance(size, int) else "x".join(map(str, size))
        print(f"{name:20}  {px:>4}  {costs}  {entry.year}  {entry.paper}", flush=True)
    colour = "grey" if chans == 1 else "colour"
    print(f"for {data.dataset}: {num_classes} classes, {colour}; another data set: --dataset;"
          " FLOPs: a multiplication and an addition are two")  # fmt: skip
    print("and timm/NAME or torchvision/NAME: --list-models 'timm/*', --list-models 'torchvision/*'")


def print_summary(asked: Asked) -> None:
    """Prints the layers of a model with output shapes and parameters. Raises BadRequest if torchinfo is missing."""
    data, group = asked.settings.data, asked.settings.model
    try:
        import torchinfo
    except ImportError:
        raise BadRequest("--summary needs the package torchinfo: pip install torchinfo") from None
    num_classes, side, chans = image_datasets.dimensions(image_datasets.Wanted.of(vars(data), reading=CURRENT))
    chans = data.in_chans or chans
    size = models.image_size(data.img_size, group.model, side)
    with devices.machine_errors_as_run_failed(lambda: f"{group.model} of this size"):
        model, flops = build(group.model, num_classes, size, chans, **group.model_args)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    image = torch.zeros(1, chans, *sides(size), device=device)
    table = torchinfo.summary(use_plain_layers(model), input_data=image, device=device, verbose=0, depth=4,
                              col_names=("output_size", "num_params"), row_settings=("var_names",))  # fmt: skip
    # Without torchinfo's mult-adds and megabytes: they miss parameters outside layers, such as attention's.
    print(str(table).partition("Total params:")[0], end="")
    params, trained = cost.count_parameters(model), cost.count_parameters(model, trainable=True)
    colour = "grey" if chans == 1 else "colour"
    print(f"{group.model} for {data.dataset}: {num_classes} classes, {colour} images of {in_px(size)}")
    if group.model_args:
        print(f"arguments: {', '.join(f'{name}={value}' for name, value in group.model_args.items())}")
    print(f"Total params: {params:,}{'' if trained == params else f' ({trained:,} trained)'}")
    print(f"{human(flops)}FLOPs per image, a multiplication and an addition counting as two")
