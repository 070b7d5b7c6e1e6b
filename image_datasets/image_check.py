"""Decodes every image file, before a long training meets a broken one."""

from __future__ import annotations

import functools
import sys

from image_datasets.dataset import LocatedDataset
from image_datasets.image_files import read_image
from image_datasets.orientation import file_orientation
from image_datasets.reading import Reading
from utils import BadRequest, shorten, thread_pool


def check_images(located: LocatedDataset, workers: int) -> None:
    """Decodes all image files of a data set and prints a line for each unreadable one.

    Args:
        workers: threads; Pillow releases the interpreter lock while it decodes.

    Raises BadRequest with their number, unless they are to be skipped.
    """
    from tqdm import tqdm

    paths = [path for files, _ in located.layout.splits.values() for path in files]
    broken, turned = [], 0
    with (
        thread_pool(workers) as pool,
        tqdm(total=len(paths), desc="checking images", unit="img", leave=False, disable=not sys.stderr.isatty()) as bar,
    ):
        for reason, is_turned in pool.imap(functools.partial(_look, located.reading), paths, chunksize=8):
            bar.update()
            turned += is_turned
            if reason is not None:
                broken.append(reason)
                bar.write(" ".join(reason.splitlines()), file=sys.stdout)
    if turned:
        text = f"upright       {turned:,} of {len(paths):,} images are turned, as their EXIF data say"
        bar.write(text, file=sys.stdout)
    if broken and located.skip_bad:
        bar.write(f"images        {len(broken):,} of {len(paths):,} files are broken, and are skipped", file=sys.stdout)
    elif broken:
        names = shorten((reason.partition(": cannot")[0] for reason in broken), 3)
        raise BadRequest(f"{len(broken):,} of {len(paths):,} images are broken: {names}; repair or delete them, or"
                         " leave them out with --on-bad-image skip")  # fmt: skip
    else:
        bar.write(f"images        all {len(paths):,} files can be read", file=sys.stdout)


def _look(reading: Reading, path: str) -> tuple[str | None, bool]:
    """Returns (reason why a file is unreadable or None, whether its image is turned)."""
    try:
        read_image(path, 3, reading)
    except BadRequest as error:
        return str(error), False
    return None, reading.turns and file_orientation(path) != 1
