"""Keep the log of the SDK off the terminal."""

from __future__ import annotations

import logging

__all__ = ["apply"]


def apply() -> None:
    """Show no log messages of the SDK. What the user needs is in our errors."""
    for name in ("mcp", "client"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
