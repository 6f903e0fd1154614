"""The parts of `tinyagent.jsonl`."""
