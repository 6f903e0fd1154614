"""Fields of the provider in the signatures of blocks, from where they are sent back to the same model."""

from __future__ import annotations

from collections.abc import Mapping

from tinyagent import _json

__all__ = ["signature_of", "stored_fields"]


def signature_of(fields: Mapping[str, object]) -> str:
    """Return a signature that stores these fields."""
    return _json.encode(fields).decode()


def stored_fields(signature: object) -> dict[str, object]:
    """Return the fields that a signature stores; empty for signatures of other kinds."""
    if not isinstance(signature, str) or not signature.startswith("{"):
        return {}
    return _json.decode_object(signature) or {}
