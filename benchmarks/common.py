"""What all benchmarks share: flags, the comparison of two or more sides, and the printed result.

Imports nothing heavy, so a wrong flag is refused at once.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import image_datasets
import models
from benchmarks.timing import alternate, spread
from image_datasets.dataset import LocatedDataset
from settings import checks, terminal
from settings.flag import flag, flags_of_group, same_flag
from settings.flag_types import COUNT, POSITIVE, text
from settings.groups import Hardware
from settings.parser import read_flags
from utils import BadRequest, write_json

USUAL, TIMM, SUITE = "usual", "timm", "suite"

# fmt: off


@dataclass(frozen=True, kw_only=True)
class How:
    """Flags of all benchmarks: how to measure. A subclass adds flags for what to measure."""

    repeats: int = flag("measurements of each way, after one that does not count", 5, check=COUNT, metavar="N")
    seconds: float = flag("length of one measurement, where it can be chosen", 1.0, check=POSITIVE, metavar="S")
    device: str | None = same_flag(Hardware, "device")
    json: str | None = flag("write all measurements into this file", check=text, metavar="FILE", default_text="none")
    quick: bool = flag("tiny sizes, to see that it works; the figures mean nothing", False)


@dataclass(frozen=True, kw_only=True)
class RealImages:
    """Flag of the benchmarks that accept real images."""

    data: str | None = flag("folder with real images, in train/CLASS/", check=text, metavar="FOLDER",
        default_text="synthetic images")


# fmt: on
QUICK = {"repeats": 1, "seconds": 0.02}
Request = TypeVar("Request", bound=How)


def read(argv: list[str] | None, description: str, kind: type[Request], quick: dict[str, Any]) -> Request:
    """Reads the command line.

    Args:
        kind: dataclass of the benchmark's flags.
        quick: defaults under --quick that differ.

    Raises BadRequest if a flag or value is wrong.
    """
    how = flags_of_group(How)
    what = [flag for flag in flags_of_group(kind) if flag.key not in {flag.key for flag in how}]
    titles = {"what to measure": what, "how": how}
    given = read_flags(sys.argv[1:] if argv is None else argv, description, titles)
    request = kind(**{**({**QUICK, **quick} if given.get("quick") else {}), **given})
    checks.check_device(request.device, None)
    for name in getattr(request, "model", None) or []:
        models.check_name(name)
    if request.json is not None:
        path = Path(request.json)
        if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise BadRequest(f"--json {request.json}: cannot be written there")
    return request


def locate_images(data: str | None) -> LocatedDataset | None:
    """Locates the images in the folder of --data, if given. Raises BadRequest, naming the flag, if it has none."""
    if data is None:
        return None
    try:
        return image_datasets.locate_dataset("folder", data, download=False, verify=True)
    except BadRequest as error:
        raise BadRequest(str(error).replace("--datapath", "--data")) from None


def script(main: Callable[[], int]) -> int:
    """Runs a benchmark. Returns its exit status: 0, 1 (failed), 2 (bad request) or 130 (stopped)."""

    def stoppable() -> int:
        try:
            return main()
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            return 130

    return terminal.run_script(stoppable)


# ------------------------------------------------------------------------------------------------------------- results


@dataclass
class Row:
    """A row of the result: several sides that do the same work.

    Attributes:
        what: the work.
        values: measurements by side. The last side is compared with each of the others, measurement by measurement.
        limits: by side, the best value possible on the device, in the row's unit, and what sets this limit.
    """

    what: str
    unit: str
    values: dict[str, list[float]]
    higher_is_better: bool = False
    limits: dict[str, tuple[float, str]] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """The side that is compared with the others."""
        return list(self.values)[-1]

    def ratios(self) -> dict[str, list[float]]:
        """How many times better the last side is than each of the others, for every pair of measurements."""
        own = self.values[self.subject]
        return {
            name: [a / b if self.higher_is_better else b / a for a, b in zip(own, theirs, strict=True)]
            for name, theirs in self.values.items()
            if name != self.subject
        }

    def verdicts(self) -> dict[str, str]:
        """How the last side does against each of the others: "ahead" or "behind" in every pair, else "level"."""
        return {
            name: "ahead" if min(ratios) > 1 else "behind" if max(ratios) < 1 else "level"
            for name, ratios in self.ratios().items()
        }

    def shares(self) -> dict[str, float]:
        """The share of its limit that the median of each side reaches."""
        medians = {name: statistics.median(self.values[name]) for name in self.limits}
        return {
            name: medians[name] / limit if self.higher_is_better else limit / medians[name]
            for name, (limit, _) in self.limits.items()
        }

    def as_json(self) -> dict[str, Any]:
        """The row in the file that --json names."""
        shares = self.shares()
        return {
            "what": self.what,
            "unit": self.unit,
            "better": "higher" if self.higher_is_better else "lower",
            "sides": {name: spread(values) for name, values in self.values.items()},
            "ratios": {name: spread(values) for name, values in self.ratios().items()},
            "verdicts": self.verdicts(),
            "limits": {
                name: {"value": limit, "set_by": setter, "share": shares[name]}
                for name, (limit, setter) in self.limits.items()
            },
        }


def digits(value: float) -> str:
    """Three significant digits, but no fewer than the integer part has: 0.0123, 4.56, 7,218."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _with_spread(values: list[float]) -> str:
    numbers = spread(values)
    return f"{digits(numbers['median'])} ({digits(numbers['low'])}-{digits(numbers['high'])})"


def table(rows: list[Row]) -> str:
    """A line for each row and each side compared with: medians, with the lowest and the highest in brackets.

    The verdict is that of `Row.verdicts`.
    """
    subjects = {row.subject for row in rows}
    title = subjects.pop() if len(subjects) == 1 else "measured"
    lines = [("what", "against", "theirs", title, "times better", "verdict", "of the device's limit")]
    for row in rows:
        shares = {name: f"{100 * share:.2g} %" for name, share in row.shares().items()}
        verdicts = row.verdicts()
        own = f"{'' if row.subject == title else f'{row.subject}: '}{_with_spread(row.values[row.subject])}"
        for i, (name, ratios) in enumerate(row.ratios().items()):
            reached = ", ".join(f"{side} {shares[side]}" for side in (name, row.subject) if side in shares)
            what = f"{row.what}, {row.unit}" if i == 0 else ""
            pair = what, name, _with_spread(row.values[name]), own, _with_spread(ratios)
            lines.append((*pair, verdicts[name], reached))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


class Bench:
    """A benchmark: its settings, the machine, and the rows measured so far.

    Attributes:
        prepare: by side, a function that makes the process's global settings those of the side; called before each
            measurement of the side.
        ceilings: peak rates of the device by name; see benchmarks/hardware.py.
    """

    def __init__(self, name: str, request: How, facts: dict[str, Any]):
        self.name, self.request, self.facts = name, request, facts
        self.prepare: dict[str, Callable[[], Any]] = {}
        self.ceilings: dict[str, dict[str, Any]] = {}
        self.rows: list[Row] = []
        versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
        threads = f", {facts['threads']} threads" if facts["threads"] else ""
        load = " ".join(f"{value:.2f}" for value in facts["load_average"])
        print(f"benchmarks.{name}{' --quick: the figures mean nothing' if request.quick else ''}")
        print(versions)
        print(f"{facts['cpu']}, {facts['cores']} cores{threads}, load average {load}; GPU: {facts['gpu'] or 'none'}")

    def compare(
        self,
        what: str,
        unit: str,
        sides: dict[str, Callable[[], float]],
        higher_is_better: bool = False,
        limits: dict[str, tuple[float, str]] | None = None,
    ) -> None:
        """Measures the sides alternately and adds the row."""

        def prepared(name: str, measure: Callable[[], float]) -> Callable[[], float]:
            def run() -> float:
                self.prepare.get(name, lambda: None)()
                return measure()

            return run

        print(f"{what} ...", end="", file=sys.stderr, flush=True)
        values = alternate({name: prepared(name, measure) for name, measure in sides.items()}, self.request.repeats)
        medians = ", ".join(f"{name} {digits(statistics.median(found))}" for name, found in values.items())
        print(f" {medians} {unit}", file=sys.stderr, flush=True)
        self.rows.append(Row(what, unit, values, higher_is_better, limits or {}))
        self._write()

    def finish(self) -> int:
        """Prints the table and writes the file that --json names. Returns the exit status 0."""
        for name, rate in self.ceilings.items():
            print(f"ceiling: {name} {digits(rate['high'] / 1e9)} G{rate['unit']}")
        print()
        print(table(self.rows))
        self._write()
        return 0

    def _write(self) -> None:
        """Writes the rows so far: a long benchmark that is stopped keeps what it has measured."""
        if self.request.json is not None:
            content = {
                "benchmark": self.name,
                "settings": vars(self.request),
                "machine": self.facts,
                "ceilings": self.ceilings,
                "rows": [row.as_json() for row in self.rows],
            }
            write_json(Path(self.request.json), content)
