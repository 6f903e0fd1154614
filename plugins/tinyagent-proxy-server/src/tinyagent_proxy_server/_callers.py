"""Who may call, what, and how much of it: tokens and their limits."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from ._config import Token

__all__ = ["Caller", "Callers"]


class Caller:
    """One token: its name, what it may ask for, and what it is using.

    Attributes:
        streams: Replies under way.
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
        """Whether the token is good for `PROVIDER/ID`."""
        return any(fnmatchcase(model, pattern) for pattern in self._models)

    def wait(self) -> float:
        """Count a request; 0, or the seconds after which one would be taken."""
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
    """All of them. Tokens are kept and compared as digests, each time all of them."""

    def __init__(self, tokens: Iterable[Token], clock: Callable[[], float] = time.monotonic) -> None:
        self._known = [(_digest(token.secret), Caller(token, clock)) for token in tokens]

    def find(self, authorization: str) -> Caller | None:
        """Who sends this header; None if it is nobody's token."""
        scheme, _, secret = authorization.partition(" ")
        given = _digest(secret.strip())
        found = None
        for digest, caller in self._known:
            if hmac.compare_digest(digest, given):
                found = caller
        return found if scheme.lower() == "bearer" else None

    @property
    def names(self) -> list[str]:
        """Their names, for people."""
        return [caller.name for _, caller in self._known]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
