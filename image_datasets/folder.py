"""Folders of image files: any folder of class folders, ImageNet-1k, Tiny ImageNet."""

from __future__ import annotations

from pathlib import Path

from image_datasets import discovery, discovery_v1
from image_datasets.dataset import LocatedDataset, Wanted
from image_datasets.layout import located
from image_datasets.reading import OLDEST
from utils import BadRequest


def check_root(wanted: Wanted, holds: str) -> Path:
    """Returns the folder of a data set of image files.

    Args:
        holds: what must lie in it, for the message.

    Raises BadRequest if the folder is not named or missing, or for flags without effect on such data sets.
    """
    if wanted.path is None:
        raise BadRequest(f"--dataset {wanted.name} needs --datapath: the folder that holds {holds}")
    refuse_fetching(wanted, "image files have no checksum")
    if not Path(wanted.path).is_dir():
        raise BadRequest(f"--datapath {wanted.path}: no such folder")
    return Path(wanted.path)


def refuse_fetching(wanted: Wanted, reason: str) -> None:
    """Raises BadRequest for --download and --no-verify-checksum, which have no effect on sets that are only read.

    Args:
        reason: why no checksum is verified.
    """
    if wanted.download:
        raise BadRequest(f"--download has no effect with --dataset {wanted.name}: it cannot be fetched, only read")
    if not wanted.verify:
        raise BadRequest(f"--no-verify-checksum has no effect with --dataset {wanted.name}: {reason}")


def locate(wanted: Wanted) -> LocatedDataset:
    """See `registry.locate`."""
    root = check_root(wanted, "train/")
    if wanted.reading.rules == OLDEST:
        found = discovery_v1.find_images(wanted.name, root)
    else:
        found = discovery.find_images(wanted.name, root, wanted.with_train)
    return located(wanted, root, found.class_names, found.splits, found.notes, in_folders=True)
