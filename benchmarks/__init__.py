"""The suite's way beside the usual way, measured in alternation: ``python -m benchmarks.NAME``, each with --help."""
