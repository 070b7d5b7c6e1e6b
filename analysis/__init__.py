"""What there is to know of a trained model: cost, speed, robustness, explanation."""
