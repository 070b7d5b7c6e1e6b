"""How files are found in a folder and become pixels: what a run keeps as long as it lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OLDEST, NEWEST = 1, 2
MAX_PIXELS = 89_478_485  # of an image: a quarter of a GiB in RGB, which is Pillow's bound too


@dataclass(frozen=True)
class Reading:
    """The rules that a run reads image files by. A run that was trained by older rules is read by them for ever.

    Attributes:
        rules: their version. 1: files are images by their ending, and pixels are what Pillow's `convert` makes of them.
            2: files are images by their content, and pixels are converted by their meaning.
        exif_orientation: images are turned upright as their EXIF data say; without effect under rules 1.
        max_pixels: an image of more is refused.
    """

    rules: int = NEWEST
    exif_orientation: bool = True
    max_pixels: int = MAX_PIXELS

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Reading:
        """By the settings of a run."""
        return cls(*(settings[key] for key in SETTINGS))

    @property
    def turns(self) -> bool:
        return self.exif_orientation and self.rules > OLDEST


SETTINGS = ("data_rules", "exif_orientation", "max_pixels")  # what a run keeps of it
CURRENT = Reading()  # of a run that begins today, if nothing else is asked for
OLDER = {"data_rules": OLDEST, "exif_orientation": False, "max_pixels": MAX_PIXELS}  # what runs that store none had
