"""Progress of a running study: on a terminal a bar for it and one for each run, elsewhere a line for each run."""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

from records.log import say
from utils import duration

READ_SECONDS = 1.0  # between two reads of the runs' metrics.csv


class StudyProgress:
    """Progress of a study.

    Args:
        total: the number of requested runs.
        done: how many of them were finished before.
        jobs: the most runs at once.
    """

    def __init__(self, total: int, done: int, jobs: int):
        from tqdm import tqdm

        self.total, self.before, self.jobs = total, done, jobs
        self.ended = 0
        self.began = self.looked = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.bars: dict[str, Any] = {}
        self.files: dict[str, Path] = {}
        self.bar: Any = None
        if self.terminal:
            self.bar = tqdm(total=total, initial=done, desc="study", unit="run", position=0, dynamic_ncols=True)

    def begin(self, name: str, epochs: int, metrics: Path) -> None:
        """A run has begun.

        Args:
            metrics: its metrics.csv, which gets a line with each epoch.
        """
        from tqdm import tqdm

        self.files[name] = metrics
        if self.terminal:
            taken = {bar.pos for bar in self.bars.values()}
            free = next(i for i in range(1, self.jobs + 1) if -i not in taken)
            self.bars[name] = tqdm(total=epochs, desc=name, unit="epoch", position=free, leave=False,
                                   dynamic_ncols=True)  # fmt: skip

    def refresh(self) -> None:
        """Updates the bars, once every READ_SECONDS."""
        if not self.terminal or time.monotonic() - self.looked < READ_SECONDS:
            return
        self.looked = time.monotonic()
        for name, bar in self.bars.items():
            epochs, last = read_metrics(self.files[name])
            if epochs > bar.n:
                bar.set_postfix_str(f"val top-1 {100 * last:.2f} %" if last is not None else "", refresh=False)
                bar.update(epochs - bar.n)
        self.bar.refresh()

    def wait(self, name: str, holder: str | None) -> None:
        """A run waits for another process; prints a line about it if `holder` names that process."""
        self.files.pop(name, None)
        if name in self.bars:
            self.bars.pop(name).close()
        if holder is not None:
            say(f"{name}: {holder} is at work on this run; waiting for it")

    def end(self, name: str, outcome: str, seconds: float, summary: Path) -> None:
        """A run has ended; prints a line about it."""
        self.ended += 1
        self.files.pop(name)
        if self.terminal:
            self.bars.pop(name).close()
            self.bar.update(1)
        score = ""
        if outcome == "finished":
            results = json.loads(summary.read_text(encoding="utf-8"))
            score = f", top-1 {100 * results['top1']:.2f} % on {results['split']}"
        elapsed = time.monotonic() - self.began
        left = self.total - self.before - self.ended
        times = f"elapsed {duration(elapsed)}"
        if left:
            times += f", about {duration(elapsed / self.ended * left)} remain"
        number = self.before + self.ended
        say(f"[{number}/{self.total}] {name}: {outcome} after {duration(seconds)}{score}; {times}")

    def close(self) -> None:
        """Closes all bars."""
        for bar in (*self.bars.values(), self.bar):
            if bar is not None:
                bar.close()


def read_metrics(file: Path) -> tuple[int, float | None]:
    """(number of epochs, validation top-1 of the last one) from a metrics.csv; (0, None) if there is no such file."""
    if not file.is_file():
        return 0, None
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    top1 = rows[-1].get("val_top1") if rows else None
    return len(rows), float(top1) if top1 else None
