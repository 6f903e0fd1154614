"""The parts of `tinyagent.sandbox`."""
