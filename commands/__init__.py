"""The commands of the scripts, one file each. A file is imported when its command runs, as it imports torch."""

from __future__ import annotations

from pathlib import Path

from image_datasets.given_files import find_given
from records.run_directory import RunDirectory
from settings import resume
from settings.checks import Asked
from settings.locate import locate_data
from settings.stored import blaming


def start_training(asked: Asked) -> None:
    """Trains, unless the run to resume is finished. Imports torch once the data are found. Raises BadRequest."""
    settings, given = asked.settings, asked.given
    directory = RunDirectory(Path(settings.run.runs_dir) / settings.run.run_name)
    stored = {key: value for key, value in settings.flat().items() if key not in given} if settings.run.resume else {}
    with blaming(directory.settings, stored):
        data, found = locate_data(settings.data, given)
        if settings.run.resume and resume.is_finished(settings):
            print(f"{directory.path}: finished already, see summary.json there")
            return
        from commands.train import run_training

        run_training(settings.replace(**vars(data)), found)


def start_prediction(asked: Asked) -> None:
    """Classifies image files. Imports torch once they are found. Raises BadRequest."""
    files, notes = find_given((asked.request.to_do.predict or [])[1:])
    from commands.predict import run_prediction

    run_prediction(asked, files, notes)
