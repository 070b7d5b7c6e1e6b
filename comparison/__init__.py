"""Finished runs -> tables, statistics, pictures. It reads run directories only, and needs no torch."""
