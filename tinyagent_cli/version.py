"""The version of the distribution, without importing the library."""

from __future__ import annotations

from pathlib import Path

__all__ = ["version"]


def version() -> str:
    """What `tinyagent/_version.py` says."""
    namespace: dict[str, str] = {}
    path = Path(__file__).parent.parent / "tinyagent" / "_version.py"
    exec(path.read_text("utf-8"), namespace)
    return namespace["__version__"]
