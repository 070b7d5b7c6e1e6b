"""Accuracy of a model on corrupted images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from image_datasets.batches import EvalBatches
from image_datasets.corruptions import CORRUPTIONS, STRENGTHS, corrupt, parameter
from records.run_directory import versions
from training.devices import autocast, without_tf32

SEED = 0  # fixed: all models see the same corrupted images


@torch.inference_mode()
@without_tf32()
def measure_robustness(
    model: nn.Module, batches: EvalBatches, indices: Sequence[int], precision: str
) -> dict[str, Any]:
    """Measures top-1 on a clean split, and under each corruption at each strength.

    Every image is read once. Images in memory are corrupted as stored, before resizing: models of every input size see
    the same damage. Image files are corrupted after they are cropped and resized to the model's input size.

    Args:
        model: on the device of the batches, in eval mode.
        indices: index in the whole split of each image of the batches; it seeds the image's corruption.

    Returns:
        "clean" {"top1"}, "corruptions" {name: [top1 at strengths 1 to 5]}, "mean_corruption_error" (mean of 1 - top1
        over corruptions and strengths, not divided by a reference model's), "parameters" {name: [parameter at each
        strength]}, "images", "seed" and "versions".
    """
    from tqdm import tqdm

    device = batches.device
    corrupted = [(name, strength) for name in CORRUPTIONS for strength in STRENGTHS]
    variants: list[tuple[str, int] | None] = [None, *corrupted]
    hits = torch.zeros(len(variants), dtype=torch.int64, device=device)
    total = len(batches.split)
    side = 0  # of the images when they are corrupted
    with tqdm(total=total, desc="corrupted", unit="img", leave=False, disable=not sys.stderr.isatty()) as bar:
        for (start, end), (images, targets) in zip(batches.bounds, batches.unprepared(), strict=True):
            side = min(images.shape[2:])
            for i, variant in enumerate(variants):
                seen = images if variant is None else corrupt(images, indices[start:end], variant[0], variant[1], SEED)
                with autocast(device, precision):
                    logits = model(batches.prepare(seen))
                hits[i] += (logits.float().argmax(1) == targets).sum()
            bar.update(end - start)
    clean, *top1 = (hits.cpu().double() / total).tolist()
    count = len(STRENGTHS)
    return {
        "clean": {"top1": clean},
        "corruptions": {name: top1[count * i : count * (i + 1)] for i, name in enumerate(CORRUPTIONS)},
        "mean_corruption_error": 1 - sum(top1) / len(top1),
        "parameters": {name: [parameter(name, strength, side) for strength in STRENGTHS] for name in CORRUPTIONS},
        "images": total,
        "seed": SEED,
        "versions": versions(),
    }
