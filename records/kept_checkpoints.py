"""The checkpoints that a run keeps of single epochs, epoch-N.pth, by the rules of --keep.

Which epochs these are follows from the history alone, so a run that was killed and resumed ends with the same files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from records.checkpoint import copy_checkpoint
from records.run_directory import RunDirectory


def ranking(means: Mapping[str, Any], select_by: str) -> list[float]:
    """What validation scores are ranked by, the highest first: `select_by`, and at a tie the lower loss."""
    return [-means["loss"]] if select_by == "loss" else [means[select_by], -means["loss"]]


def wanted_epochs(history: Sequence[Mapping[str, Any]], rules: Sequence[str], select_by: str) -> set[int]:
    """Returns the epochs to keep of those in the history.

    Args:
        history: a row per epoch, with "epoch" and, if there is validation, "val_loss" and so on.
        rules: "best:N" for the N best epochs, ranked as `training.evaluation.select_best` ranks; "every:N" for each
            N-th epoch.
        select_by: validation metric by which epochs are ranked.
    """

    def rank_of(row: Mapping[str, Any]) -> list[float]:
        ranks = [
            ranking({name: row[prefix + name] for name in (select_by, "loss")}, select_by)
            for prefix in ("val_", "val_ema_")
            if prefix + "loss" in row
        ]
        return max(ranks, default=[row["epoch"]])  # without validation the last epoch is the best

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

    Args:
        rules: see `wanted_epochs`. None: nothing is kept or deleted.
    """
    if rules is None:
        return
    wanted, newest = wanted_epochs(history, rules, select_by), history[-1]["epoch"]
    if newest in wanted:
        copy_checkpoint(directory.last, directory.of_epoch(newest))
    for epoch, file in directory.kept_epochs().items():
        if epoch not in wanted:
            file.unlink()
