"""What the tests of `ProviderContract` check with, and the clock that they move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

__all__ = ["advance_clock", "deltas_of", "expect", "expect_equal", "leaves_of", "within"]


def expect(holds: bool, what: str) -> None:
    """Fail with `what` if `holds` is false. The module may run without pytest's rewriting of `assert`."""
    if not holds:
        raise AssertionError(what)


def expect_equal(expected: object, actual: object, what: str) -> None:
    """Fail if the values differ."""
    if expected != actual:
        raise AssertionError(f"{what}: expected {expected!r}, got {actual!r}")


@asynccontextmanager
async def within(seconds: float, what: str) -> AsyncIterator[None]:
    """Fail with `what` if the block takes longer."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError:
        if limit.expired():
            raise AssertionError(what) from None
        raise


def leaves_of(value: object) -> Iterator[object]:
    """Yield each string, number, bool and null in a JSON value, in order."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from leaves_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves_of(item)
    else:
        yield value


async def deltas_of(response: AsyncIterable[Mapping[str, object]]) -> AsyncIterator[str]:
    """Yield the deltas of a reply."""
    async for event in response:
        if "delta" in event:
            yield str(event["delta"])


class _MovableClock:
    """The clock of an event loop, with an offset."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.offset = 0.0
        self._time = loop.time

    def __call__(self) -> float:
        return self._time() + self.offset


def advance_clock(seconds: float) -> None:
    """Move the clock of the running loop forward, so that timers expire without a wait.

    Code that stored `loop.time` before the first call does not see the change. To avoid this, call it first
    with 0.
    """
    loop = asyncio.get_running_loop()
    clock = loop.time
    if not isinstance(clock, _MovableClock):
        clock = _MovableClock(loop)
        loop.time = clock  # type: ignore[method-assign]
    clock.offset += seconds
