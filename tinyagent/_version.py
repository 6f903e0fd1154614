"""The version, alone in a file so that `tinyagent --version` need not import the library."""

__version__ = "0.2.0"
