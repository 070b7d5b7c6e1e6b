"""How files are found in a folder and become pixels: what a run keeps as long as it lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OLDEST, NEWEST = 1, 2


@dataclass(frozen=True)
class Reading:
    """The rules that a run reads image files by. A run that was trained by older rules is read by them for ever.

    Attributes:
        rules: their version. 1: files are images by their ending, and pixels are what Pillow's `convert` makes of them.
            2: files are images by their content, and pixels are converted by their meaning.
    """

    rules: int = NEWEST

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Reading:
        """By the settings of a run."""
        return cls(settings["data_rules"])


CURRENT = Reading()  # of a run that begins today, if nothing else is asked for
