"""Which model is better here, and at what cost? Finished runs -> a report with tables, statistics and pictures.

`python compare.py --help` lists the flags.
"""

from __future__ import annotations

import sys

from comparison.request import read_request
from comparison.selection import select
from settings import terminal
from utils import require


def main(argv: list[str] | None = None) -> int:
    """Compares the runs that the command line names. Returns the exit status."""
    request = read_request(sys.argv[1:] if argv is None else argv)
    selection = select(request.compared.runs)
    require("numpy", "scipy", "statsmodels", "jinja2", "matplotlib", "tqdm")
    from comparison import report  # imports matplotlib and scipy

    report.compare(request, selection)
    return 0


if __name__ == "__main__":
    sys.exit(terminal.run_script(main))
