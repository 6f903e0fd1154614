"""The gate that all requests to one provider pass.

Requests enter in the order of their tickets. A request that is repeated has the ticket of its first attempt,
so it is not overtaken by later ones. Nothing is polled: a request that waits is a future, and one timer of
the gate ends the next wait for time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from tinyagent._cancel import wake

from .backoff import Backoff
from .rate import Rate

__all__ = ["Clock", "Gate", "LimitState", "Permit", "Refusal", "Timer"]

DECREASE = 0.7
"""The factor of the concurrency after a refusal, as in TCP CUBIC."""
PAUSE_JITTER = 0.1
"""The share by which a pause is made longer at most, so that several processes do not continue at once."""


class Timer(Protocol):
    """A call that is scheduled."""

    def cancel(self) -> None:
        """Do not make the call."""
        ...


class Clock(Protocol):
    """The time and its timers. An event loop of asyncio is a clock."""

    def time(self) -> float:
        """Return the time in seconds, from any beginning."""
        ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        """Call `callback` at the time `when`."""
        ...


class LimitState(NamedTuple):
    """The state of a provider's limits.

    Attributes:
        concurrency: How many requests may be in flight at present.
        in_flight: How many are.
        waiting: How many wait to be sent.
        paused_s: Seconds until the end of a pause that the provider has asked for.
    """

    concurrency: int
    in_flight: int
    waiting: int
    paused_s: float


class Refusal(NamedTuple):
    """What a refusal of a request means.

    Attributes:
        is_first: Whether it is the first since the last decrease, and not a further one of the same burst.
        pauses: Whether the gate pauses. Otherwise, the request has to wait, and others do not.
    """

    is_first: bool
    pauses: bool


class Permit:
    """The permission to send one request, until its end is reported to the gate.

    Attributes:
        epoch: The number of decreases before it.
        tokens: The estimate that it has taken from the rate of tokens.
    """

    __slots__ = ("epoch", "is_held", "tokens")

    def __init__(self, epoch: int, tokens: float) -> None:
        self.epoch = epoch
        self.tokens = tokens
        self.is_held = True


@dataclass(order=True, slots=True)
class _Waiting:
    """A request in the queue."""

    ticket: int
    tokens: float
    future: asyncio.Future[Permit]


class Gate:
    """Admits requests: concurrency, rates, and pauses.

    The concurrency begins at its maximum, and adapts: a refusal decreases it by a factor, and as many answers
    as requests are in flight increase it by one. Requests that were sent before a decrease do not change it
    any more, because they say nothing about the new value: 50 refusals of one burst are one decrease. If one
    request at a time is too many, the gate pauses.

    Args:
        max_concurrency: The most requests in flight.
        requests_per_minute: The rate of requests; None for no limit.
        tokens_per_minute: The rate of input and output tokens; None for no limit.
        clock: The time.
        backoff: The pauses if one request at a time is too many.
    """

    def __init__(
        self,
        max_concurrency: int,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        clock: Clock,
        backoff: Backoff,
    ) -> None:
        self._clock, self._backoff = clock, backoff
        self._max_concurrency = max_concurrency
        self._concurrency = float(max_concurrency)
        self._in_flight = 0
        self._epoch = 0
        self._pauses = 0
        """The pauses since the last answer."""
        now = clock.time()
        self._paused_until = now
        self._requests = Rate(requests_per_minute, now) if requests_per_minute is not None else None
        self._tokens = Rate(tokens_per_minute, now) if tokens_per_minute is not None else None
        self._queue: list[_Waiting] = []
        self._timer: Timer | None = None
        self._tickets = itertools.count()

    @property
    def counts_tokens(self) -> bool:
        """Whether there is a rate of tokens, so that requests need an estimate."""
        return self._tokens is not None

    def state(self) -> LimitState:
        """Return the present state."""
        waiting = sum(not waiting.future.done() for waiting in self._queue)
        paused = max(self._paused_until - self._clock.time(), 0.0)
        return LimitState(int(self._concurrency), self._in_flight, waiting, paused)

    def new_ticket(self) -> int:
        """Return the place of a new request in the queue."""
        return next(self._tickets)

    async def enter(self, ticket: int, tokens: float) -> Permit:
        """Wait until the request may be sent.

        Args:
            ticket: The place in the queue.
            tokens: The estimated tokens of the request and its reply.
        """
        waiting = _Waiting(ticket, tokens, asyncio.get_running_loop().create_future())
        heapq.heappush(self._queue, waiting)
        self._admit()
        try:
            return await waiting.future
        except asyncio.CancelledError:
            if not waiting.future.cancelled():  # It was admitted when it was cancelled.
                self.give_back(waiting.future.result())
            else:
                self._admit()  # The next one may need less time.
            raise

    # ---- the end of a request -------------------------------------------------------------------------

    def answered(self, permit: Permit, tokens: float | None) -> None:
        """Report a complete reply, and its tokens if they are known."""
        if not permit.is_held:
            return
        if permit.epoch == self._epoch and self._in_flight >= int(self._concurrency):
            self._concurrency = min(self._concurrency + 1 / self._concurrency, self._max_concurrency)
        self._pauses = 0
        if tokens is not None and self._tokens is not None:
            self._tokens.take(tokens - permit.tokens)
        self.leave(permit)

    def refused(self, permit: Permit, retry_after: float | None) -> Refusal:
        """Report that the provider refused the request because of a limit, or of its load.

        Args:
            permit: The permit of the request.
            retry_after: The seconds that the provider asks to wait; None if it does not.
        """
        is_first = permit.is_held and permit.epoch == self._epoch
        pause = None if retry_after is None else retry_after * (1 + PAUSE_JITTER * self._backoff.random())
        if is_first:
            if pause is None and int(self._concurrency) == 1:
                pause = self._backoff.wait(self._pauses)
                self._pauses += 1
            self._epoch += 1
            self._concurrency = max(self._concurrency * DECREASE, 1.0)
        if pause is not None:
            self._paused_until = max(self._paused_until, self._clock.time() + pause)
        if permit.is_held and self._tokens is not None:
            self._tokens.take(-permit.tokens)
        self.leave(permit)
        return Refusal(is_first, pause is not None)

    def give_back(self, permit: Permit) -> None:
        """Report that the request was not sent."""
        if permit.is_held:
            if self._requests is not None:
                self._requests.take(-1)
            if self._tokens is not None:
                self._tokens.take(-permit.tokens)
            self.leave(permit)

    def leave(self, permit: Permit) -> None:
        """Report any other end. After the first report, the permit has no effect."""
        if permit.is_held:
            permit.is_held = False
            self._in_flight -= 1
            self._admit()

    # ---- time -----------------------------------------------------------------------------------------

    async def sleep(self, seconds: float) -> None:
        """Wait by the clock of this gate."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_at(self._clock.time() + seconds, partial(wake, future))
        try:
            await future
        finally:
            timer.cancel()

    def _admit(self) -> None:
        """Admit the requests that may be sent, and set the timer for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock.time()
        while self._queue and self._in_flight < int(self._concurrency):
            first = self._queue[0]
            if not first.future.done():
                seconds = self._delay(first.tokens, now)
                if seconds > 0:
                    self._timer = self._clock.call_at(now + seconds, self._admit)
                    return
                first.future.set_result(self._new_permit(first.tokens))
            heapq.heappop(self._queue)

    def _delay(self, tokens: float, now: float) -> float:
        seconds = self._paused_until - now
        if self._requests is not None:
            seconds = max(seconds, self._requests.delay(1, now))
        if self._tokens is not None:
            seconds = max(seconds, self._tokens.delay(tokens, now))
        return seconds

    def _new_permit(self, tokens: float) -> Permit:
        self._in_flight += 1
        if self._requests is not None:
            self._requests.take(1)
        if self._tokens is not None:
            self._tokens.take(tokens)
        return Permit(self._epoch, tokens)
