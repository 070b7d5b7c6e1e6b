"""Ten random images of the reported split (ImageNet-100's val.X), and what two trained models answer: as text and as a
picture. `python viz_random_10_vit_vs_deit.py --help` lists the flags."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from settings import checks, terminal
from settings.flag_types import COUNT, number, path
from settings.flags import FLAGS, Flag
from settings.parser import read_flags
from utils import BadRequest, require

DESCRIPTION = (
    "Draw random images of the split that results are reported on, with the answers of two trained models."
    " The defaults are the two runs of the ImageNet-100 study."
)
GROUPS = {
    "models": [
        Flag("first", "run directory or checkpoint of the first model", default="runs/baseline_vit_tiny", check=path,
             metavar="PATH"),
        Flag("second", "run directory or checkpoint of the second model", default="runs/deit_tiny_distill", check=path,
             metavar="PATH"),
    ],
    "images": [
        replace(FLAGS["dataset"], default_text="that of the first model's run"),
        replace(FLAGS["data_path"], default_text="that of the first model's run"),
        FLAGS["accept_changed_data"],
        replace(FLAGS["on_bad_image"], help="what an image file that cannot be read does: error, it stops the script;"
                " skip, others are drawn in its place"),
        Flag("num-images", "images to draw", default=10, check=number(int, 1, 100), metavar="N"),
        Flag("disagreements", "draw images on which the two models give different answers", default=False),
        replace(FLAGS["seed"], help="seed of the choice of images"),
    ],
    "picture": [
        Flag("attention", "beside each image what the answers rest on: attention rollout of Vision Transformers,"
             " Grad-CAM of convolutional networks", default=False),
        Flag("output", "picture to write, replacing it", default="vit_vs_deit_random10.png", check=path, metavar="PNG"),
    ],
    "hardware": [
        FLAGS["device"],
        FLAGS["gpu"],
        replace(FLAGS["eval_precision"], help="of both models: fp32 (never TF32), bf16 or fp16"),
        replace(FLAGS["batch_size"], help="images per batch", check=COUNT),
        FLAGS["num_workers"],
    ],
}  # fmt: skip
OF_STUDY = {
    "runs/baseline_vit_tiny": "--model vit_tiny --run-name baseline_vit_tiny",
    "runs/deit_tiny_distill": "--model deit_tiny_distill --teacher resnet18 --run-name deit_tiny_distill",
}


def main(argv: list[str] | None = None) -> int:
    """Draws what the command line asks for."""
    argv = sys.argv[1:] if argv is None else argv
    given = read_flags(argv, DESCRIPTION, GROUPS)
    settings = checks.complete(given, GROUPS)
    settings.first = _checkpoint("first", settings.first)
    settings.second = _checkpoint("second", settings.second)
    checks.check_output_file("--output", settings.output)
    checks.check_hardware(settings)
    require(*checks.PACKAGES)
    from commands.compare_predictions import show_answers  # imports torch

    show_answers(settings, given)
    return 0


def _checkpoint(flag: str, name: str) -> str:
    path = Path(name)
    file = path / "best.pth" if path.is_dir() else path
    if not file.is_file():
        what = f"has no {file.name}" if path.is_dir() else "no such run directory or checkpoint"
        words = OF_STUDY.get(name)
        advice = f"; train it: python train_deit_imagenet100.py --data-path PATH {words}" if words else ""
        raise BadRequest(f"--{flag} {name}: {what}{advice}")
    return str(file)


if __name__ == "__main__":
    sys.exit(terminal.run_script(main))
