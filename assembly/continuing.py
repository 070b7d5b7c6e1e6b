"""Continues a run: where it stands, with another number of processes, and with more epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from records.log import say
from records.run_directory import RunDirectory
from settings.groups import Settings
from training.schedules import continues_exactly
from training.state import RunState
from utils import BadRequest, read_json, world_size


@dataclass(frozen=True)
class Extension:
    """A run is given more epochs.

    Attributes:
        after_epoch: finished epochs at that time.
        epochs: of the run, before and now.
        schedule: "goes on", or "anew" with --extend.
        scored: the test split has been scored before.
    """

    after_epoch: int
    epochs: tuple[int, int]
    schedule: str
    scored: bool


def position(state: RunState, epochs: int) -> str:
    """Describes how far a run has come."""
    within = f", batch {state.batch} of the next" if state.batch else ""
    return f"after epoch {state.epoch} of {epochs}{within}"


def adapt_step(state: RunState, steps_per_epoch: int) -> None:
    """Adapts the step if another number of processes resumes at the end of an epoch: its epochs have other lengths."""
    step = state.epoch * steps_per_epoch
    if step != state.step:
        say(f"note          an epoch has {steps_per_epoch} steps with {world_size()} process(es) instead of"
            f" {state.step // state.epoch}; the schedule goes on at the end of epoch {state.epoch}")  # fmt: skip
        state.step = step


def with_more_epochs(
    settings: Settings, directory: RunDirectory, state: RunState | None, steps_per_epoch: int
) -> tuple[Settings, Extension | None]:
    """Returns the settings of a resumed run, and its extension if it is given more epochs than it has so far.

    With --extend the schedule starts anew at the end of the last finished epoch. Without, all learning rates so far
    must be those of a run that had these epochs from the start.

    Args:
        state: as restored; None if the run has no checkpoint yet.

    Raises BadRequest if they are not, or if the schedule does not fit into the epochs that are left.
    """
    stored, group = read_json(directory.settings)["settings"], settings.optimization
    former, epochs = stored["epochs"], group.epochs
    if epochs == former:
        return settings.replace(extend=stored.get("extend")), None
    if state is None:
        raise BadRequest(f"--epochs {epochs}: the run to be resumed has no checkpoint yet, and --epochs {former};"
                         " --overwrite starts it anew")  # fmt: skip
    if state.epochs_since_best >= (group.early_stopping or math.inf):
        raise BadRequest(f"--epochs {epochs}: the run stopped early, as no epoch was better than {state.best['epoch']};"
                         f" --weights {directory.last} starts a new run from its weights")  # fmt: skip
    averages = group.average_last is not None and state.step > steps_per_epoch * (former - group.average_last)
    anew = group.extend is True
    if anew:
        left = epochs - state.epoch
        if left <= group.warmup_epochs + (group.decay_epochs or 0) or (averages and left < (group.average_last or 0)):
            raise BadRequest(f"--epochs {epochs}: warm-up, decay and average do not fit into the {left} epochs that are"
                             " left")  # fmt: skip
        settings = settings.replace(extend=state.epoch)
    elif averages or not continues_exactly(group.schedule, state.step, steps_per_epoch, former, group.decay_epochs):
        what = "the average of its last epochs" if averages else "the decay of its learning rate"
        raise BadRequest(f"--epochs {epochs}: {what} has begun, which --epochs {former} set; --extend starts the"
                         " schedule anew for the epochs that are left")  # fmt: skip
    schedule = "anew" if anew else "goes on"
    return settings, Extension(state.epoch, (former, epochs), schedule, directory.summary.is_file())


def notes(extensions: list[dict[str, Any]]) -> list[str]:
    """A sentence for the summary for each extension in a settings.json."""
    found = []
    for one in extensions:
        schedule = "went on" if one["schedule"] == "goes on" else "started anew"
        scored = "; the test split had been scored before" if one["scored"] else ""
        former, epochs = one["epochs"]
        found.append(f"extended from {former} to {epochs} epochs after epoch {one['after_epoch']}, where the schedule"
                     f" {schedule}{scored}")  # fmt: skip
    return found
