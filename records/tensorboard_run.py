"""A run in TensorBoard."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from records.log import say
from records.trackers import Fallible, within
from utils import BadRequest, is_main_process

SECONDS = 15  # for one call, which may come when a scheduler is about to kill the process
PLAIN = (bool, int, float, str)  # what TensorBoard takes as a hyperparameter


def check_installed() -> None:
    """Raises BadRequest if the package tensorboard is missing. Imports nothing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise BadRequest(
            f"--tensorboard needs a package that is not installed for {sys.executable}: pip install tensorboard"
        )


class TensorBoard(Fallible):
    """Event files in the folder tensorboard/ of a run directory, written by the main process.

    A number is tagged by its name with the first underscore as a slash: train_loss is train/loss, val_ema_top1 is
    val/ema_top1. The summary's numbers are below summary/.
    """

    name = "tensorboard"

    def __init__(self, directory: Path, settings: dict[str, Any], history: list[dict[str, Any]]):
        """Starts a new event file with the epochs so far.

        Readers then drop what earlier attempts wrote: an epoch whose checkpoint was lost does not appear twice.

        Args:
            directory: of the run.
            settings: shown as hyperparameters.
            history: a row for each finished epoch, see `RunState`.
        """
        super().__init__()
        self.settings, self.step = settings, 0
        if not is_main_process():
            return
        folder = directory / self.name
        try:
            self.run = within(SECONDS, lambda: EventFile(folder))
            say(f"{self.name:14}{folder}")
        except Exception as error:  # disk, or a package that does not fit: no reason to stop training
            self._give_up(error)
        for row in history:
            self.log(row, row["epoch"])

    def log(self, values: dict[str, Any], step: int) -> None:
        """Writes the numbers of an epoch."""
        self.step = step
        numbers = {name: value for name, value in values.items() if isinstance(value, (int, float)) and name != "epoch"}
        tagged = {name.replace("_", "/", 1): value for name, value in numbers.items()}
        self._try(SECONDS, lambda file: file.write_scalars(tagged, step))

    def finish(self, summary: dict[str, Any], pictures: dict[str, Path]) -> None:
        """Writes the summary's numbers, the pictures that exist and the settings, and closes the file."""
        settings = {key: value if isinstance(value, PLAIN) else str(value) for key, value in self.settings.items()}
        scores = {f"summary/{name}": value for name, value in summary.items()}

        def publish(file: EventFile) -> None:
            from torch.utils.tensorboard.summary import hparams

            file.write_scalars(scores, self.step)
            for name, path in pictures.items():
                if path.is_file():
                    file.write_picture(name, path, self.step)
            for part in hparams(settings, scores):
                file.write(summary=part)
            file.close()

        self._try(SECONDS, publish)

    def stop(self, failed: bool, preempted: bool = False) -> None:
        """Closes the file."""
        self._try(SECONDS, lambda file: file.close())


class EventFile:
    """A file of TensorBoard's events, which a reader shows in place of those in older files of the folder.

    It is written in the calling thread, which gets the errors. torch's SummaryWriter has a thread of its own, where an
    error prints a traceback.
    """

    def __init__(self, folder: Path):
        from tensorboard.compat.proto.event_pb2 import SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        from torch.utils.tensorboard import RecordWriter

        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self.records = RecordWriter((folder / name).open("ab"))
        self.write(file_version="brain.Event:2")
        self.write(step=1, session_log=SessionLog(status=SessionLog.START))  # replaces all from step 1 on

    def write(self, **fields: Any) -> None:
        """Writes an event with these fields of its protocol buffer."""
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        self.records.write(Event(wall_time=time.time(), **fields).SerializeToString())

    def write_scalars(self, values: dict[str, float], step: int) -> None:
        """Writes numbers by tag, for readers to see at once."""
        from torch.utils.tensorboard.summary import scalar

        for tag, value in values.items():
            self.write(step=step, summary=scalar(tag, value))
        self.records.flush()

    def write_picture(self, tag: str, path: Path, step: int) -> None:
        """Writes an image file."""
        import numpy as np
        from PIL import Image
        from torch.utils.tensorboard.summary import image

        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self.write(step=step, summary=image(tag, pixels, dataformats="HWC"))

    def close(self) -> None:
        """Ends the file."""
        self.records.close()
