"""What a section of the report is made from: one cohort with its statistics."""

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

MAX_REPORTED = 12  # pairs with one share of the training images that are reported individually
MAX_PANELS = 6  # in one picture


@dataclass
class Context:
    """One cohort with its statistics, and the folder of its pictures.

    Attributes:
        metric: models are judged by this one.
        effect: the smallest difference in the metric that matters, as a fraction of 1 (of the loss: in nats).
        published: figures that the report shows beside this cohort's.
        folder: the report's.
        prefix: of the names of files, if the report has several cohorts.
        baseline: the variant that all others are compared with. None: all are compared with each other.
        dataset: the data set whose test images the report shows. None: it shows no images.
        resampled: metrics on resampled test images.
        pairs: all compared pairs, by share of the training images.
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
        """How the metric is shown."""
        return METRICS[self.metric]

    @property
    def all_pairs(self) -> list[Pair]:
        """All compared pairs, at all shares of the training images."""
        return [pair for pairs in self.pairs.values() for pair in pairs]

    def reported_at(self, fraction: float) -> list[Pair]:
        """Pairs reported individually: all, or with many models only those with the best one."""
        return self._pairs(fraction, MAX_REPORTED)

    @property
    def reported(self) -> list[Pair]:
        """Pairs reported individually, at all shares of the training images, largest first."""
        return [pair for fraction in self.cohort.fractions for pair in self.reported_at(fraction)]

    @property
    def main_pairs(self) -> list[Pair]:
        """Pairs reported individually at the largest share of the training images."""
        return self.reported_at(self.cohort.fractions[0])

    @property
    def few_pairs(self) -> list[Pair]:
        """As many pairs as one picture can show: all, or those with the best model."""
        return self._pairs(self.cohort.fractions[0], 3)[:MAX_PANELS]

    def _pairs(self, fraction: float, most: int) -> list[Pair]:
        """All pairs at one share of the training images; if there are more than `most`, those with the best model."""
        pairs = self.pairs[fraction]
        if len(pairs) <= most or self.baseline is not None:
            return pairs
        best = self.cohort.best(self.metric, fraction)
        return [pair for pair in pairs if best in (pair.first, pair.second)]

    @property
    def selection(self) -> str:
        """A sentence for notes if the report does not show all pairs, else an empty string."""
        all_shown = len(self.reported) == len(self.all_pairs)
        return "" if all_shown else " Of all pairs those with the best model are shown; the CSV file has all."

    @property
    def restriction(self) -> str:
        """A sentence for notes of parts that show the largest share of the data only, if there are several."""
        share = self.cohort.fractions[0]
        return f" Shown: models trained on {percent(share)} of the data." if len(self.cohort.fractions) > 1 else ""

    def picture(self, name: str, figure, title: str, text: str, vector: bool = True) -> Picture:
        """Saves a figure in the report's folder, and returns the part that shows it."""
        drawing.save(figure, self.folder, self.prefix + name, vector)
        return Picture(self.prefix + name, title, text, vector)

    def table(self, name: str, *args, **kwargs) -> Table:
        """A `Table` whose files are named for this cohort."""
        return Table(self.prefix + name, *args, **kwargs)
