"""What is asked for, typed and checked. No torch, no NumPy: a bad request is refused before they are imported."""

import os

# GNU OpenMP reads this when torch is first imported, so it has to be set before. Its waiting threads spin for long by
# default; when two processes share the cores, they spin in each other's way. Seen on two cores, 12 epochs of resnet20
# on digits: two trainings at once were not done after 200 s with the default, and took 17 s each with short spinning
# (one trial); a single training took 8.7 and 9.4 s with the default, 8.5 s with short spinning.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
