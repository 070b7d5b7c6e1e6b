"""Classifies image files with a trained checkpoint."""

from __future__ import annotations

import contextlib
import csv
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from assembly.trained import batches_for, read_alike, read_trained
from image_datasets.bad_images import BadImage
from image_datasets.batches import EvalBatches
from image_datasets.reading import Reading
from image_datasets.splits import Split
from records import checkpoint
from settings.checks import Asked
from training import devices
from training.stopping import HANGUP, SAME_REQUEST_SECONDS
from utils import RunFailed, Stopped, noting_signals, readable, replacing

SHOWN = 5  # classes


class Answer(NamedTuple):
    """The most probable classes of a file.

    Attributes:
        top: (class, probability), the most probable class first; empty for an unreadable file.
        error: why the file is unreadable, else empty.
    """

    path: str
    top: list[tuple[str, float]]
    error: str


def run_prediction(asked: Asked, files: list[str], notes: list[str]) -> None:
    """Prints the most probable classes of each image file, or writes them to the file of --output.

    Args:
        files: each of them once.
        notes: what a user should know about the search for them.

    Raises BadRequest for an unusable checkpoint, and RunFailed, once all others are answered, for unreadable files.
    """
    need = f"--batch-size {asked.settings.optimization.batch_size}; try half of it"
    with devices.machine_errors_as_run_failed(lambda: need):
        _predict(asked, files, notes)


def _predict(asked: Asked, files: list[str], notes: list[str]) -> None:
    settings, output = asked.settings, asked.request.to_predict.output
    hardware, batch_size = settings.hardware, settings.optimization.batch_size
    model, content = read_trained((asked.request.to_do.predict or [""])[0])
    device = devices.set_up(hardware.device, hardware.gpu, eval_precision=hardware.eval_precision)
    for note in notes:
        print(f"note          {note}", file=sys.stderr)
    reading = Reading.of(vars(read_alike(settings.data, content["settings"])))
    split = Split(np.arange(len(files)), paths=files, reading=reading)  # the target of a file is its number
    workers = settings.data.num_workers if len(files) > batch_size else 0
    bad: dict[str, str] = {}
    batches = batches_for(content, split, device, batch_size, workers, report=bad.__setitem__)
    model = model.to(device, memory_format=torch.channels_last)
    shown = min(SHOWN, checkpoint.num_classes(content))
    answers = _answers(model, content["class_names"], batches, bad, hardware.eval_precision)
    failed, first = 0, ""
    with _stopping(at_once=not workers) as check, _taking(output, len(files), shown) as take:
        for answer in answers:
            check()
            take(answer)
            if answer.error:
                failed, first = failed + 1, first or str(BadImage(answer.path, answer.error))
        if failed == len(files):
            raise RunFailed(f"not one of {failed:,} files can be read; {first}")
    if output is not None:
        print(f"wrote         {output}: the classes of {len(files) - failed:,} images")
    if failed:
        raise RunFailed(f"{failed:,} of {len(files):,} files cannot be read, all others are answered; {first}")


def _answers(
    model: nn.Module, names: list[str] | None, batches: EvalBatches, bad: dict[str, str], precision: str
) -> Iterator[Answer]:
    """Yields the answers in the order of the files, those of a batch at once.

    Args:
        names: of the classes, if the checkpoint has them.
        bad: reasons by path, which the batches report.

    Raises RunFailed if logits are not finite.
    """
    paths = batches.split.paths or ()
    for (start, end), (images, numbers) in zip(batches.bounds, batches.unprepared(), strict=True):
        top = {}
        if len(images):
            with torch.inference_mode(), devices.autocast(batches.device, precision):
                logits = model(batches.prepare(images)).float()
            if not bool(logits.isfinite().all()):
                raise RunFailed(f"{paths[start]} to {paths[end - 1]}: the model's logits are not all finite")
            classes = logits.topk(min(SHOWN, logits.shape[1])).indices
            probabilities = logits.softmax(1).gather(1, classes)
            top = dict(zip(numbers.tolist(), zip(classes.tolist(), probabilities.tolist(), strict=True), strict=True))
        for number in range(start, end):
            pairs = zip(*top.get(number, ((), ())), strict=True)
            named = [(names[index] if names else f"class {index}", value) for index, value in pairs]
            yield Answer(paths[number], named, bad.pop(paths[number], ""))


@contextlib.contextmanager
def _stopping(at_once: bool) -> Iterator[Callable[[], None]]:
    """Yields a function that raises Stopped if a signal came. Unlike `Stop`, a second signal still cleans up.

    Args:
        at_once: a signal itself raises, wherever the main thread is. Else only a second one does: a loader worker that
            is left while it hands over a batch prints a stack trace.
    """
    came: list[int] = []

    def check() -> None:
        if came:
            raise Stopped(f"stopped by {signal.Signals(came[0]).name}", 128 + came[0])

    def note(number: int) -> None:
        came.append(number)
        if at_once or len(came) > 1:
            check()

    with noting_signals(note, SAME_REQUEST_SECONDS, stay_ignored=HANGUP):
        yield check


@contextlib.contextmanager
def _taking(output: str | None, count: int, shown: int) -> Iterator[Callable[[Answer], None]]:
    """Yields a function that prints an answer, or writes it to a file that replaces `output` at the end of the block.

    Args:
        count: number of answers, for the progress bar.
        shown: classes per answer.
    """
    from tqdm import tqdm

    if output is None:
        yield _print
        return
    names = ("class", "probability")
    columns = ["path", *(f"{name}_{rank}" for rank in range(1, shown + 1) for name in names), "error"]
    with (
        replacing(Path(output)) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        tqdm(total=count, desc="predicting", unit="img", leave=False, disable=not sys.stderr.isatty()) as bar,
    ):
        # Rows end in \r\n, as in RFC 4180; csv quotes a line feed or a carriage return in a name only then.
        table = csv.DictWriter(file, columns) if output.endswith(".csv") else None
        if table is not None:
            table.writeheader()

        def write(answer: Answer) -> None:
            if table is not None:
                table.writerow(_row(answer))
            else:
                file.write(json.dumps(_row(answer)) + "\n")
            bar.update()

        yield write


def _row(answer: Answer) -> dict[str, Any]:
    """The answer by column of the file."""
    row: dict[str, Any] = {"path": readable(answer.path)}
    for rank, (name, value) in enumerate(answer.top, 1):
        row |= {f"class_{rank}": name, f"probability_{rank}": round(value, 6)}
    return {**row, "error": answer.error} if answer.error else row


def _print(answer: Answer) -> None:
    if answer.error:
        print(*str(BadImage(answer.path, answer.error)).splitlines(), file=sys.stderr, flush=True)
        return
    lines = [answer.path, *(f"  {100 * value:6.2f} %  {name}" for name, value in answer.top)]
    print("\n".join(lines), flush=True)
