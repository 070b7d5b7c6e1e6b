"""Which runs can be measured. Nothing heavy is imported here: the flag checks use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_datasets.reading import SETTINGS
from records.run_directory import RunDirectory
from records.stored_settings import complete_older
from utils import BadRequest, read_json


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        checkpoint: holds the selected weights.
        dataset, data_path: what it reported on, and the folder that this was read from.
        reading: the settings by which its image files were found and read.
        top1: what it reported.
        is_evaluation: it scored a checkpoint, perhaps on other data than that was trained on.
    """

    directory: RunDirectory
    checkpoint: Path
    dataset: str
    data_path: str | None
    reading: dict[str, Any]
    top1: float
    is_evaluation: bool = False


def find(paths: list[str]) -> list[FinishedRun]:
    """The runs in these folders, each once: run directories, and folders that hold some at any depth, of which the
    unfinished ones are left out.

    Raises BadRequest, naming the folder or file, where there is none, or a run that is named is not finished or has
    lost its checkpoint.
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
    checkpoint = Path(settings.get("evaluated") or directory.best)  # of an evaluation: the file that it scored
    if not checkpoint.is_file():
        where = "" if checkpoint.is_absolute() else f", relative to {Path.cwd()}, the current folder"
        raise BadRequest(f"{directory.path}: its checkpoint {checkpoint} is not there{where}")
    reading = {key: settings[key] for key in SETTINGS}
    evaluated = settings.get("evaluated") is not None
    return FinishedRun(
        directory, checkpoint, settings["dataset"], settings["data_path"], reading, content["top1"], evaluated
    )
