"""Analyses of a trained model: cost, speed, robustness, explanation."""
