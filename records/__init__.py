"""What lies in a run directory, the interface between scripts."""
