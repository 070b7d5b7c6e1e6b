"""Repeats the published trainings, and writes ours beside the published figures. `python reproduce.py --help`"""

from __future__ import annotations

import sys

from comparison import reproduction as table
from experiments import reproduction
from settings import terminal
from utils import require


def main(argv: list[str] | None = None) -> int:
    """Runs what the command line names, and writes the table. Returns the exit status."""
    asked = reproduction.read_request(sys.argv[1:] if argv is None else argv)
    require("numpy", "scipy", "statsmodels", "jinja2", "matplotlib")
    return reproduction.reproduce(
        asked, lambda folders, left_out: table.write_table(asked.table, folders, left_out, asked.full)
    )


if __name__ == "__main__":
    sys.exit(terminal.run_script(main))
