"""Whole programs: the least that somebody would write with each library. Arguments: URL MODEL."""
