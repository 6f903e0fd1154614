"""A response that is being read: its time-outs, its decompression, and the end of its connection."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import NamedTuple

from tinyagent._cancel import Aborted, CancelScope, SignalWatch
from tinyagent.errors import ConfigurationError, TinyAgentError

from .decompress import decompressor_for
from .pool import Pool
from .request_errors import RequestErrors
from .transport import Response, Transport, TransportError

__all__ = ["HttpResponse", "Sent", "Timeouts"]

READ_SIZE = 4096
"""Bytes of a body that one `read` returns at most, before other responses have their turn."""
END_TIMEOUT_S = 0.1
"""How long the end of a complete reply is awaited, so that its connection can be used again."""


class Timeouts(NamedTuple):
    """Time-outs in seconds: to connect, until the first event, and between two events."""

    connect: float = 10.0
    first_event: float = 120.0
    idle: float = 90.0

    @classmethod
    def of(cls, value: float | Mapping[str, float] | Timeouts | None) -> Timeouts:
        """Read `options["timeout"]`: a number for all time-outs, or a mapping with some of them.

        Raises:
            ConfigurationError: A name is unknown, or a value is not a positive number.
        """
        if value is None:
            return cls()
        if isinstance(value, Timeouts):
            return value
        if isinstance(value, Mapping):
            if unknown := sorted(set(value) - set(cls._fields)):
                raise ConfigurationError(
                    f"unknown time-out {unknown[0]!r}", hint="Known: connect, first_event, idle."
                )
            return cls()._replace(**{name: _seconds(name, seconds) for name, seconds in value.items()})
        seconds = _seconds("timeout", value)
        return cls(min(seconds, cls().connect), seconds, seconds)


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigurationError(f"the time-out {name!r} must be a number of seconds above 0, not {value!r}")
    return float(value)


class Sent(NamedTuple):
    """A response whose headers have arrived, with its connection.

    Args:
        response: The response.
        transport: The connection.
        pool: The pool of the event loop.
        sent_at: When the request was sent, in the time of the event loop.
        give_back: Keeps the connection for another request.
    """

    response: Response
    transport: Transport
    pool: Pool
    sent_at: float
    give_back: Callable[[], Awaitable[None]]


class HttpResponse:
    """A response that is being read, with its time-outs.

    The time-out of the first event starts with the request. The decoder of the events calls `restart` before
    it waits for another one. So bytes without an event do not extend the time, and a slow consumer is not
    counted.
    """

    def __init__(
        self, sent: Sent, errors: RequestErrors, timeouts: Timeouts, signal: asyncio.Event | None
    ) -> None:
        self.status: int = sent.response.status
        self.headers: Mapping[str, str] = sent.response.headers
        self.complete: bool = False
        """Whether the body was read to its end."""
        self._sent = sent
        self._errors = errors
        self._timeouts = timeouts
        self._signal = signal
        self._read_body = _body_reader(sent.response, errors)
        self._rest = b""
        self._position = 0
        self._failed = False
        self._closed = False
        self._scope = CancelScope()
        self._watch: SignalWatch | None = None
        self._loop = asyncio.get_running_loop()
        self._since = sent.sent_at
        self._limit = timeouts.first_event
        self._limit_name = "first_event"
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Start the time-out, and react to the signal from now on."""
        self._timer = self._loop.call_at(self._since + self._limit, self._check_time)
        if self._signal is not None:
            self._watch = SignalWatch(self._signal, lambda: self.cancel(Aborted()))

    def restart(self, limit: float | None = None) -> None:
        """Restart the time-out, as `idle`; `limit` seconds if that is shorter."""
        self._since = self._loop.time()
        if self._limit_name != "idle" or limit is not None:
            self._limit_name = "idle"
            self._limit = min(self._timeouts.idle, limit or float("inf"))
            if self._timer is not None:
                self._timer.cancel()
                self._timer = self._loop.call_at(self._since + self._limit, self._check_time)

    def _check_time(self) -> None:
        # One timer a response. It checks the time when it is due, and starts again if there was an event
        # since.
        now = self._loop.time()
        due = self._since + self._limit
        if not self._scope.is_active:  # The consumer is slow, not the provider.
            self._since, due = now, now + self._limit
        if now < due:
            self._timer = self._loop.call_at(due, self._check_time)
        else:
            self.cancel(self._errors.timeout_error(self._limit_name, self._limit))

    def cancel(self, reason: BaseException) -> None:
        """Let the current `read`, or the next one, raise `reason`."""
        self._scope.cancel(reason)

    async def read(self) -> bytes:
        """Return the next bytes of the body, decompressed; `b""` at its end.

        A large part is returned in pieces, so that all responses of an event loop take turns with each other
        and with all other tasks.

        Raises:
            StreamInterruptedError: The connection broke.
            ProviderTimeoutError: There was no event in time.
        """
        try:
            async with self._scope:
                data, position = self._rest, self._position
                if position < len(data):
                    await self._sent.pool.wait_for_turn()
                else:
                    data, position = await self._read_body(), 0
        except zlib.error as error:
            self._failed = True
            raise self._errors.invalid_error(
                f"the compressed reply cannot be decompressed ({error})"
            ) from self._errors.shareable(error)
        except TransportError as error:
            self._failed = True
            raise self._errors.interrupted_error(error) from self._errors.shareable(error)
        except BaseException:
            self._failed = True
            raise
        if position == 0:
            self._rest, self.complete = data, not data
        self._position = position + READ_SIZE
        return data[position : position + READ_SIZE]

    async def read_all(self, limit: int) -> bytes:
        """Return the rest of the body, up to `limit` bytes."""
        parts, size = [], 0
        while size < limit and (data := await self.read()):
            parts.append(data)
            size += len(data)
        return b"".join(parts)[:limit]

    async def finish(self) -> None:
        """Close a response that has all its events. Its end is read first, if it arrives at once."""
        if not (self.complete or self._failed or self._closed):
            self._scope = CancelScope()
            timer = self._loop.call_later(END_TIMEOUT_S, self.cancel, Aborted())
            try:
                while await self.read():
                    pass
            except (Aborted, TinyAgentError):
                pass  # The reply is complete, so a connection that stays open or breaks does not matter.
            finally:
                timer.cancel()
        await self.aclose()

    async def aclose(self) -> None:
        """Close at once. The connection stays open only if the body was read to its end."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        watcher = None
        if self._watch is not None:
            self._watch.stop()  # first, because the closing may be cancelled
            watcher = self._watch.task
        sent = self._sent
        await sent.response.aclose()
        if self.complete:
            await sent.give_back()
        else:
            await sent.transport.aclose()
        if watcher is not None:
            await asyncio.wait([watcher])


def _body_reader(response: Response, errors: RequestErrors) -> Callable[[], Awaitable[bytes]]:
    """Return the function that reads the next part of a body, decompressed."""
    try:
        decompressor = decompressor_for(response.headers.get("content-encoding", ""))
    except ValueError as error:
        raise errors.invalid_error(str(error)) from None
    return response.read if decompressor is None else partial(decompressor.read, response.read)
