"""Which model is better here, and at what cost? Finished runs -> a report with tables, statistics and pictures.

`python compare.py --help` lists the flags.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from settings.flags import FLAGS, Flag

from comparison import study
from comparison.metric_names import METRICS
from settings import checks, terminal
from settings.flag_types import POSITIVE, one_of, path, text
from settings.parser import read_flags
from utils import BadRequest, require

DESCRIPTION = (
    "Compare finished runs: each model's mean over seeds with its doubt, every pair's difference with its tests, cost,"
    " classes, errors, calibration. Writes report.md, report.html (one file that opens offline), CSV and LaTeX tables,"
    " and plots."
)
GROUPS = {
    "what is compared": [
        Flag("runs", "run directories, which are grouped by their settings; or a study: its file, or the folder of its"
             " runs", check=path, metavar="RUN|STUDY", nargs="+", positional=True),
        Flag("metric", f"what models are judged by: {', '.join(METRICS)}", default="top1", check=one_of(*METRICS),
             metavar="NAME"),
        Flag("effect", "the smallest difference that matters, in percentage points (of the loss: in nats): the report"
             " says how many seeds would show it", check=POSITIVE, metavar="D", default_text="0.5; of the loss 0.01"),
        Flag("baseline", "compare all others with this model only, so that p-values are corrected for fewer pairs",
             check=text, metavar="MODEL", default_text="all pairs"),
    ],
    "report": [
        Flag("output", "folder of the report; an older one there is replaced", check=path, metavar="DIR",
             default_text="comparison, in the folder that holds the runs"),
        Flag("images", "also draw test images that only one of two models gets right", default=False),
        replace(FLAGS["data_path"], help="folder that holds the data set, for --images", default_text="the runs'"),
        replace(FLAGS["wandb"], help="publish the report at Weights & Biases: online, offline or disabled",
                default="disabled", check=one_of("online", "offline", "disabled")),
        replace(FLAGS["wandb_project"], help="project of the report at Weights & Biases"),
    ],
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Compares what the command line asks for."""
    argv = sys.argv[1:] if argv is None else argv
    given = read_flags(argv, DESCRIPTION, GROUPS)
    s = checks.complete(given, GROUPS)
    if "data_path" in given and not s.images:
        raise BadRequest("--data-path has no effect: it needs --images")
    if "wandb_project" in given and s.wandb == "disabled":
        raise BadRequest("--wandb-project has no effect: --wandb is disabled")
    selection = study.select(s.runs)
    if s.effect is None:
        s.effect = 0.01 if s.metric == "loss" else 0.5
    require("numpy", "scipy", "statsmodels", "jinja2", "matplotlib", "tqdm")
    from comparison import report  # matplotlib and scipy come with what it does

    report.compare(s, selection)
    return 0


if __name__ == "__main__":
    sys.exit(terminal.run_script(main))
