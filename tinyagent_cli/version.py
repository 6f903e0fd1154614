"""The name and version of the distribution, without importing the library."""

from __future__ import annotations

__all__ = ["DISTRIBUTION", "version"]

DISTRIBUTION = "tinyagent-core"
"""What to install. The name `tinyagent` belongs to another project on the public index."""


def version() -> str:
    """What `tinyagent/_version.py` says."""
    namespace: dict[str, str] = {}
    root = __file__.rpartition("tinyagent_cli")[0]
    with open(f"{root}tinyagent/_version.py", encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes longer
        exec(file.read(), namespace)
    return namespace["__version__"]
