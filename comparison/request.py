"""The flags of compare.py. Imports nothing heavy, so that a bad request is refused at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from comparison.metric_names import METRICS
from settings.flag import Groups, flag, same_flag
from settings.flag_types import POSITIVE, one_of, path, text
from settings.groups import Data, Run
from settings.parser import ask
from utils import BadRequest

DESCRIPTION = (
    "Compare finished runs: each model's mean over seeds with its doubt, every pair's difference with its tests, cost,"
    " classes, errors, calibration. Writes report.md, report.html (one file that opens offline), CSV and LaTeX tables,"
    " and plots."
)

# fmt: off


@dataclass(frozen=True, kw_only=True)
class Compared:
    """what is compared"""

    runs: list[str] = flag("run directories, which are grouped by their settings; or a study: its file, or the folder"
        " of its runs", check=path, metavar="RUN|STUDY", nargs="+", positional=True)
    metric: str = flag(f"what models are judged by: {', '.join(METRICS)}", "top1", check=one_of(*METRICS),
        metavar="NAME")
    effect: float = flag("the smallest difference that matters, in percentage points (of the loss: in nats): the report"
        " says how many seeds would show it", check=POSITIVE, metavar="D", default_text="0.5; of the loss 0.01")
    baseline: str | None = flag("compare all others with this model only, so that p-values are corrected for fewer"
        " pairs", check=text, metavar="MODEL", default_text="all pairs")


@dataclass(frozen=True, kw_only=True)
class Report:
    """report"""

    output: str | None = flag("folder of the report; an older one there is replaced", check=path, metavar="DIR",
        default_text="comparison, in the folder that holds the runs")
    images: bool = flag("also draw test images that only one of two models gets right", False)
    data_path: str | None = same_flag(Data, "data_path", help="folder that holds the data set, for --images",
        default_text="the runs'")
    wandb: str = same_flag(Run, "wandb", help="publish the report at Weights & Biases: online, offline or disabled",
        default="disabled", check=one_of("online", "offline", "disabled"))
    wandb_project: str = same_flag(Run, "wandb_project", help="project of the report at Weights & Biases")


# fmt: on


@dataclass(frozen=True, kw_only=True)
class Request(Groups):
    """All groups of flags of compare.py."""

    compared: Compared = field(default_factory=Compared)
    report: Report = field(default_factory=Report)


def read_request(argv: list[str]) -> Request:
    """Parses and checks a command line. Raises BadRequest, naming the flag."""
    request, given = ask(argv, DESCRIPTION, Request)
    if "data_path" in given and not request.report.images:
        raise BadRequest("--data-path has no effect: it needs --images")
    if "wandb_project" in given and request.report.wandb == "disabled":
        raise BadRequest("--wandb-project has no effect: --wandb is disabled")
    if request.compared.effect is None:
        request = request.replace(effect=0.01 if request.compared.metric == "loss" else 0.5)
    return request
