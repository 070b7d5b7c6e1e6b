"""Trains or evaluates any registered model on any data set. `python main.py --help` lists the flags."""

from __future__ import annotations

import sys

from commands import start_training
from commands.menu import run_menu
from settings import checks, terminal
from settings.flags import EVALUATE, LIST, MEASURE, PREDICT, SUMMARY, TRAIN
from settings.scripts import SCRIPTS
from utils import BadRequest, require


def main(argv: list[str] | None = None) -> int:
    """Does what the command line asks for; without any flags, at a terminal, what the menu is asked for."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv and sys.stdin.isatty() and sys.stdout.isatty():
        return run_menu(main)
    if not argv:
        raise BadRequest(
            "no flags given; usage: main.py [flags]; for a first result: --dataset digits --epochs 20;"
            " all flags: --help; at a terminal there is a menu"
        )
    mode, settings, given = SCRIPTS["main.py"].parse(argv)
    require(*checks.PACKAGES)
    if mode == TRAIN:
        start_training(settings, given)
    elif mode == EVALUATE:
        from commands.evaluate import run_evaluation

        run_evaluation(settings, given)
    elif mode == MEASURE:
        from commands.measure import run_measurements

        run_measurements(settings, given)
    elif mode == PREDICT:
        from commands.predict import run_prediction

        run_prediction(settings)
    elif mode == LIST:
        from commands import catalogue

        s = settings
        catalogue.print_models(s.list_models, s.dataset, s.data_path, s.img_size, s.in_chans)
    elif mode == SUMMARY:
        from commands import catalogue

        catalogue.print_summary(settings)
    else:
        found = checks.check_data(settings, given)
        from commands.inspect_data import inspect_data

        inspect_data(settings, found)
    return 0


if __name__ == "__main__":
    sys.exit(terminal.run_script(main))
