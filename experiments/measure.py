"""`python -m experiments.measure SCRIPT FLAGS...`: a few steps of a run; the last line of output is JSON that says what
they took. A process of its own, so that the memory is the run's alone. It writes nothing."""

from __future__ import annotations

import json
import sys

from training import options
from training.scripts import SCRIPTS


def main(argv: list[str] | None = None) -> int:
    script, *flags = sys.argv[1:] if argv is None else argv
    _, settings, given = SCRIPTS[script].parse([*flags, "--overwrite"])  # which is not carried out
    found = options.check_data(settings, given)
    from training.trial import measure

    print(json.dumps(measure(settings, found)))
    return 0


if __name__ == "__main__":
    sys.exit(options.one_line_errors(main))
