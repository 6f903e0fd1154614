"""The callers' tokens and their limits."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from ._config import Token

__all__ = ["Caller", "Callers"]


class Caller:
    """A token: its name, its permissions and its current use.

    Attributes:
        streams: The number of active replies.
    """

    def __init__(self, token: Token, clock: Callable[[], float]) -> None:
        self.name = token.name
        self.streams = 0
        self.max_streams = token.table.max_streams
        self._models = token.table.models
        self._per_second = (token.table.requests_per_minute or 0) / 60
        self._burst = max(1.0, token.table.requests_per_minute or 0)
        self._left = self._burst
        self._clock = clock
        self._since = clock()

    def may_use(self, model: str) -> bool:
        """Return whether the token may use the model `PROVIDER/ID`."""
        return any(fnmatchcase(model, pattern) for pattern in self._models)

    def wait(self) -> float:
        """Count a request. Return 0, or the seconds to wait if the limit is reached."""
        if not self._per_second:
            return 0.0
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._since) * self._per_second)
        self._since = now
        if self._left < 1:
            return (1 - self._left) / self._per_second
        self._left -= 1
        return 0.0


class Callers:
    """All callers. Tokens are compared as digests, always with all callers, so that the time is constant."""

    def __init__(self, tokens: Iterable[Token], clock: Callable[[], float] = time.monotonic) -> None:
        self._known = [(_digest(token.secret), Caller(token, clock)) for token in tokens]

    def find(self, authorization: str) -> Caller | None:
        """Return the caller with the token of this header, or None."""
        scheme, _, secret = authorization.partition(" ")
        sent = _digest(secret.strip())
        found = None
        for digest, caller in self._known:
            if hmac.compare_digest(digest, sent):
                found = caller
        return found if scheme.lower() == "bearer" else None

    @property
    def names(self) -> list[str]:
        """The names of the callers."""
        return [caller.name for _, caller in self._known]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
