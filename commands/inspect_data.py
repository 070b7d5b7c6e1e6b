"""Shows a data set as a run sees it: images per class, normalisation, augmented samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from assembly.data import RunData, make_data, make_mix, read_dataset
from data_transform import denormalize
from image_datasets.constant import describe_constant
from image_datasets.dataset import Dataset, channel_statistics
from image_datasets.splits import Split
from records import plots
from records.log import say
from settings.checks import Asked
from settings.groups import Settings
from settings.locate import locate_data
from settings.settle import settle
from utils import RunFailed, derive_seed, in_px

SAMPLES = 25
MANY = 200  # classes: of more than these only the smallest and the largest are listed
LONG = 26  # characters: longer titles would run into those of the neighbours


def inspect_data(asked: Asked) -> None:
    """Prints the counts of every split, and draws augmented training images into the file that --inspect-data names."""
    file = Path(str(asked.request.to_do.inspect_data))
    group, found = locate_data(asked.settings.data, asked.given)
    dataset = read_dataset(group, found)
    settings = settle(asked.settings.replace(**vars(group)), dataset)
    data = make_data(settings.data, dataset, found, settings.model.model, settings.hardware.seed_of_split)
    _print_facts(settings, data)
    images, targets = _samples(settings, data)
    titles = [_title(target, data.dataset.class_names) for target in targets]
    pixels = denormalize(images, data.dataset.mean, data.dataset.std).permute(0, 2, 3, 1).numpy()
    plots.plot_samples(pixels, titles, _headline(settings, data.dataset), file)
    say(f"wrote       {file}")


def _print_facts(settings: Settings, data: RunData) -> None:
    dataset = data.dataset
    colour = "colour" if dataset.in_chans == 3 else "grey"
    say(f"{dataset.name}: {len(dataset.class_names)} classes, {colour} images of {data.sizes()}")
    say()
    _print_counts(data)
    say()
    if data.resident:
        mean, std = channel_statistics(dataset.train.images)
        say(f"pixels      mean {_numbers(mean)}; deviation {_numbers(std)} (of all training images, from 0 to 1)")
    kind = settings.data.normalization
    kind = kind if data.resident or kind == "half" else "imagenet"  # streamed sets have none of their own
    say(f"normalised  by mean {_numbers(dataset.mean)}; deviation {_numbers(dataset.std)} ({kind})")
    for note in dataset.notes:
        say(f"note        {note}")
    for name, split in _splits(data).items():
        for line in describe_constant(name, split, dataset.class_names, dataset.in_chans, data.workers):
            say(f"warning     {line}")


def _samples(settings: Settings, data: RunData) -> tuple[torch.Tensor, torch.Tensor]:
    """The first images of a training, augmented and mixed. Raises RunFailed if none of them can be read."""
    seed, augmentation = settings.hardware.seed, settings.augmentation
    batches = dataclasses.replace(data, workers=0).train_batches(augmentation, torch.device("cpu"), SAMPLES, seed)
    images, targets = next(iter(batches.epoch(0)))
    bad = data.bad_images.finish()["train"]
    if bad:
        where = "the training images" if data.resident else "those looked at"
        say(f"bad images  {bad:,} of {where} cannot be read, and are left out")
    if not len(images):
        raise RunFailed("not one of the images to be drawn can be read")
    torch.manual_seed(derive_seed(seed, "step", 0, 0))  # as the loop does
    images, targets = make_mix(augmentation, len(data.dataset.class_names))(images, targets)
    return images[:SAMPLES], targets[:SAMPLES]


def _splits(data: RunData) -> dict[str, Split]:
    splits = {"train": data.train, "validation": data.val, data.dataset.test_name: data.dataset.test}
    return {name: split for name, split in splits.items() if split is not None}


def _print_counts(data: RunData) -> None:
    names = data.dataset.class_names
    counts = {
        split: torch.bincount(torch.from_numpy(part.targets), minlength=len(names)).tolist()
        for split, part in _splits(data).items()
    }
    shown = list(range(len(names)))
    if len(shown) > MANY:
        say(f"of {len(names)} classes, the five with the fewest and the five with the most training images:")
        shown.sort(key=lambda i: counts["train"][i])
        shown = [*shown[:5], *shown[-5:]]
    width = max(10, *(len(names[i]) for i in shown))
    say(f"{'class':{width}}  " + "  ".join(f"{split:>10}" for split in counts))
    for i in shown:
        say(f"{names[i]:{width}}  " + "  ".join(f"{column[i]:>10,}" for column in counts.values()))
    say(f"{'all':{width}}  " + "  ".join(f"{sum(column):>10,}" for column in counts.values()))


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _headline(settings: Settings, dataset: Dataset) -> str:
    """Title of the picture: the data set and the augmentation."""
    data, augmentation = settings.data, settings.augmentation
    name = dataset.name
    if data.data_path is not None and name == "folder":
        name = Path(data.data_path).resolve().name
    steps = {
        data.resize_mode: data.resize_mode != "crop",
        f"crop {augmentation.crop}": augmentation.crop != "none",
        "flip": augmentation.flip,
        augmentation.auto_augment: augmentation.auto_augment != "none",
        f"erasing {augmentation.random_erasing:g}": augmentation.random_erasing > 0,
        augmentation.augmentation: augmentation.augmentation != "none",
    }
    done = ", ".join(step for step, taken in steps.items() if taken)
    return f"{plots.plain(name)}: training images of {in_px(data.img_size)}\n{done or 'not augmented'}"


def _title(target: torch.Tensor, class_names: list[str]) -> str:
    if target.ndim == 0:
        return plots.plain(class_names[int(target)], LONG)
    shares = [(float(target[i]), class_names[int(i)]) for i in target.argsort(descending=True)[:2]]
    return "\n+ ".join(f"{plots.plain(name, LONG - 9)} ({100 * share:.0f} %)" for share, name in shares if share > 0)
