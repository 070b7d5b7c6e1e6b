"""Trains or evaluates any registered model on any data set. `python main.py --help` lists the flags."""

from __future__ import annotations

import sys
from pathlib import Path

from training import options

DESCRIPTION = "Train an image classifier, and report on its test split once, with the weights that validation selected."


def main() -> int:
    argv = sys.argv[1:]
    if not argv:
        from utils import BadRequest

        raise BadRequest("no flags given; for a first result: --dataset digits --epochs 20; all flags: --help")
    mode, settings, given = options.parse(argv, DESCRIPTION)
    if mode == "list":
        return list_models(settings.list_models)
    if mode == "train":
        found = options.check_data(settings, given)
        if settings.resume and options.finished(settings):
            print(f"{Path(settings.runs_dir) / settings.run_name}: finished already, see summary.json there")
            return 0
        from training.run import run_training

        run_training(settings, found)
    elif mode == "evaluate":
        from training.use import run_evaluation

        run_evaluation(settings, given)
    else:
        from training.use import run_prediction

        run_prediction(settings)
    return 0


def list_models(pattern: str | None) -> int:
    import models
    from utils import BadRequest

    names = models.list_models(pattern or "*")
    if not names:
        raise BadRequest(
            f"--list-models {pattern}: no model matches; 'timm/*' and 'torchvision/*' list those libraries"
        )
    print("\n".join(names))
    if pattern is None:
        print("and timm/NAME or torchvision/NAME: --list-models 'timm/*', --list-models 'torchvision/*'")
    return 0


if __name__ == "__main__":
    sys.exit(options.one_line_errors(main))
