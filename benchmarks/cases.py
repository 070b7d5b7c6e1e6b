"""The models to measure, with their image sizes, batch sizes and optimisers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import models
from benchmarks.common import How
from settings.flag import flag
from settings.flag_types import COUNT, one_of, text

# fmt: off


@dataclass(frozen=True, kw_only=True)
class CaseFlags(How):
    """Flags that choose the cases."""

    model: list[str] | None = flag("names of models", check=text, metavar="NAME", nargs="+",
        default_text="a list of seven")
    batch_size: int | None = flag("images in a batch", check=COUNT, metavar="N",
        default_text="128 up to 64 px, else 32")
    img_size: int | None = flag("side of the images that the models get, in pixels", check=COUNT, metavar="PX",
        default_text="32 to 256, by model")
    optimizer: str | None = flag("sgd or adamw", check=one_of("sgd", "adamw"), metavar="NAME",
        default_text="adamw for the transformers among the seven, else sgd")
    precision: str = flag("of the suite's way and of timm's: fp32, bf16, or auto, what a run on the device chooses",
        "auto", check=one_of("auto", "fp32", "bf16"), metavar="KIND")


# fmt: on


@dataclass(frozen=True)
class Case:
    """A model with the image size and optimiser that are common for it."""

    model: str
    img_size: int
    optimizer: str = "sgd"
    args: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None

    @property
    def batch(self) -> int:
        """Images in a batch."""
        return self.batch_size or (128 if self.img_size <= 64 else 32)

    @property
    def title(self) -> str:
        """The case as it is printed."""
        args = "".join(f", {key} {value}" for key, value in self.args.items())
        return f"{self.model}, {self.img_size} px{args}, batch {self.batch}"


CASES = [
    Case("vgg16", 32),
    Case("resnet18", 32),
    Case("mobilenet_v2", 32),
    Case("mobilenet_v3_small", 224),
    Case("vit_tiny", 224, "adamw"),
    Case("vit_tiny", 32, "adamw", {"patch_size": 4}),
    Case("mobilevit_xxs", 256, "adamw"),
]
QUICK_CASES = [Case("resnet20", 16), Case("vit_tiny", 32, "adamw", {"patch_size": 16, "depth": 1})]


def choose(request: How) -> list[Case]:
    """The cases to measure, by the flags."""
    cases = QUICK_CASES if request.quick else CASES
    asked = {key: getattr(request, key, None) for key in ("model", "img_size", "batch_size", "optimizer")}
    if names := asked.pop("model"):
        known = {name: [case for case in cases if case.model == name] for name in names}
        cases = [case for name in names for case in known[name] or [Case(name, _img_size(name))]]
    return [replace(case, **{key: value for key, value in asked.items() if value}) for case in cases]


def _img_size(name: str) -> int:
    entry = models.find_model(name)
    return 224 if entry is None else entry.img_size or 32
