"""Benchmarks of start, one-shot runs, CPU per token, many streams and tool turns, with other clients.

`python -m bench` measures the installed clients and prints each figure with its goal. Figures are compared
only within a run, because times depend on the machine and ratios do not.
"""
