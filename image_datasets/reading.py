"""Rules for finding image files in a folder and turning them into pixels. A run keeps its rules for life."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OLDEST, NEWEST = 1, 2
MAX_PIXELS = 89_478_485  # per image: a quarter of a GiB in RGB, Pillow's limit too


@dataclass(frozen=True)
class Reading:
    """The rules by which a run reads image files. A run trained by older rules keeps them for ever.

    Attributes:
        rules: version. 1: files are images by their extension, and pixels are converted by Pillow's `convert`. 2: files
            are images by their content, and pixels are converted by their meaning.
        exif_orientation: turn images upright by their EXIF data; without effect under rules 1.
        max_pixels: refuse larger images.
    """

    rules: int = NEWEST
    exif_orientation: bool = True
    max_pixels: int = MAX_PIXELS

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Reading:
        """From the settings of a run."""
        return cls(*(settings[key] for key in SETTINGS))

    @property
    def turns(self) -> bool:
        """Whether images are turned upright."""
        return self.exif_orientation and self.rules > OLDEST


SETTINGS = ("data_rules", "exif_orientation", "max_pixels")  # keys of a run's settings
CURRENT = Reading()  # default of new runs
OLDER = {"data_rules": OLDEST, "exif_orientation": False, "max_pixels": MAX_PIXELS}  # settings of runs that stored none
