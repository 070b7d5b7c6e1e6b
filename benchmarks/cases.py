"""The models to measure, with their image sizes, batch sizes and optimisers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import models
from settings.flag_types import COUNT, one_of, text
from settings.flags import Flag

MODEL = Flag("model", "names of models", check=text, metavar="NAME", nargs="+", default_text="a list of six")
BATCH_SIZE = Flag("batch-size", "images in a batch", check=COUNT, metavar="N", default_text="128 up to 64 px, else 32")
IMG_SIZE = Flag("img-size", "side of the images that the models get, in pixels", check=COUNT, metavar="PX",
                default_text="32 to 256, by model")  # fmt: skip
OPTIMIZER = Flag("optimizer", "sgd or adamw", check=one_of("sgd", "adamw"), metavar="NAME",
                 default_text="adamw for the transformers among the six, else sgd")  # fmt: skip
PRECISION = Flag("precision", "of the suite's way and of timm's: fp32, bf16, or auto, what a run on the device chooses",
                 default="auto", check=one_of("auto", "fp32", "bf16"), metavar="KIND")  # fmt: skip


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
    Case("resnet18", 32),
    Case("mobilenet_v2", 32),
    Case("mobilenet_v3_small", 224),
    Case("vit_tiny", 224, "adamw"),
    Case("vit_tiny", 32, "adamw", {"patch_size": 4}),
    Case("mobilevit_xxs", 256, "adamw"),
]
QUICK_CASES = [Case("resnet20", 16), Case("vit_tiny", 32, "adamw", {"patch_size": 16, "depth": 1})]


def choose(s: SimpleNamespace) -> list[Case]:
    """The models that are asked for, with the sizes and the optimiser that are."""
    cases = QUICK_CASES if s.quick else CASES
    if s.model:
        known = {name: [case for case in cases if case.model == name] for name in s.model}
        cases = [case for name in s.model for case in known[name] or [Case(name, _img_size(name))]]
    asked = {key: getattr(s, key, None) for key in ("img_size", "batch_size", "optimizer")}
    return [replace(case, **{key: value for key, value in asked.items() if value}) for case in cases]


def _img_size(name: str) -> int:
    entry = models.find_model(name)
    return 224 if entry is None else entry.img_size or 32
