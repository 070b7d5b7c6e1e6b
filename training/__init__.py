"""How a model is trained: flags, loop, losses, optimiser and schedule, metrics, checkpoints, tracking."""

import os

# GNU OpenMP reads this when torch is first imported, so it has to be set before. Its waiting threads spin for long by
# default; when two processes share the cores, they spin in each other's way. Two trainings at once on two cores: over
# 190 s each with the default, 17 s each with short spinning, and alone 8.5 s (default: 9 s), medians.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
