"""Recipes: sets of flag values that belong together. A given flag replaces the recipe's value."""

from __future__ import annotations

from typing import Any

# Values by flag key; a function computes its value from the settings so far. An architecture's flag (drop_path) is
# skipped if the model lacks it.
RECIPES: dict[str, dict[str, Any]] = {
    # Plain training for small studies: nothing needs tuning to the number of epochs.
    "seed": {
        "optimizer": "adamw",
        "lr": 0.0005,
        "weight_decay": 0.05,
        "schedule": "constant",
        "crop": "resized",
    },
    # Touvron et al., arXiv:2012.12877, table 9 and section 6, without repeated augmentation. The paper warms up for 5
    # of 300 epochs; short trainings here for a tenth of theirs. The minimum rate is that of its code at batch 1,024.
    "deit": {
        "optimizer": "adamw",
        "lr": lambda s: 0.0005 * s.optimization.batch_size * s.optimization.accumulate / 512,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "min_lr": lambda s: s.optimization.lr / 100,
        "warmup_epochs": lambda s: min(5.0, s.optimization.epochs / 10),
        "crop": "resized",
        "rand": True,
        "random_erasing": 0.25,
        "augmentation": "cutmix+mixup",
        "cutmix_alpha": 1.0,
        "mixup_alpha": 0.8,
        "mix_prob": 1.0,
        "label_smoothing": 0.1,
        "drop_path": 0.1,
        "ema": 0.99996,
    },
    # Good accuracy on small images in the shortest time, after arXiv:2404.00498 and its authors' later use of Muon;
    # figures in results/cifar-fast.md. Trains on all images and reports the last epoch: as the rate falls to zero, it
    # is the best but for chance.
    "cifar-fast": {
        "model": "airbench94",
        "epochs": 10,
        "batch_size": 1024,
        "optimizer": "muon-sgd",
        "lr": lambda s: 0.344 * (s.optimization.batch_size * s.optimization.accumulate / 1024) ** 0.5,
        "momentum": 0.85,
        "weight_decay": lambda s: (
            2e-6 * s.optimization.batch_size * s.optimization.accumulate / s.optimization.lr
            if s.optimization.optimizer in ("sgd", "muon-sgd")
            else None
        ),
        "decay_all": True,
        "schedule": "linear",
        "warmup_epochs": 0.0,
        "label_smoothing": 0.2,
        "crop": "pad",
        "crop_padding": lambda s: 2 if s.augmentation.crop == "pad" else None,
        "val_fraction": 0.0,
    },
}
