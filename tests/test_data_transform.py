"""The whole augmentation, step by step."""

from __future__ import annotations

import pytest
import torch
from sample_images import random_images

from data_transform import Augment, Mix, Normalize, erase
from image_datasets.padded_images import PaddedImages, augment_batch

CPU = torch.device("cpu")


@pytest.mark.parametrize("policy", ["none", "randaugment", "trivialaugment", "autoaugment", "3augment"])
def test_the_seed_alone_decides_every_draw(policy):
    store = PaddedImages(random_images(6, 8, 8, 3), 1, CPU)
    mix = Mix("cutmix+mixup", 6, 1.0, 0.8, 0.8)

    def run(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        results = []
        for crop in ("pad", "resized", "none"):
            augment = Augment(crop=crop, padding=1, flip=True, policy=policy, erasing=0.5)
            batch = augment_batch(store, torch.arange(6), augment, 8)
            images = erase(Normalize((0.5,) * 3, (0.2,) * 3, CPU)(batch), augment.erasing)
            results += mix(images, torch.arange(6))
        return results

    first, again, other = run(1), run(1), run(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
