"""Averages the weights of checkpoints, and scores the average. `main.py --average`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from analysis import cost
from assembly import averaged, report
from assembly.averaged import Part
from assembly.data import RunData
from image_datasets.batches import EvalBatches
from records.checkpoint import FORMAT
from records.log import logged, say
from records.run_directory import RunDirectory
from settings.checks import Asked
from settings.groups import Settings
from training import devices, evaluation
from training.devices import machine_errors_as_run_failed, without_tf32
from training.saving import snapshot
from utils import decimal, replacing

NO_VALIDATION = "no images validate: nothing tells whether the average is better than its parts"


@logged()
def run_averaging(asked: Asked) -> None:
    """Averages checkpoints, validates them and the average, scores the average on the test split, and writes a run.

    Raises BadRequest if the checkpoints do not fit together, or their images are not there.
    """
    need = f"--batch-size {asked.settings.optimization.batch_size}; try half of it"
    with machine_errors_as_run_failed(lambda: need):
        _average(asked, asked.request.to_do.average or [])


def _average(asked: Asked, paths: list[str]) -> None:
    hardware, run, kind = asked.settings.hardware, asked.settings.run, asked.settings.model.weights_kind
    precision, batch_size = hardware.eval_precision, int(asked.settings.optimization.batch_size)
    model, parts = averaged.read_parts(paths, kind)
    name = run.run_name or f"{parts[0].content['settings']['run_name']}-average"
    directory = RunDirectory(Path(run.runs_dir) / name)
    report.check_new(directory, run.overwrite, paths)
    device = devices.set_up(hardware.device, hardware.gpu, eval_precision=precision)
    what, first = averaged.describe(parts)
    settings, data = averaged.data_of_run(first, asked.settings.data.num_workers, asked.given)
    notes = [*data.dataset.notes, *([NO_VALIDATION] if data.val is None else [])]
    flops = cost.count_flops(model, data.img_size, data.dataset.in_chans, settings.model.model)
    say(f"model         {settings.model.model}, the average of {len(parts)} checkpoints")
    say(f"data          {data.dataset.name}: train {len(data.train):,}, validation {len(data.val or ()):,},"
        f" {data.dataset.test_name} {len(data.dataset.test):,}")  # fmt: skip
    for note in notes:
        say(f"note          {note}")
    say(f"device        {devices.describe_device(device)}, {precision}")
    model = model.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # torch's stubs
    val = None if data.val is None else data.eval_batches("val", device, batch_size)
    class_names = data.dataset.class_names
    rows = []
    for part in parts:
        model.load_state_dict(part.weights)
        known = {"checkpoint": part.path, "epoch": report.epoch_of(part.content), "weights": part.kind}
        rows.append({**known, **_validate(part.path, model, val, len(class_names), precision)})
    model.load_state_dict(averaged.mean_weights([part.weights for part in parts]))
    if averaged.has_statistics(model, settings):
        averaged.update_statistics(model, settings, data, device)
    means = _validate("the average", model, val, len(class_names), precision)
    changed = {"run_name": name, "eval_precision": precision, "averaged": what if kind is None else f"{what} ({kind})"}
    content = _checkpoint(model, parts, settings, data, {**first.content["settings"], **changed})
    test, tta = data.eval_batches("test", device, batch_size), settings.augmentation.tta
    scores = evaluation.score(model, content, test, class_names, precision, tta=tta)
    facts = {
        "split": data.dataset.test_name,
        **report.facts_of_checkpoint(model, content, flops, precision),
        **means,
        "averaged": rows,
        "peak_memory": devices.peak_memory(device),
        "images": {"train": len(data.train), "val": len(data.val or ()), "test": len(data.dataset.test)},
        "notes": notes,
        "image_digests": data.image_digests,
        "settings": content["settings"],
    }

    def add_files() -> None:
        data.write_list(directory.images)
        with replacing(directory.best) as temporary:
            torch.save(content, temporary)

    bad_images = data.bad_images if data.skip_bad else None
    report.write_run(directory, run, device, paths, scores, facts, class_names, bad_images, add_files)


@without_tf32()
def _validate(
    name: str, model: nn.Module, val: EvalBatches | None, num_classes: int, precision: str
) -> dict[str, float]:
    """Returns "val_top1" and "val_loss" of a model in eval mode, and prints them. {} without a validation split."""
    if val is None:
        return {}
    means, _ = evaluation.evaluate(model, val, num_classes, precision)
    say(f"validation    {name}: top-1 {100 * means['top1']:.2f} %, loss {decimal(means['loss'])}")
    return {"val_top1": means["top1"], "val_loss": means["loss"]}


def _checkpoint(
    model: nn.Module, parts: Sequence[Part], settings: Settings, data: RunData, stored: dict[str, Any]
) -> dict[str, Any]:
    """Returns the content of a checkpoint with the model's weights.

    Args:
        settings: of the run whose data these are.
        stored: settings of the average.
    """
    selected_on = "; ".join(sorted({part.content["selected_on"] for part in parts}))
    of_data = {key: getattr(settings.data, key) for key in ("data_path", "max_pixels", "on_bad_image")}
    return {
        "format": FORMAT,
        **data.for_checkpoint(),
        "model": snapshot(model.state_dict()),
        "ema": None,
        "best": {"epoch": None, "weights": "raw"},
        "selected_on": f"average of {len(parts)} checkpoints; {selected_on}",
        "train_seconds": None,
        "settings": {**stored, **of_data},
    }
