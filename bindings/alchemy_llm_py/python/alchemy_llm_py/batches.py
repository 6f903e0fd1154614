"""The classes that `tinyagent.alchemy_provider` uses to read streams. `_native.pyi` describes them."""

from ._native import Stream, Waker

__all__ = ["Stream", "Waker"]
