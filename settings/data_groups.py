"""Settings of a run: which images, and how they are augmented. The other groups are in settings/groups.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from image_datasets import list_datasets
from image_datasets.reading import MAX_PIXELS, NEWEST, OLDEST
from settings.flag import (
    AVERAGE,
    EVALUATE,
    EVERY_AUGMENTER,
    EVERY_BUILDER,
    EVERY_READER,
    INSPECT,
    LIST,
    MEASURE,
    PREDICT,
    SUMMARY,
    TRAIN,
    flag,
)
from settings.flag_types import (
    COUNT,
    FRACTION,
    POSITIVE,
    PROBABILITY,
    channels,
    class_names,
    fold,
    image_size,
    key_value,
    number,
    one_of,
    path,
    text,
)

# fmt: off


@dataclass(frozen=True, kw_only=True)
class Data:
    """data"""

    dataset: str = flag(f"name of the data set: {', '.join(list_datasets())} (the last of these forms:"
        " torchvision/NAME, hf/NAME, csv/FILE, npz/FILE, webdataset/FOLDER)", check=text, metavar="NAME",
        default_text="cifar100 with --datapath, else digits", modes=(*EVERY_READER, LIST, SUMMARY))
    data_path: str | None = flag("folder that holds the data set", check=path, metavar="PATH", aliases=("datapath",),
        default_text="none; digits needs none", modes=(*EVERY_READER, AVERAGE, MEASURE, LIST, SUMMARY), may_change=True)
    download: bool = flag("fetch CIFAR or a data set of torchvision into --data-path, or hf/NAME into its cache, if it"
        " is not there", False, modes=(*EVERY_READER, AVERAGE), may_change=True)
    verify_checksum: bool = flag("insist on the published checksums; --no-verify-checksum reads a re-saved copy of"
        " CIFAR, plain data only", True, negatable=True, modes=(*EVERY_READER, AVERAGE, MEASURE), may_change=True)
    classes: list[str] | None = flag("use these classes alone: their names, or a file with a name on each line",
        check=class_names, metavar="NAMES", default_text="all", modes=(*EVERY_READER, SUMMARY))
    image_column: str | None = flag("column of a table (csv, hf) that holds the images", check=text, metavar="NAME",
        default_text="found by its type or name", modes=(*EVERY_READER, SUMMARY))
    label_column: str | None = flag("column of a table (csv, hf) that holds the classes", check=text, metavar="NAME",
        default_text="found by its type or name", modes=(*EVERY_READER, SUMMARY))
    dataset_args: dict[str, Any] | None = flag("arguments of the library's data set, such as split=letters of"
        " torchvision/EMNIST; csv takes root=FOLDER of its files; values are Python's", name="dataset-arg",
        check=key_value, metavar="NAME=VALUE", nargs="+", default_text="none", modes=(*EVERY_READER, SUMMARY))
    data_rules: int = flag(
        "version of the rules by which image files are found and read (docs/data.md); 1: those of"
        " runs that store none", check=number(int, OLDEST, NEWEST), metavar="N",
        default_text="the newest; a run keeps its own", modes=(TRAIN, INSPECT))
    exif_orientation: bool = flag("turn photographs upright, as their EXIF data say", negatable=True,
        default_text="on; off with --data-rules 1", modes=(TRAIN, INSPECT))
    max_pixels: int = flag("refuse images of more pixels, which take as many bytes and more to decode",
        check=COUNT, metavar="N", default_text=f"{MAX_PIXELS:,}; a run keeps its own",
        modes=(*EVERY_READER, AVERAGE, PREDICT, MEASURE), may_change=True)
    img_size: int | list[int] = flag("side of the square images that the model gets, in pixels, or height,width",
        check=image_size, metavar="PX|H,W",
        default_text="that of the data set's images where they are squares of one size, up to 224; else 224, and"
        " for some models",
        modes=(*EVERY_BUILDER, LIST, INSPECT), aliases=("eval-size",))
    train_size: int | list[int] | None = flag("train on images of this size, and evaluate at --img-size (FixRes)",
        check=image_size, metavar="PX|H,W", default_text="--img-size", modes=EVERY_AUGMENTER)
    eval_crop: float | None = flag("share of the resized image's short side that the centre crop of evaluation keeps",
        check=number(float, 0, 1, open_low=True), metavar="F", default_text="0.875; 1 for images that keep their size",
        modes=EVERY_AUGMENTER)
    resize_mode: str = flag("how images of another shape become the model's, in training and evaluation: crop, their"
        " aspect ratio is kept, and the margin lost; squeeze, all of them in the model's aspect ratio; letterbox,"
        " all of them in their own, on the mean colour", "crop", check=one_of("crop", "squeeze", "letterbox"),
        metavar="MODE", modes=(TRAIN, EVALUATE, INSPECT))
    in_chans: int = flag("channels of the images that the model gets (1: grey, 3: colour)", check=channels,
        metavar="N", default_text="the data set's", modes=(*EVERY_BUILDER, LIST, INSPECT))
    normalization: str = flag(
        "mean and deviation that pixels are normalised with: those of the dataset's training"
        " images (of sets that are streamed: imagenet's), imagenet's, half (both 0.5), or"
        " those of the --pretrained weights", check=one_of("dataset", "imagenet", "half", "pretrained"),
        metavar="KIND", default_text="dataset; pretrained with --pretrained", modes=EVERY_READER)
    val_fraction: float | None = flag(
        "share of the training images that selects the checkpoint; 0: train on all of them and"
        " report the last epoch", check=FRACTION, metavar="F",
        default_text="0.1; a data set's own validation split, where it has that besides a test split",
        modes=EVERY_AUGMENTER)
    val_fold: str | None = flag("cross-validation: hold out the I-th of K stratified folds of the training images,"
        " train on the others, and report on it after the last epoch; the folds are the same for every seed",
        check=fold, metavar="I/K", default_text="none", modes=EVERY_AUGMENTER)
    train_fraction: float = flag("share of the remaining training images to use; smaller shares lie within larger ones",
        1.0, check=number(float, 0, 1, open_low=True), metavar="F", modes=EVERY_AUGMENTER)
    select_on: str = flag("what selects the checkpoint: validation, images held out of the training set; reported, the"
        " split that is reported on, as some published protocols do: all training images are used, and the"
        " result is optimistic", "validation", check=one_of("validation", "reported"), metavar="SPLIT")
    sampler: str = flag("order of the training images: shuffle, each of them once an epoch; balanced, as many images of"
        " each class", "shuffle", check=one_of("shuffle", "balanced"), metavar="KIND")
    drop_duplicates: bool = flag("leave training images out that also stand in the validation or the test split", False,
        modes=EVERY_AUGMENTER)
    accept_changed_data: bool = flag("score a run on its data set although images of its test split are missing or"
        " changed; the summary says so, and compare.py does not pair such scores", False, modes=(EVALUATE, MEASURE))
    on_bad_image: str = flag("what an image file that cannot be read does: error, it stops the run; skip, it alone is"
        " left out of its batch, and bad_images.txt in the run directory lists it", "error",
        check=one_of("error", "skip"), metavar="WHAT", modes=(*EVERY_READER, AVERAGE), may_change=True)
    check_images: bool = flag("decode every image file before anything else, and name those that are broken", False,
        modes=EVERY_AUGMENTER, may_change=True)
    cache_resized: str | None = flag(
        "train from a copy of the training images that is quicker to read, jpeg or raw (quicker"
        " still, and ten times as large): short side 256 px, or --img-size / 0.875 where that is more; what is"
        " missing of the copy is made first", check=one_of("jpeg", "raw"), metavar="KIND", default_text="off")
    cache_dir: str | None = flag("folder of that copy, which any number of runs may share", check=path, metavar="PATH",
        default_text=".resized in --data-path", may_change=True)
    num_workers: int = flag("processes (threads, for sets kept in memory) that decode image files",
        check=number(int, 0, 256), metavar="N", default_text="one per processor, at most 24",
        modes=(*EVERY_READER, AVERAGE, PREDICT, MEASURE), may_change=True)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """augmentation of training images; --tta is of test images"""

    augmentation: str = flag("mixing of images: none, cutmix, mixup, or cutmix+mixup (either, by chance)", "none",
        check=one_of("none", "cutmix", "mixup", "cutmix+mixup"), metavar="KIND", modes=EVERY_AUGMENTER)
    cutmix_alpha: float = flag("CutMix draws the kept share from Beta(alpha, alpha)", 1.0, check=POSITIVE, metavar="A",
        modes=EVERY_AUGMENTER)
    mixup_alpha: float = flag("MixUp draws the kept share from Beta(alpha, alpha)", 0.8, check=POSITIVE, metavar="A",
        modes=EVERY_AUGMENTER)
    mix_prob: float = flag("probability that a batch is mixed", 1.0, check=PROBABILITY, metavar="P",
        modes=EVERY_AUGMENTER)
    mixup_off_epoch: int | None = flag("mix no images from this epoch on, counted from 0", check=COUNT, metavar="N",
        default_text="never")
    rand: bool = flag("RandAugment, random resized crops, random erasing", False, negatable=True, modes=EVERY_AUGMENTER)
    auto_augment: str = flag("operations drawn for each image: randaugment, trivialaugment, autoaugment (ImageNet's"
        " policy), 3augment (DeiT III's: grey, solarise or blur, and colour jitter), or none",
        check=one_of("none", "randaugment", "trivialaugment", "autoaugment", "3augment"), metavar="KIND",
        default_text="none; randaugment with --rand",
        modes=EVERY_AUGMENTER)
    auto_augment_magnitude: int = flag("strength of RandAugment's operations, from 0 to 30 (timm's m9 is 27)", 9,
        check=number(int, 0, 30), metavar="N", modes=EVERY_AUGMENTER)
    auto_augment_ops: int = flag("operations that RandAugment draws for each image", 2, check=number(int, 1, 16),
        metavar="N", modes=EVERY_AUGMENTER)
    repeated_aug: int = flag("repeated augmentation: each batch has so many augmented copies of an image, and an epoch"
        " so many times fewer images", 1, check=number(int, 1, 64), metavar="N")
    crop: str = flag("pad: random crop after padding with black; resized: random area and aspect ratio; none",
        check=one_of("pad", "resized", "none"), metavar="KIND",
        default_text="pad; resized for large images or with --rand", modes=EVERY_AUGMENTER)
    crop_padding: int | None = flag("padding of --crop pad, in pixels", check=number(int, 0, 512), metavar="PX",
        default_text="an eighth of the image's side", modes=EVERY_AUGMENTER)
    flip: bool = flag("mirror images left-right at random", negatable=True, default_text="on, but for digits",
        modes=EVERY_AUGMENTER)
    random_erasing: float = flag("probability of erasing a random rectangle of an image", check=PROBABILITY,
        metavar="P", default_text="0; 0.25 with --rand", modes=EVERY_AUGMENTER)
    tta: str = flag("score the test split a second time, by the mean logits of each image and its mirror image (flip),"
        " or of both shifted by a pixel, too (shift)", "none", check=one_of("none", "flip", "shift"), metavar="KIND",
        modes=(TRAIN, EVALUATE), may_change=True)
