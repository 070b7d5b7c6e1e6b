"""Many runs from one study file. Each run is a process of its own; only its run directory is read.

run_study.py goes through these in turn:

    request       the flags of study.py
    study_file    reads a study file
    plan          the runs that follow from it, their command lines and states
    estimate      their time and memory, for --dry-run
    execution     runs them here, with progress.py
    submission    or submits them as jobs of SLURM
"""
