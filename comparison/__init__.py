"""Finished runs -> tables, statistics, pictures. Reads run directories only, and needs no torch.

report.py goes through these in turn:

    request      the flags of compare.py
    selection    which run directories they name
    runs         reads one run directory
    folds        pools the runs of a cross-validation
    cohorts      which runs are repetitions of one model, and which models may be compared
    context      one cohort with its statistics (metrics.py, pairs.py, statistics.py)
    sections/    the report's sections, one file each; drawing.py has what their pictures share
    document     the report as Markdown, HTML, CSV and LaTeX
"""
