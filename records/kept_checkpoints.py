"""The checkpoints that a run keeps of single epochs, epoch-N.pth, by the rules of --keep.

Which epochs these are follows from the history alone, so a run that was killed and resumed ends with the same files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from records.checkpoint import copy_checkpoint, ranks
from records.log import say
from records.run_directory import RunDirectory


def wanted_epochs(history: Sequence[Mapping[str, Any]], rules: Sequence[str], select_by: str) -> set[int]:
    """Returns the epochs to keep of those in the history.

    Args:
        history: a row per epoch, with "epoch" and, if there is validation, "val_loss" and so on.
        rules: "best:N" for the N best epochs, ranked as `training.evaluation.select_best` ranks; "every:N" for each
            N-th epoch.
        select_by: validation metric by which epochs are ranked.
    """

    def rank_of(row: Mapping[str, Any]) -> list[float]:
        # Without validation the last epoch is the best.
        return max(ranks(row, select_by).values(), default=[row["epoch"]])

    wanted: set[int] = set()
    for rule in rules:
        kind, _, count = rule.partition(":")
        if kind == "every":
            wanted.update(row["epoch"] for row in history if row["epoch"] % int(count) == 0)
        else:
            ranked = sorted(history, key=rank_of, reverse=True)  # of equal epochs the first comes first
            wanted.update(row["epoch"] for row in ranked[: int(count)])
    return wanted


def keep(
    directory: RunDirectory, history: Sequence[Mapping[str, Any]], rules: Sequence[str] | None, select_by: str
) -> None:
    """Keeps last.pth, the checkpoint of the last epoch in the history, if it is wanted. Then deletes unwanted ones.

    Says so if other rules kept some of these, as when a run resumes with another --keep.

    Args:
        rules: see `wanted_epochs`. None: nothing is kept or deleted.
    """
    if rules is None:
        return
    wanted, newest = wanted_epochs(history, rules, select_by), history[-1]["epoch"]
    if newest in wanted:
        copy_checkpoint(directory.last, directory.of_epoch(newest))
    unwanted = {epoch: file for epoch, file in directory.kept_epochs().items() if epoch not in wanted}
    if unwanted.keys() - wanted_epochs(history[:-1], rules, select_by):  # the new epoch alone displaces no such file
        names = ", ".join(file.name for file in unwanted.values())
        say(f"deleted       {names}: --keep {' '.join(rules)} does not keep them")
    for file in unwanted.values():
        file.unlink()
