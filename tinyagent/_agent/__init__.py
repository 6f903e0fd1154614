"""The parts of `Agent`."""
