"""The baselines: the code of widely used CIFAR and ImageNet training scripts ("usual"), and timm's loader and step.

After github.com/kuangliu/pytorch-cifar (main.py: transforms, loader, loop), github.com/pytorch/examples (imagenet:
large images, pinned memory), and timm's train.py with --channels-last --amp. Deliberately not optimised further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from image_datasets.splits import Split

WORKERS = 2  # of each loader
THREADS = torch.get_num_threads()

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


def set_up() -> None:
    """Restores torch's defaults, with cudnn.benchmark as in pytorch-cifar: the suite's settings must not help here.

    One does: on a CPU the C library keeps freed memory for all sides, as a process cannot go back to glibc's defaults.
    """
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")


# -------------------------------------------------------------------------------------------------------------- input


class SmallImages(Dataset):
    """Like torchvision.datasets.CIFAR10: images in memory, converted to Pillow images one by one."""

    def __init__(self, split: Split, transform: Callable | None = None):
        self.images, self.targets, self.transform = split.images, split.targets, transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int):
        return self.transform(Image.fromarray(self.images[i])), int(self.targets[i])


class ImageFiles(Dataset):
    """Like torchvision.datasets.ImageFolder, over a list of files."""

    def __init__(self, split: Split, transform: Callable | None = None):
        self.paths, self.targets, self.transform = split.paths, split.targets, transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int):
        with Path(self.paths[i]).open("rb") as file:
            image = Image.open(file).convert("RGB")
        return self.transform(image), int(self.targets[i])


def small_transform(
    side: int, img_size: int, mean: tuple[float, ...], std: tuple[float, ...], erasing: float = 0.0
) -> transforms.Compose:
    """RandomCrop with an eighth of the side as padding, flip, and Resize if the model takes another size.

    Args:
        erasing: probability of RandomErasing.
    """
    steps = [transforms.RandomCrop(side, padding=side // 8), transforms.RandomHorizontalFlip()]
    if img_size != side:
        steps.append(transforms.Resize(img_size))
    steps += [transforms.ToTensor(), transforms.Normalize(mean, std)]
    return transforms.Compose([*steps, transforms.RandomErasing(erasing)] if erasing else steps)


def large_transform(img_size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> transforms.Compose:
    """RandomResizedCrop and flip, as for ImageNet."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(img_size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )


def train_loader(dataset: Dataset, batch_size: int, device: torch.device, workers: int = WORKERS) -> DataLoader:
    """A shuffling DataLoader, with pinned memory for a GPU."""
    pinned = device.type == "cuda"
    return DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=workers, pin_memory=pinned)


def on_device(batches: Batches, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Moves each batch to the device."""
    for images, targets in batches:
        yield images.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def timm_loader(
    split: Split, img_size: int, batch_size: int, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> Batches:
    """timm.data.create_loader with its prefetcher (uint8 batches, normalised on the device) for small images.

    RandomCrop with padding replaces timm's random resized crop, as in DeiT for CIFAR
    (github.com/facebookresearch/deit, datasets.py). For models of another size Resize follows, as in the suite.
    """
    from timm.data import create_loader

    dataset = SmallImages(split)
    loader = create_loader(
        dataset,
        (3, img_size, img_size),
        batch_size,
        is_training=True,
        color_jitter=None,
        mean=mean,
        std=std,
        num_workers=WORKERS,
        pin_memory=device.type == "cuda",
        persistent_workers=False,  # else they prepare batches while another side is measured
        device=device,
    )
    side = split.images.shape[1]
    steps = [transforms.RandomCrop(side, padding=side // 8), *dataset.transform.transforms[1:]]
    if img_size != side:
        steps.insert(2, transforms.Resize(img_size))
    dataset.transform = transforms.Compose(steps)
    return loader


def timm_mixup(kind: str, num_classes: int):
    """timm.data.Mixup with the settings of the suite's Mix of that kind, "cutmix" or "mixup", on every batch."""
    from timm.data import Mixup

    alphas = {"cutmix": {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}, "mixup": {"mixup_alpha": 0.8, "cutmix_alpha": 0.0}}
    return Mixup(**alphas[kind], prob=1.0, label_smoothing=0.0, num_classes=num_classes)


# --------------------------------------------------------------------------------------------------------------- loop


class Trainer:
    """pytorch-cifar's train() without the progress bar; the optimiser is torch's default implementation."""

    def __init__(self, model: nn.Module, optimizer: str, device: torch.device):
        self.model, self.device = model.to(device), device
        if optimizer == "sgd":
            self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        else:
            self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)

    def train(self, batches: Batches) -> tuple[float, float]:
        """Trains one epoch. Returns (mean of the batches' losses, accuracy)."""
        criterion = nn.CrossEntropyLoss()
        self.model.train()
        train_loss, correct, total, steps = 0.0, 0, 0, 0
        for inputs, targets in batches:
            inputs, targets = inputs.to(self.device), targets.to(self.device)
            self.optimizer.zero_grad()
            outputs = self.model(inputs)
            loss = criterion(outputs, targets)
            loss.backward()
            self.optimizer.step()

            train_loss += loss.item()
            _, predicted = outputs.max(1)
            total += targets.size(0)
            correct += predicted.eq(targets).sum().item()
            steps += 1
        return train_loss / steps, correct / total


def evaluate(model: nn.Module, batches: Batches, device: torch.device) -> tuple[float, float]:
    """pytorch-cifar's test(). Returns (mean of the batches' losses, accuracy)."""
    criterion = nn.CrossEntropyLoss()
    model.eval()
    test_loss, correct, total, steps = 0.0, 0, 0, 0
    with torch.no_grad():
        for inputs, targets in batches:
            inputs, targets = inputs.to(device), targets.to(device)
            outputs = model(inputs)
            loss = criterion(outputs, targets)

            test_loss += loss.item()
            _, predicted = outputs.max(1)
            total += targets.size(0)
            correct += predicted.eq(targets).sum().item()
            steps += 1
    return test_loss / steps, correct / total


class TimmTrainer:
    """timm's train_one_epoch() with its fastest flags: --channels-last, --amp if `precision` is bf16, no logging."""

    def __init__(self, model: nn.Module, optimizer: str, device: torch.device, precision: str, compile_model: bool):
        from timm.optim import create_optimizer_v2

        self.model, self.device = model.to(device, memory_format=torch.channels_last), device
        self.dtype = torch.bfloat16 if precision == "bf16" else None
        self.forward = torch.compile(self.model) if compile_model else self.model
        self.criterion = nn.CrossEntropyLoss()
        if optimizer == "sgd":
            self.optimizer = create_optimizer_v2(model, "momentum", lr=0.01, momentum=0.9, weight_decay=5e-4)
        else:
            self.optimizer = create_optimizer_v2(model, "adamw", lr=1e-4, weight_decay=0.05)

    def train(self, batches: Batches) -> None:
        """Trains one epoch."""
        self.model.train()
        for inputs, targets in batches:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
                loss = self.criterion(self.forward(inputs), targets)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
