"""The benchmarks: start, one-shot, CPU a token, many streams, tool turns, beside what others take.

`python -m bench` measures what is installed and prints each figure beside its goal. A figure is only
ever compared with one that was taken in the same run: times drift with the machine, ratios hold.
"""
