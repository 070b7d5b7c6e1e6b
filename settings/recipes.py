"""Recipes: sets of flag values that belong together. A given flag replaces the recipe's value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from utils import BadRequest, sides


def images_per_step(s: Any) -> int:
    """Images of a step of the optimiser, in one process. Raises BadRequest for --batch-size auto."""
    group = s.optimization
    if group.batch_size == "auto":
        raise BadRequest(
            f"--batch-size auto: values of --recipe {group.recipe} follow from the batch size; give a number"
        )
    return group.batch_size * group.accumulate


def warmup_epochs(s: Any) -> float:
    """5 epochs as published, of trainings of 50 epochs and more; a tenth of shorter ones."""
    return min(5.0, s.optimization.epochs / 10)


def train_size(share: float) -> Callable[[Any], int | list[int] | None]:
    """This share of a given --img-size. Without it the size follows from the images, which may be small."""

    def of(s: Any) -> int | list[int] | None:
        if s.data.img_size is None:
            return None
        height, width = (round(side * share) for side in sides(s.data.img_size))
        return height if height == width else [height, width]

    return of


def torchvision_ema(s: Any) -> float:
    """torchvision's decay of averaged weights, 0.99998 every 32 steps, for one step.

    Its references/classification/train.py multiplies 1 - decay by images_per_step * 32 / epochs, up to 1 in all.
    """
    alpha = (1 - 0.99998) * images_per_step(s) * 32 / s.optimization.epochs
    return (1 - min(1.0, alpha)) ** (1 / 32)


# "ResNet strikes back" (arXiv:2110.00476), table 2. Learning rates are for 2,048 images per step and grow with the root
# of the batch, as LAMB's do (arXiv:1904.00962, and timm's train.py). The threshold of targets and the minimum rates are
# those of timm's script. timm's magnitudes of 10 are three times as many of torchvision's 30: both scale linearly. Left
# out: noise on the magnitude (0.5), and that timm skips half of the operations. timm's BCE is the mean over
# the classes, ours the sum: LAMB's steps do not depend on that, but for its clip of the gradient's norm to 1.
RSB = {
    "optimizer": "lamb",
    "weight_decay": 0.02,
    "schedule": "cosine",
    "warmup_epochs": warmup_epochs,
    "loss": "BCE",
    "bce_target_threshold": 0.2,
    "label_smoothing": 0.0,
    "augmentation": "cutmix+mixup",
    "mixup_alpha": 0.1,
    "cutmix_alpha": 1.0,
    "mix_prob": 1.0,
    "crop": "resized",
    "auto_augment": "randaugment",
    "auto_augment_ops": 2,
    "random_erasing": 0.0,
    "eval_crop": 0.95,
}

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
        "lr": lambda s: 0.0005 * images_per_step(s) / 512,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "min_lr": lambda s: s.optimization.lr / 100,
        "warmup_epochs": warmup_epochs,
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
    # DeiT III (arXiv:2204.07118), table 1, for ImageNet-1k. The rate is for 2,048 images per step and grows with the
    # root of the batch, as above. From the authors' code: the minimum rate, targets of 1 for every class of a mixed
    # image, and drop_path, that of ViT-S (B: 0.2, L: 0.45, H: 0.6). There the weight decay is 0.05, and BCE a mean.
    "deit3": {
        "epochs": 800,
        "optimizer": "lamb",
        "lr": lambda s: 0.003 * (images_per_step(s) / 2048) ** 0.5,
        "weight_decay": 0.02,
        "schedule": "cosine",
        "min_lr": lambda s: s.optimization.lr / 300,
        "warmup_epochs": warmup_epochs,
        "clip_grad": 1.0,
        "loss": "BCE",
        "bce_target_threshold": 0.0,
        "label_smoothing": 0.0,
        "augmentation": "cutmix+mixup",
        "mixup_alpha": 0.8,
        "cutmix_alpha": 1.0,
        "mix_prob": 1.0,
        "crop": "resized",
        "auto_augment": "3augment",
        "random_erasing": 0.0,
        "repeated_aug": 3,
        "eval_crop": 1.0,
        "drop_path": 0.05,
        "layer_scale": 1e-4,
    },
    # Procedures A2 and A3 of "ResNet strikes back".
    "rsb-a2": {
        "epochs": 300,
        "lr": lambda s: 0.005 * (images_per_step(s) / 2048) ** 0.5,
        "min_lr": lambda s: s.optimization.lr / 5000,
        **RSB,
        "auto_augment_magnitude": 21,
        "repeated_aug": 3,
        "drop_path": 0.05,
    },
    "rsb-a3": {
        "epochs": 100,
        "lr": lambda s: 0.008 * (images_per_step(s) / 2048) ** 0.5,
        "min_lr": lambda s: s.optimization.lr / 8000,
        **RSB,
        "auto_augment_magnitude": 18,
        "train_size": train_size(160 / 224),
    },
    # torchvision's ResNet50_Weights.IMAGENET1K_V2: references/classification/README.md, and "How to Train
    # State-Of-The-Art Models Using TorchVision's Latest Primitives" (pytorch.org/blog, 2021), with 8 processes of 128
    # images. The rate of SGD grows with the batch. Left out: weight decay of biases. Averaged weights forget the
    # initialisation by --ema-warmup ratio, the default; torchvision copies the newest weights during the warm-up.
    "torchvision-v2": {
        "epochs": 600,
        "optimizer": "sgd",
        "lr": lambda s: 0.5 * images_per_step(s) / 1024,
        "momentum": 0.9,
        "weight_decay": 2e-5,
        "schedule": "cosine",
        "warmup_epochs": warmup_epochs,
        "label_smoothing": 0.1,
        "augmentation": "cutmix+mixup",
        "mixup_alpha": 0.2,
        "cutmix_alpha": 1.0,
        "mix_prob": 1.0,
        "crop": "resized",
        "auto_augment": "trivialaugment",
        "random_erasing": 0.1,
        "repeated_aug": 4,
        "train_size": train_size(176 / 224),
        "eval_crop": 224 / 232,
        "ema": torchvision_ema,
    },
    # Good accuracy on small images in the shortest time, after arXiv:2404.00498 and its authors' later use of Muon;
    # figures in results/cifar-fast.md. Trains on all images and reports the last epoch: as the rate falls to zero, it
    # is the best but for chance.
    "cifar-fast": {
        "model": "airbench94",
        "epochs": 10,
        "batch_size": 1024,
        "optimizer": "muon-sgd",
        "lr": lambda s: 0.344 * (images_per_step(s) / 1024) ** 0.5,
        "momentum": 0.85,
        "weight_decay": lambda s: (
            2e-6 * images_per_step(s) / s.optimization.lr if s.optimization.optimizer in ("sgd", "muon-sgd") else None
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
