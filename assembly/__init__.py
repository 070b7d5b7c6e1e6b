"""From settings to objects: data, model, optimiser, state, teacher."""
