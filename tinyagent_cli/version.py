"""The name and version of the distribution, without importing the library."""

from __future__ import annotations

__all__ = ["DISTRIBUTION", "version"]

DISTRIBUTION = "tinyagent-core"
"""The name to install. On the public index, `tinyagent` is the name of another project."""


def version() -> str:
    """Return the version from `tinyagent/_version.py`, without importing the library."""
    namespace: dict[str, str] = {}
    root = __file__.rpartition("tinyagent_cli")[0]
    with open(f"{root}tinyagent/_version.py", encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes longer
        exec(file.read(), namespace)
    return namespace["__version__"]
