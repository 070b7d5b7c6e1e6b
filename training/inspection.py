"""A look at a data set as a run would see it: images per class, normalisation, augmented samples."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch

from image_datasets.constant import describe_constant
from image_datasets.dataset import Dataset, LocatedDataset, channel_statistics
from image_datasets.splits import Split
from training import plots
from training.data import Data, load_data, make_mix, make_train_batches
from training.tracking import say
from utils import RunFailed, derive_seed, in_px

SAMPLES = 25
MANY = 200  # classes: of more than these only the smallest and the largest are listed
LONG = 26  # characters: longer titles would run into those of the neighbours


def inspect_data(s: SimpleNamespace, found: LocatedDataset) -> None:
    """Prints the counts of every split and draws `SAMPLES` training images, augmented and perhaps mixed as in training,
    into the file s.inspect_data. `s` becomes complete on the way."""
    data = load_data(s, found)
    dataset = data.dataset
    colour = "colour" if dataset.in_chans == 3 else "grey"
    say(f"{dataset.name}: {len(dataset.class_names)} classes, {colour} images of {data.sizes()}")
    say()
    _print_counts(data)
    say()
    if data.resident:
        mean, std = channel_statistics(dataset.train.images)
        say(f"pixels      mean {_numbers(mean)}; deviation {_numbers(std)} (of all training images, from 0 to 1)")
    kind = s.normalization if data.resident or s.normalization == "half" else "imagenet"  # streamed sets have no own
    say(f"normalised  by mean {_numbers(dataset.mean)}; deviation {_numbers(dataset.std)} ({kind})")
    for note in dataset.notes:
        say(f"note        {note}")
    for name, split in _splits(data).items():
        for line in describe_constant(name, split, dataset.class_names, dataset.in_chans, s.num_workers):
            say(f"warning     {line}")

    s.batch_size = SAMPLES
    s.num_workers = 0  # for one batch
    images, targets = next(iter(make_train_batches(s, data, torch.device("cpu")).epoch(0)))
    bad = data.bad_images.finish()["train"]
    if bad:
        where = "the training images" if data.resident else "those looked at"
        say(f"bad images  {bad:,} of {where} cannot be read, and are left out")
    if not len(images):
        raise RunFailed("not one of the images to be drawn can be read")
    torch.manual_seed(derive_seed(s.seed, "step", 0, 0))  # as the loop does
    images, targets = make_mix(s, data)(images, targets)
    images, targets = images[:SAMPLES], targets[:SAMPLES]
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (dataset.mean, dataset.std))
    pixels = (images * std + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    titles = [_title(target, dataset.class_names) for target in targets]
    plots.plot_samples(pixels, titles, _headline(s, dataset), Path(s.inspect_data))
    say(f"wrote       {s.inspect_data}")


def _splits(data: Data) -> dict[str, Split]:
    splits = {"train": data.train, "validation": data.val, data.dataset.test_name: data.dataset.test}
    return {name: split for name, split in splits.items() if split is not None}


def _print_counts(data: Data) -> None:
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


def _headline(s: SimpleNamespace, dataset: Dataset) -> str:
    """What the picture shows, and what was done to its images."""
    name = dataset.name if s.data_path is None or dataset.name != "folder" else Path(s.data_path).resolve().name
    steps = {
        s.resize_mode: s.resize_mode != "crop",
        f"crop {s.crop}": s.crop != "none",
        "flip": s.flip,
        "RandAugment": s.rand,
        f"erasing {s.random_erasing:g}": s.random_erasing > 0,
        s.augmentation: s.augmentation != "none",
    }
    done = ", ".join(step for step, taken in steps.items() if taken)
    return f"{plots.plain(name)}: training images of {in_px(s.img_size)}\n{done or 'not augmented'}"


def _title(target: torch.Tensor, class_names: list[str]) -> str:
    if target.ndim == 0:
        return plots.plain(class_names[int(target)], LONG)
    shares = [(float(target[i]), class_names[int(i)]) for i in target.argsort(descending=True)[:2]]
    return "\n+ ".join(f"{plots.plain(name, LONG - 9)} ({100 * share:.0f} %)" for share, name in shares if share > 0)
