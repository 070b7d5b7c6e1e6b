"""What a user sees while a run trains: a progress bar, and one line per epoch."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

from records.log import say
from training.metrics import Totals
from utils import decimal, duration, is_main_process


class Progress:
    """A tqdm bar and one line per epoch.

    Away from a terminal there is no bar, but a line per minute in long epochs, with the time that is left.
    """

    def __init__(self, accuracy: str = "top-1"):
        """Args: accuracy: what to call the top-1 of the training, which with mixed targets is no accuracy."""
        self.accuracy = accuracy
        self.terminal = sys.stderr.isatty() and is_main_process()
        self.interval = 0.5 if self.terminal else 60.0  # seconds between two looks at the sums
        self.bar: tqdm | None = None  # only on a terminal
        self.just_shown = False
        self.after_steps = 0.0  # seconds that validation and saving took in the last epoch

    def start_epoch(self, epoch: int, epochs: int, images: int, done: int) -> None:
        """Begins an epoch.

        Args:
            epoch: counted from 0.
            epochs: of the run.
            images: in the epoch.
            done: images that a resumed epoch has behind it.
        """
        width = len(str(epochs))
        self.title = f"epoch {epoch + 1:{width}d}/{epochs}"
        self.images, self.seen, self.fresh = images, done, 0
        self.more = epochs - epoch - 1  # epochs after this one
        self.began = self.shown = self.stepped = time.perf_counter()
        if self.terminal:
            if self.bar is None:  # one for all epochs: Ctrl-C would tear one that is being made
                self.bar = tqdm(unit="img", unit_scale=True, leave=False, dynamic_ncols=True)
            self.bar.set_description(self.title, refresh=False)
            self.bar.initial = done
            self.bar.reset(total=images)

    def step(self, images: int, totals: Totals, lr: float) -> None:
        """Counts a batch. Reads `totals`, which waits for the device, only when they are shown."""
        self.seen += images
        self.fresh += images
        self.stepped = now = time.perf_counter()
        self.just_shown = now - self.shown >= self.interval
        if not self.just_shown:
            return
        means = totals.means()
        text = f"loss {decimal(means['loss'])}, {self.accuracy} {100 * means['top1']:.2f} %, lr {lr:.4g}"
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(self.seen - self.bar.n)
        else:
            speed = self.fresh / (now - self.began)
            left = (self.images - self.seen) / speed
            whole = left + self.after_steps + self.more * (self.images / speed + self.after_steps)
            say(f"{self.title}: {self.seen}/{self.images} images, {text}, {speed:.0f} images/s,"
                f" {duration(left)} left of the epoch, {duration(whole)} of the run")  # fmt: skip
        self.shown = now

    def end_epoch(self, row: dict[str, Any], is_best: bool) -> None:
        """Prints the epoch's line."""
        now = time.perf_counter()
        seconds, self.after_steps = now - self.began, now - self.stepped
        best = ", best so far" if is_best and "val_top1" in row else ""
        say(f"{self.title}: {describe_epoch(row)}, {seconds:.1f} s{best}")

    def close(self) -> None:
        """Removes the bar when the run ends."""
        if self.bar is not None:
            self.bar.close()


def describe_epoch(row: dict[str, Any]) -> str:
    """Writes a row of the history as text."""
    mixed = "train_agreement_top1" in row
    label, key = ("agreement", "train_agreement_top1") if mixed else ("top-1", "train_top1")
    text = f"lr {row['lr']:.2e}, train loss {decimal(row['train_loss'])}, {label} {100 * row[key]:.2f} %"
    for prefix, title in (("val_", "val"), ("val_ema_", "averaged")):
        if f"{prefix}top1" in row:
            text += f"; {title} loss {decimal(row[prefix + 'loss'])}, top-1 {100 * row[prefix + 'top1']:.2f} %"
            text += "".join(f", {name} {row[prefix + name]:.4f}" for name in ("map", "f1") if prefix + name in row)
            if f"{prefix}recall" in row:
                text += f", mean recall {100 * row[prefix + 'recall']:.2f} % (lowest: {_lowest(row, prefix)})"
    return text


def _lowest(row: dict[str, Any], prefix: str) -> str:
    """The three lowest recalls with the names of their classes; without names the lowest."""
    start = f"{prefix}recall of "
    recalls = {key.removeprefix(start): value for key, value in row.items() if key.startswith(start)}
    lowest = sorted(recalls, key=lambda name: recalls[name])[:3]
    named = ", ".join(f"{name} {100 * recalls[name]:.1f} %" for name in lowest)
    return named or f"{100 * row[f'{prefix}lowest_recall']:.1f} %"
