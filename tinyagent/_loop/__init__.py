"""The parts of the agent loop: the run with its turns, one call of the model, and the limits."""
