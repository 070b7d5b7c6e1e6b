"""The run directory: the files of a run. Other scripts read nothing else of it."""

from __future__ import annotations

import csv
import datetime
import io
import os
import re
import shlex
import shutil
import sys
import uuid
from pathlib import Path
from typing import Any

from records import lock
from records.checkout import checkout
from utils import BadRequest, read_json, replacing, write_json, write_text

TEACHER = "-teacher"  # suffix of the run name of a student's teacher
EPOCH = re.compile(r"epoch-(\d{4,})")  # stem of the checkpoint of an epoch that --keep keeps
PACKAGES = ("torch", "torchvision", "timm", "numpy", "torchmetrics", "scikit-learn", "wandb")


class RunDirectory:
    """Paths of the files in runs/<run-name>/, and how to write them.

    robustness.json and cost.json exist only once they have been measured.
    """

    def __init__(self, path: Path):
        self.path = path
        self.settings = path / "settings.json"
        self.log = path / "log.txt"
        self.metrics = path / "metrics.csv"
        self.last = path / "last.pth"
        self.previous = path / "previous.pth"
        self.best = path / "best.pth"
        self.predictions = path / "predictions.npz"
        self.summary = path / "summary.json"
        self.images = path / "images.csv.gz"
        self.bad_images = path / "bad_images.txt"
        self.curves = path / "curves.png"
        self.confusion = path / "confusion.png"
        self.confusion_table = path / "confusion.csv"
        self.robustness = path / "robustness.json"
        self.cost = path / "cost.json"

    def clear(self, keep: tuple[str, ...] = ()) -> None:
        """Deletes everything in the folder, except for the names to keep."""
        for entry in sorted(self.path.iterdir()):
            if entry.name in keep:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def of_epoch(self, epoch: int) -> Path:
        """The checkpoint of an epoch, counted from 1, if --keep keeps it."""
        return self.path / f"epoch-{epoch:04d}.pth"

    def kept_epochs(self) -> dict[int, Path]:
        """The kept checkpoints of single epochs, by epoch."""
        files = {file: EPOCH.fullmatch(file.stem) for file in sorted(self.path.glob("epoch-*.pth"))}
        return {int(match[1]): file for file, match in files.items() if match}

    def remove_leftovers(self) -> None:
        """Deletes half-written files of a killed process."""
        stems = {file.stem for file in vars(self).values() if file != self.path}
        for leftover in self.path.glob(".*-*"):
            stem = leftover.name[1:].rpartition("-")[0]
            if stem in stems or EPOCH.fullmatch(stem):
                leftover.unlink()

    def create(self, settings: dict[str, Any], overwrite: bool, attempt: dict[str, Any]) -> str:
        """Creates the folder and writes settings.json. Returns the run's id at wandb.

        Args:
            overwrite: delete an existing run first.
            attempt: see `this_attempt`.

        Raises BadRequest if the folder cannot be created.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if overwrite:
                self.clear(keep=(lock.NAME,))
            # WANDB_RUN_ID belongs to one run: a teacher trained in the same process gets its own.
            run_id = os.environ.pop("WANDB_RUN_ID", None) or uuid.uuid4().hex[:8]
            write_json(
                self.settings,
                {
                    "settings": settings,
                    **{key: value for key, value in attempt.items() if key != "time"},
                    "wandb_run_id": run_id,
                    "attempts": [attempt],
                },
            )
        except OSError as error:
            raise BadRequest(f"{self.path}: cannot be written ({error.strerror})") from None
        return run_id

    def add_attempt(
        self, attempt: dict[str, Any], settings: dict[str, Any] | None = None, extension: dict[str, Any] | None = None
    ) -> str:
        """Adds an attempt to settings.json. Returns the run's id at wandb.

        Args:
            settings: replace those of the run, with an `extension` that says why.

        Raises BadRequest if the file cannot be written.
        """
        stored = read_json(self.settings)
        changed = {**stored, "attempts": [*attempts(stored), attempt]}
        if extension is not None:
            changed |= {"settings": settings, "extensions": [*self.extensions(), extension]}
        try:
            write_json(self.settings, changed)
        except OSError as error:
            raise BadRequest(f"{self.settings}: cannot be written ({error.strerror})") from None
        return stored["wandb_run_id"]

    def extensions(self) -> list[dict[str, Any]]:
        """The extensions of the run to more epochs, oldest first; see `assembly.continuing.Extension`."""
        return read_json(self.settings).get("extensions", [])

    def commits(self) -> list[dict[str, Any]]:
        """{"commit", "changed"} of the attempts, without repetitions."""
        found = [
            {key: attempt.get(key) for key in ("commit", "changed")} for attempt in attempts(read_json(self.settings))
        ]
        return [one for i, one in enumerate(found) if one not in found[:i]]

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Writes metrics.csv: a row for each epoch, with missing values empty."""
        text = io.StringIO()
        names = list(dict.fromkeys(name for row in history for name in row))
        writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_text(self.metrics, text.getvalue())

    def write_predictions(self, logits, targets, class_names: list[str]) -> None:
        """Writes predictions.npz: logits float32 (N, K), targets int64 (N,), class_names (K,), in the split's order."""
        import numpy as np

        with replacing(self.predictions) as temporary:
            np.savez(temporary, logits=logits, targets=targets, class_names=np.array(class_names, dtype=np.str_))

    def write_confusion(self, confusion, class_names: list[str]) -> None:
        """Writes confusion.csv: counts, one row per true class, one column per prediction."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["true \\ answer", *class_names])
        for name, row in zip(class_names, confusion.tolist(), strict=True):
            writer.writerow([name, *row])
        write_text(self.confusion_table, text.getvalue())


def this_attempt(device: str) -> dict[str, Any]:
    """Describes this process as it works on a run: time, command, commit, changed, device, versions."""
    return {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        **checkout(),
        "device": device,
        "versions": versions(),
    }


def attempts(stored: dict[str, Any]) -> list[dict[str, Any]]:
    """The attempts in a settings.json, oldest first. Earlier versions stored less, and of the first attempt only."""
    first = {"time": None, "command": stored.get("command"), "commit": None, "changed": None, "device": None,
             "versions": stored.get("versions")}  # fmt: skip
    return stored.get("attempts") or [first]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results may depend on."""
    from importlib import metadata

    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def check_run_directory(path: Path, resume: bool | None, overwrite: bool, needed: str | None = None) -> None:
    """Raises BadRequest if the run directory cannot be created, or exists and must not be touched. Writes nothing.

    Args:
        resume: None for a command that cannot resume.
        needed: a file that the run reads, which must not be deleted with the directory.
    """
    if path.exists() and not path.is_dir():
        raise BadRequest(f"{path}: is a file, not a run directory; choose another --run-name")
    if path.is_dir() and any(entry.name != lock.NAME for entry in path.iterdir()):
        if not (resume or overwrite):
            continues = "" if resume is None else "--resume continues it, "
            raise BadRequest(f"{path}: there is such a run; {continues}--overwrite deletes it,"
                             " --run-name names another")  # fmt: skip
        if overwrite and not (path / "settings.json").is_file():
            raise BadRequest(f"{path}: is no run directory (no settings.json), so --overwrite does not delete it")
        if overwrite and needed and Path(needed).resolve().is_relative_to(path.resolve()):
            raise BadRequest(f"{path}: --overwrite would delete {needed}, which is needed; choose another --run-name")
        if overwrite and (inner := next(path.glob("*/**/settings.json"), None)):
            raise BadRequest(f"{path}: --overwrite would delete the run {inner.parent} too; choose another --run-name")
    parent = path
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise BadRequest(f"{path}: cannot be written ({parent} is {'not writable' if parent.is_dir() else 'a file'})")
