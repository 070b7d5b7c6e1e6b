"""Settings and requests, typed and checked. No torch, no NumPy: a bad request is refused before they are imported."""

import os

# Must be set before torch is imported, when GNU OpenMP reads it. By default its waiting threads spin for long and slow
# down other processes on the same cores. Measured on two cores, 12 epochs of resnet20 on digits: two trainings at once
# did not finish in 200 s with the default and took 17 s each with short spinning (one trial); a single training took
# 8.7 and 9.4 s with the default, 8.5 s with short spinning.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
