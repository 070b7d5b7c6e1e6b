"""What the sections of a report are made from: one cohort with all that is computed of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from comparison import drawing
from comparison.cohorts import Cohort
from comparison.document import Picture, Table
from comparison.formats import percent
from comparison.metric_names import METRICS, Metric
from comparison.pairs import Pair, Resampled, compare_all
from comparison.selection import Published
from image_datasets import Dataset

MAX_REPORTED = 12  # pairs with the same share of the training images that are told of one by one
MAX_PANELS = 6  # of one picture


@dataclass
class Context:
    """One cohort with all that is computed of it, and where its pictures go.

    Attributes:
        metric: the one that models are judged by; effect: the smallest difference in it that matters.
        published: figures to be shown beside those of this cohort.
        prefix: of file names, where a report has several cohorts.
        baseline: the variant that all others are compared with; None: all with each other.
        dataset: whose test images are to be shown; None: none are.
    """

    cohort: Cohort
    metric: str
    effect: float
    published: list[Published]
    folder: Path
    prefix: str = ""
    baseline: str | None = None
    dataset: Dataset | None = None
    resampled: Resampled = field(init=False)
    pairs: dict[float, list[Pair]] = field(init=False)

    def __post_init__(self):
        self.resampled = Resampled(self.cohort)
        self.pairs = {
            fraction: compare_all(self.cohort.at(fraction), self.resampled, self.metric, self.effect, self.baseline)
            for fraction in self.cohort.fractions
        }

    @property
    def kind(self) -> Metric:
        return METRICS[self.metric]

    @property
    def all_pairs(self) -> list[Pair]:
        return [pair for pairs in self.pairs.values() for pair in pairs]

    def reported_at(self, fraction: float) -> list[Pair]:
        """The pairs that are told of one by one: all, or of many those with the best model."""
        return self._pairs(fraction, MAX_REPORTED)

    @property
    def reported(self) -> list[Pair]:
        """These pairs at each share of the training images, from the largest."""
        return [pair for fraction in self.cohort.fractions for pair in self.reported_at(fraction)]

    @property
    def main_pairs(self) -> list[Pair]:
        """The reported pairs of the largest share of the training images."""
        return self.reported_at(self.cohort.fractions[0])

    @property
    def few_pairs(self) -> list[Pair]:
        """As many pairs as one picture shows: all, or those of the best model."""
        return self._pairs(self.cohort.fractions[0], 3)[:MAX_PANELS]

    def _pairs(self, fraction: float, most: int) -> list[Pair]:
        """All pairs at a share of the training images; where there are more than `most`, those of the best model."""
        pairs = self.pairs[fraction]
        if len(pairs) <= most or self.baseline is not None:
            return pairs
        best = self.cohort.best(self.metric, fraction)
        return [pair for pair in pairs if best in (pair.first, pair.second)]

    @property
    def selection(self) -> str:
        """What is to be said where not all pairs are shown."""
        all_shown = len(self.reported) == len(self.all_pairs)
        return "" if all_shown else " Of all pairs those with the best model are shown; the CSV file has all."

    @property
    def restriction(self) -> str:
        """What is to be said where only the models with the largest share of the data are shown."""
        share = self.cohort.fractions[0]
        return f" Shown: models trained on {percent(share)} of the data." if len(self.cohort.fractions) > 1 else ""

    def picture(self, name: str, figure, title: str, text: str, vector: bool = True) -> Picture:
        """Saves a figure in the report's folder."""
        drawing.save(figure, self.folder, self.prefix + name, vector)
        return Picture(self.prefix + name, title, text, vector)

    def table(self, name: str, *args, **kwargs) -> Table:
        return Table(self.prefix + name, *args, **kwargs)
