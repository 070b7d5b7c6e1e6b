"""What a script can be asked to do: a file for each request, imported when it is asked for, as it brings torch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from settings import checks, resume
from settings.stored import blaming


def start_training(s: SimpleNamespace, given: dict[str, Any]) -> None:
    """Trains, unless the run to be resumed is finished. Imports torch once the data are found."""
    directory = Path(s.runs_dir) / s.run_name
    taken_up = {key: value for key, value in vars(s).items() if key not in given} if s.resume else {}
    with blaming(directory / "settings.json", taken_up):
        found = checks.check_data(s, given)
        if s.resume and resume.is_finished(s):
            print(f"{directory}: finished already, see summary.json there")
            return
        from commands.train import run_training

        run_training(s, found)
