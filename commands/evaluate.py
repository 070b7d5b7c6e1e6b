"""Scores a trained checkpoint on the test split of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from analysis import cost
from assembly import report
from assembly.foreign import read_scored
from assembly.trained import batches_for, locate_stored, read_trained
from image_datasets.bad_images import BadImages
from image_datasets.dataset import CHOICE, LocatedDataset, name_of_fold
from records import checkpoint, membership
from records.log import logged, say, say_in_log
from records.run_directory import RunDirectory
from settings import model_flags
from settings.checks import Asked
from settings.groups import FLAGS, Data, Settings
from settings.locate import locate_data
from training import devices, evaluation
from training.devices import machine_errors_as_run_failed
from utils import BadRequest, in_px

# Flags that say what a checkpoint of this suite says itself.
OF_WEIGHTS = ("img_size", "in_chans", "resize_mode", "normalization", "model_args", "weights_kind", "weights_by_order")


@logged()
def run_evaluation(asked: Asked) -> None:
    """Scores a checkpoint on the test split of a data set and writes a run directory.

    The data set is that of the checkpoint's run unless another is given; weights of others have no run. Raises
    BadRequest if they do not fit.
    """
    need = f"--batch-size {asked.settings.optimization.batch_size}; try half of it"
    with machine_errors_as_run_failed(lambda: need):
        _evaluate(asked.settings, str(asked.request.to_do.evaluate), asked.given)


def _evaluate(settings: Settings, path: str, given: dict[str, Any]) -> None:
    hardware, run = settings.hardware, settings.run
    trained, data, found = _locate(settings.data, path, given)
    name = (
        run.run_name
        or f"{trained[1]['settings']['run_name'] if trained else Path(path).stem}-on-{data.dataset}".replace("/", "_")
    )
    directory = RunDirectory(Path(run.runs_dir) / name)
    report.check_new(directory, run.overwrite, [path])
    device = devices.set_up(hardware.device, hardware.gpu, eval_precision=hardware.eval_precision)
    if trained is None:
        model, content, dataset, known = read_scored(settings.replace(**vars(data)), found, given, device)
    else:
        model, content = trained
        checkpoint.check_selected(path, content)
        other = "dataset" in given or "data_path" in given
        dataset, known = membership.load_scored(found, path, content, other, data.accept_changed_data, data.num_workers)
        checkpoint.match_classes(path, content, dataset.class_names, dataset.name)
    stored = content["settings"]
    flops = cost.count_flops(model, content["img_size"], content["in_chans"], stored["model"])
    bad_images = BadImages() if data.on_bad_image == "skip" else None
    left_out = None if bad_images is None else bad_images.of("test")
    batches = batches_for(content, dataset.test, device, settings.optimization.batch_size, data.num_workers, left_out)
    epoch = report.epoch_of(content)
    more = f"for images of {in_px(content['img_size'])}" if epoch is None else f"epoch {epoch}"
    say(f"model         {stored['model']} from {path}, {more}")
    say(f"data          {dataset.name}: {dataset.test_name}, {len(batches.split):,} images")
    for note in dataset.notes + known["notes"]:
        say(f"note          {note}")
    for key, own in known.pop("pairs", []):
        say_in_log(f"weights       {key} -> {own}")
    say(f"device        {devices.describe_device(device)}, {hardware.eval_precision}")
    model = model.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    tta = settings.augmentation.tta
    scores = evaluation.score(model, content, batches, dataset.class_names, hardware.eval_precision, tta=tta)
    evaluated = {**_settings_of_evaluation(stored, data, name, hardware.eval_precision, path), "tta": tta}
    if (fold := stored.get("val_fold")) is not None and dataset.test_name != name_of_fold(fold):
        del evaluated["val_fold"]  # the command line names other data than the run's
    facts = {
        "split": dataset.test_name,
        **report.facts_of_checkpoint(model, content, flops, hardware.eval_precision, path),
        "peak_memory": devices.peak_memory(device),
        "images": {"test": len(batches.split)},
        "notes": dataset.notes + known.pop("notes"),
        **known,
        "settings": evaluated,
    }
    report.write_run(directory, run, device, [path], scores, facts, dataset.class_names, bad_images)


def _settings_of_evaluation(
    stored: dict[str, Any], data: Data, name: str, eval_precision: str, path: str
) -> dict[str, Any]:
    """Returns the settings of the run that was scored, with those of the data that it was scored on."""
    return {
        **stored,
        "max_pixels": data.max_pixels,
        "run_name": name,
        "dataset": data.dataset,
        "data_path": data.data_path,
        **{key: getattr(data, key) for key in CHOICE},
        "on_bad_image": data.on_bad_image,
        "eval_precision": eval_precision,
        "evaluated": path,
    }


def _locate(
    group: Data, path: str, given: dict[str, Any]
) -> tuple[tuple[nn.Module, dict[str, Any]] | None, Data, LocatedDataset]:
    """Returns (model and content of a checkpoint of this suite, data, the located data set).

    For weights of others the first is None. Raises BadRequest for flags that only these need.
    """
    if not checkpoint.is_checkpoint(Path(path)):
        if not {"model", "dataset"} <= given.keys():
            checkpoint.load_checkpoint(Path(path))  # says what to add
        return None, *locate_data(group, given, with_train=False)
    flags = {**FLAGS, **model_flags.flags_of(None)}
    useless = [key for key in given if key in (*OF_WEIGHTS, *model_flags.flags_of(None))]
    if useless:
        name = flags[useless[0]].name
        raise BadRequest(f"--{name} has no effect: {path} is a checkpoint of this suite, whose run stores it")
    trained = read_trained(path, given.get("model"))
    return trained, *locate_stored(group, given, trained[1]["settings"], path)
