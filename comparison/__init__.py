"""Finished runs -> tables, statistics, pictures. It reads run directories only, and needs no torch.

request (what compare.py is asked) -> selection (which run directories) -> runs (reading one) -> cohorts (which are
repetitions, and which may be compared) -> context (one cohort with its pairs and statistics) -> sections (one file a
section of the report) -> document (Markdown, HTML, CSV, LaTeX). report.py goes through them.
"""
