"""How a model is trained: the loop, its steps, losses, optimisers and schedules, metrics, evaluation, state."""
