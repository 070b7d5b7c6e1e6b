"""The run directory: its files are the interface between scripts."""
