"""Whole programs: the shortest that one writes with each library. Arguments: URL MODEL."""
