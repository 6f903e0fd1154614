"""What `tinyagent.alchemy_provider` reads streams with; `_native.pyi` describes it."""

from ._native import Stream, Waker

__all__ = ["Stream", "Waker"]
