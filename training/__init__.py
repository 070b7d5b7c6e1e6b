"""How a model is trained: flags, loop, losses, optimiser and schedule, metrics, checkpoints, tracking."""
