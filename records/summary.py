"""The results of a run: summary, predictions and plots of the scores on the test split."""

from __future__ import annotations

from typing import Any

from records import plots
from records.log import say
from records.run_directory import RunDirectory, versions
from utils import decimal, human, write_json


def precisions(train: str | None, selected: bool, test: str) -> dict[str, str | None]:
    """The precisions in a summary: of training, of the validation that selected the weights, and of the test split.

    Args:
        train: precision of training and validation, or None if unknown.
        selected: whether validation selected the weights.
    """
    return {"train_precision": train, "select_precision": train if selected else None, "test_precision": test}


def write(directory: RunDirectory, scores: dict, facts: dict[str, Any], class_names: list[str]) -> dict[str, Any]:
    """Writes predictions, confusion matrix and summary.json, in this order, and prints a short summary.

    Args:
        scores: see `training.evaluation.score`.
        facts: what the summary says besides; it needs "settings", "split" and "selected_on".

    Returns the summary.
    """
    confusion = scores["confusion"].numpy()
    directory.write_predictions(scores["logits"], scores["targets"], class_names)
    directory.write_confusion(confusion, class_names)
    title = f"{facts['settings']['model']} on {facts['settings']['dataset']}, {facts['split']} split"
    plots.plot_confusion(confusion, class_names, title, directory.confusion)
    order = ("top1", "top5", "loss", "precision", "recall", "f1", "map", "ece")
    summary = {
        "split": facts["split"],
        "selected_on": facts["selected_on"],
        **{name: scores[name] for name in order},
        **facts,
        **{name: scores[name] for name in ("raw", "ema", "tta") if name in scores},
        "per_class_accuracy": scores["per_class_accuracy"],
        "commits": directory.commits(),
        "versions": versions(),
    }
    write_json(directory.summary, summary)
    print_summary(summary, directory)
    return summary


def print_summary(summary: dict[str, Any], directory: RunDirectory) -> None:
    """Prints the last lines of a run."""
    top5 = "" if summary["top5"] is None else f", top-5 {100 * summary['top5']:.2f} %"
    say()
    loss = decimal(summary["loss"])
    say(f"result        top-1 {100 * summary['top1']:.2f} %{top5}, loss {loss} on {summary['split']}")
    say(f"              precision {summary['precision']:.4f}, recall {summary['recall']:.4f}, F1 {summary['f1']:.4f},"
        f" mAP {summary['map']:.4f}, ECE {summary['ece']:.4f}")  # fmt: skip
    for name, title in (("raw", "raw weights"), ("ema", "averaged weights")):
        if name in summary:
            means = summary[name]
            say(f"              {title}: top-1 {100 * means['top1']:.2f} %, loss {decimal(means['loss'])}")
    if "tta" in summary:
        tta = summary["tta"]
        top1, loss = 100 * tta["top1"], decimal(tta["loss"])
        say(f"              with --tta {tta['kind']}: top-1 {top1:.2f} %, loss {loss}")
    accuracy = {name: value for name, value in summary["per_class_accuracy"].items() if value is not None}
    worst = sorted(accuracy, key=accuracy.__getitem__)[:3]
    say(f"              hardest classes: {', '.join(f'{name} {100 * accuracy[name]:.1f} %' for name in worst)}")
    by = f" by {summary['selected_by']}" if summary["selected_by"] else ""
    trained = "" if summary["train_seconds"] is None else f"; trained in {summary['train_seconds']:.1f} s"
    memory = "" if summary["peak_memory"] is None else f"; peak memory {human(summary['peak_memory'])}B"
    weights = f"{summary['weights']} weights"
    if summary["best_epoch"] is not None:
        weights = f"epoch {summary['best_epoch']} of {summary['epochs']} ({weights})"
    if summary["selected_on"].endswith("not selected"):
        say(f"weights       {weights}, which the run did not select{trained}{memory}")
    else:
        say(f"selected      {weights},{by} on: {summary['selected_on']}{trained}{memory}")
    if bad := {split: count for split, count in summary["bad_images"].items() if count}:
        counts = ", ".join(f"{split} {count:,}" for split, count in bad.items())
        say(f"bad images    {sum(bad.values()):,} cannot be read and were left out ({counts})")
        say(f"wrote         {directory.bad_images}")
    for path in (directory.summary, directory.best, directory.predictions, directory.curves, directory.confusion):
        if path.is_file():
            say(f"wrote         {path}")


def plot_history(
    directory: RunDirectory,
    history: list[dict],
    best: dict,
    title: str,
    split: str,
    scores: dict[str, Any],
    selected_there: bool,
) -> None:
    """Writes curves.png, with the score of the selected weights on the reported split.

    Args:
        history, best: see `plots.plot_curves`.
        split: name of the reported split.
        selected_there: the reported split also selected the weights.
    """
    how = "the split that selected the weights, too" if selected_there else "measured once, selected weights"
    result = f"{split} top-1 {100 * scores['top1']:.2f} %, loss {decimal(scores['loss'])}: {how}"
    plots.plot_curves(history, best, title, result, directory.curves)


def scalars(summary: dict[str, Any]) -> dict[str, float]:
    """The numbers at the top level of the summary, and of test-time augmentation (tta_top1...), for wandb."""
    found = {**summary, **{f"tta_{name}": value for name, value in summary.get("tta", {}).items()}}
    return {name: value for name, value in found.items() if isinstance(value, (int, float))}
