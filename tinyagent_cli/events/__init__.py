"""Read recorded runs: from a file, a session or a pipe."""
