"""The commands of the scripts, one file each. A file is imported when its command runs, as it imports torch."""

from __future__ import annotations

from pathlib import Path

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
