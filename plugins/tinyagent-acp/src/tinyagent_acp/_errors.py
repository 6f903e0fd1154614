"""Errors of tinyagent as errors of the protocol."""

from __future__ import annotations

from acp import RequestError

from tinyagent import TinyAgentError

__all__ = ["invalid_params", "request_error"]

_AUTH_REQUIRED = -32000
_INVALID_PARAMS = -32602
_INTERNAL = -32603

_CODES = {
    "missing_key": _AUTH_REQUIRED,
    "authentication": _AUTH_REQUIRED,
    "not_configured": _AUTH_REQUIRED,
    "usage": _INVALID_PARAMS,
}


def request_error(error: TinyAgentError) -> RequestError:
    """Return the error of a request. Its message also says what to do, because editors show only this."""
    text = str(error) if error.hint is None else f"{error}\n{error.hint}"
    code = _CODES.get(error.kind, _INTERNAL)
    return RequestError(code, text, {"kind": error.kind, "hint": error.hint})


def invalid_params(text: str) -> RequestError:
    """Return the error of a request with something that cannot be used."""
    return RequestError(_INVALID_PARAMS, text)
