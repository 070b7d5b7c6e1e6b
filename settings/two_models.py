"""Flags of viz_random_10_vit_vs_deit.py: two trained models, and the images to show them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from settings import checks, defaults, parser
from settings.flag import Groups, flag, same_flag
from settings.flag_types import COUNT, number, path
from settings.groups import Data, Hardware, Optimization
from utils import BadRequest

DESCRIPTION = (
    "Draw random images of the split that results are reported on, with the answers of two trained models."
    " The defaults are the two runs of the ImageNet-100 study."
)
OF_STUDY = {
    "runs/baseline_vit_tiny": "--model vit_tiny --run-name baseline_vit_tiny",
    "runs/deit_tiny_distill": "--model deit_tiny_distill --teacher resnet18 --run-name deit_tiny_distill",
}

# fmt: off


@dataclass(frozen=True, kw_only=True)
class Pair:
    """models"""

    first: str = flag("run directory or checkpoint of the first model", "runs/baseline_vit_tiny", check=path,
        metavar="PATH")
    second: str = flag("run directory or checkpoint of the second model", "runs/deit_tiny_distill", check=path,
        metavar="PATH")


@dataclass(frozen=True, kw_only=True)
class Images:
    """images"""

    dataset: str = same_flag(Data, "dataset", default_text="that of the first model's run")
    data_path: str | None = same_flag(Data, "data_path", default_text="that of the first model's run")
    accept_changed_data: bool = same_flag(Data, "accept_changed_data")
    on_bad_image: str = same_flag(Data, "on_bad_image", help="what an image file that cannot be read does: error, it"
        " stops the script; skip, others are drawn in its place")
    num_images: int = flag("images to draw", 10, check=number(int, 1, 100), metavar="N")
    disagreements: bool = flag("draw images on which the two models give different answers", False)
    seed: int = same_flag(Hardware, "seed", help="seed of the choice of images")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """picture"""

    attention: bool = flag("beside each image what the answers rest on: attention rollout of Vision Transformers,"
        " Grad-CAM of convolutional networks", False)
    output: str = flag("picture to write, replacing it", "vit_vs_deit_random10.png", check=path, metavar="PNG")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """hardware"""

    device: str | None = same_flag(Hardware, "device")
    gpu: int | None = same_flag(Hardware, "gpu")
    eval_precision: str = same_flag(Hardware, "eval_precision",
        help="of both models: fp32 (never TF32), bf16 or fp16")
    batch_size: int = same_flag(Optimization, "batch_size", help="images per batch", check=COUNT)
    num_workers: int = same_flag(Data, "num_workers")


# fmt: on


@dataclass(frozen=True, kw_only=True)
class TwoModels(Groups):
    """All groups."""

    models: Pair = field(default_factory=Pair)
    images: Images = field(default_factory=Images)
    picture: Picture = field(default_factory=Picture)
    hardware: Machine = field(default_factory=Machine)

    def data(self) -> Data:
        """Returns the settings of the data set, with defaults for those without a flag here."""
        shared = {key: value for key, value in self.flat().items() if key in Data.__dataclass_fields__}
        return replace(Data(), **shared)


def ask(argv: list[str]) -> tuple[TwoModels, dict[str, Any]]:
    """Parses and checks the command line. Raises BadRequest, naming the flag.

    Returns:
        The request, with checkpoints for run directories, and the given flags by key.
    """
    request, given = parser.ask(argv, DESCRIPTION, TwoModels)
    first = _checkpoint("first", request.models.first)
    second = _checkpoint("second", request.models.second)
    checks.check_output_file("--output", request.picture.output)
    checks.check_device(request.hardware.device, request.hardware.gpu)
    workers = defaults.default_workers(request.hardware.num_workers)
    return request.replace(first=first, second=second, num_workers=workers), given


def _checkpoint(flag: str, name: str) -> str:
    path = Path(name)
    file = path / "best.pth" if path.is_dir() else path
    if not file.is_file():
        what = f"has no {file.name}" if path.is_dir() else "no such run directory or checkpoint"
        words = OF_STUDY.get(name)
        advice = f"; train it: python train_deit_imagenet100.py --data-path PATH {words}" if words else ""
        raise BadRequest(f"--{flag} {name}: {what}{advice}")
    return str(file)
