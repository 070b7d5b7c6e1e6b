"""Builds the objects of a run from its settings: data, model, optimiser, state, teacher."""
