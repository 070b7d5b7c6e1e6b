"""Benchmarks of the suite against a baseline, measured alternately: ``python -m benchmarks.NAME``, each with --help."""
