"""Finding finished runs, which can be measured. Imports nothing heavy: the flag checks use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_datasets.dataset import CHOICE
from image_datasets.reading import SETTINGS
from records.run_directory import RunDirectory
from records.stored_settings import complete_older
from utils import BadRequest, read_json


@dataclass(frozen=True)
class FinishedRun:
    """A run that has written its summary.

    Attributes:
        checkpoint: file with the selected weights.
        dataset, data_path: the data set it reported on, and the folder it was read from.
        reading: settings by which its images were chosen and read.
        top1: the top-1 accuracy it reported, from 0 to 1.
        is_evaluation: the run scored a checkpoint, perhaps on other data than the model was trained on.
    """

    directory: RunDirectory
    checkpoint: Path
    dataset: str
    data_path: str | None
    reading: dict[str, Any]
    top1: float
    is_evaluation: bool = False


def find(paths: list[str]) -> list[FinishedRun]:
    """Returns the finished runs in these folders, each once.

    Args:
        paths: run directories, or folders that hold some at any depth. Unfinished runs in the latter are left out.

    Raises BadRequest, naming the folder or file, if there is no run, if a run directory given directly is not finished,
    or if a run has lost its checkpoint.
    """
    found: dict[Path, FinishedRun] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise BadRequest(f"--measure {path}: {'is a file' if path.exists() else 'no such folder'}; it takes run"
                             " directories, or folders that hold some")  # fmt: skip
        directories = [RunDirectory(path)]
        if not directories[0].settings.is_file():
            directories = [RunDirectory(file.parent) for file in sorted(path.rglob("settings.json"))]
            if not directories:
                raise BadRequest(f"--measure {path}: there is no run in it (no settings.json)")
            directories = [directory for directory in directories if directory.summary.is_file()]
            if not directories:
                raise BadRequest(f"--measure {path}: none of the runs in it is finished (no summary.json)")
        for directory in directories:
            found.setdefault(directory.path.resolve(), _read(directory))
    return list(found.values())


def _read(directory: RunDirectory) -> FinishedRun:
    if not directory.summary.is_file():
        raise BadRequest(
            f"{directory.path}: the run is not finished (no {directory.summary.name}); --resume continues it"
        )
    content = read_json(directory.summary)
    content = content if isinstance(content, dict) else {}
    settings = content.get("settings")
    settings = complete_older(settings if isinstance(settings, dict) else {})
    kinds = {"dataset": str, "data_path": str | None, "evaluated": str | None}
    wrong = [key for key, kind in kinds.items() if not isinstance(settings.get(key), kind)]
    if wrong or not isinstance(content.get("top1"), float):
        raise BadRequest(f"{directory.summary}: damaged (no {wrong[0] if wrong else 'top1'} of a run)")
    checkpoint = Path(settings.get("evaluated") or directory.best)  # an evaluation names the file that it scored
    if not checkpoint.is_file():
        where = "" if checkpoint.is_absolute() else f", relative to {Path.cwd()}, the current folder"
        raise BadRequest(f"{directory.path}: its checkpoint {checkpoint} is not there{where}")
    reading = {key: settings.get(key) for key in (*SETTINGS, *CHOICE)}
    evaluated = settings.get("evaluated") is not None
    return FinishedRun(
        directory, checkpoint, settings["dataset"], settings["data_path"], reading, content["top1"], evaluated
    )
