"""The Rust wheel `tinyagent-alchemy`: its interface, and the replies that are read from it.

The wheel's module is `alchemy_llm_py.batches`; its `_native.pyi` describes the classes. A reply arrives as
steps. The wheel wakes an event loop through one socket (`WakerHub`), once for all steps that have arrived.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import weakref
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol, TypeAlias

import msgspec

from ._cancel import CancelScope, wake
from .errors import PluginError

__all__ = [
    "AlchemyResponse",
    "Facts",
    "Failure",
    "NamedCall",
    "NativeStream",
    "Step",
    "Waker",
    "WakerHub",
    "Wheel",
    "load_wheel",
    "read_facts",
]

MODULE = "alchemy_llm_py"
INSTALL = "pip install tinyagent-alchemy"

# ---- the interface --------------------------------------------------------------------------------------

START, TEXT_START, TEXT, TEXT_END, THINKING_START, THINKING, THINKING_END, CALL_START, CALL, END = range(10)
DELTAS = frozenset((TEXT, THINKING, CALL))

Step: TypeAlias = tuple[int, int, str] | tuple[int, int, str, str]
"""The kind, the block and the text; for `CALL_START`, the kind, the block, the id and the name."""


class Waker(Protocol):
    """A socket that an event loop watches for many streams."""

    def fileno(self) -> int: ...

    def drain(self) -> list[int]: ...


class NativeStream(Protocol):
    """An active request."""

    @property
    def id(self) -> int: ...

    def take(self) -> list[Step] | None: ...

    def close(self) -> None: ...


class Wheel(NamedTuple):
    """The classes of the wheel."""

    new_stream: Callable[[bytes, bytes | None, Waker | None], NativeStream]
    new_waker: Callable[[], Waker]


class Failure(msgspec.Struct):
    """Why a request failed."""

    kind: str
    status: int = 0
    words: str = ""
    value: object = None
    headers: dict[str, str] = {}


class NamedCall(msgspec.Struct):
    """A tool call as the server named it. `whole` are arguments that arrived as an object."""

    id: str
    name: str
    whole: object = None
    extra: list[dict[str, object]] = []


class Facts(msgspec.Struct):
    """The content of the last step. `Facts` in `transport/src/exchange.rs` describes the fields."""

    seen: int
    finish_reason: str | None
    usage: object
    calls: list[NamedCall]
    reasoning_field: str
    reasoning_details: list[object]
    failure: Failure | None
    texts: list[dict[str, object]] = []
    extra: list[dict[str, object]] = []
    reasons: list[str] = []
    last: list[str] = []


read_facts: Callable[[str], Facts] = msgspec.json.Decoder(Facts).decode


def load_wheel() -> Wheel:
    """Import the wheel.

    Raises:
        PluginError: The wheel is not installed, or cannot be loaded.
    """
    try:
        importlib.import_module(MODULE)
        batches = importlib.import_module(f"{MODULE}.batches")
    except ModuleNotFoundError as error:
        if error.name != MODULE:
            raise PluginError(f"the module {MODULE!r} cannot be loaded: {error}", hint=INSTALL) from error
        raise PluginError(
            f"the provider 'alchemy' needs a Rust wheel that is not installed. Try: {INSTALL}", hint=INSTALL
        ) from None
    except ImportError as error:
        raise PluginError(
            f"the module {MODULE!r} cannot be loaded: {error}",
            hint="Install it again, for this Python: pip install --force-reinstall tinyagent-alchemy",
        ) from error
    return Wheel(batches.Stream, batches.Waker)


# ---- reading --------------------------------------------------------------------------------------------


class WakerHub:
    """The socket by which the wheel wakes one event loop, and the replies that wait for it."""

    _hubs: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, WakerHub]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self, wheel: Wheel) -> None:
        self.waker: Waker = wheel.new_waker()
        self._pid = os.getpid()
        self._responses: weakref.WeakValueDictionary[int, AlchemyResponse] = weakref.WeakValueDictionary()
        self._watching = False

    @classmethod
    def of_loop(cls, wheel: Wheel) -> WakerHub:
        """Return the hub of the running loop. A forked process has its own hubs."""
        loop = asyncio.get_running_loop()
        hub = cls._hubs.get(loop)
        if hub is None or hub._pid != os.getpid():
            hub = cls._hubs[loop] = cls(wheel)
        return hub

    def add(self, response: AlchemyResponse) -> None:
        """Wake this response when it has new steps."""
        self._responses[response.id] = response
        if not self._watching:
            self._watching = True
            asyncio.get_running_loop().add_reader(self.waker.fileno(), self._woken)

    def discard(self, response: AlchemyResponse) -> None:
        """Remove a response. The last one removes the socket from the loop."""
        self._responses.pop(response.id, None)
        if self._watching and not self._responses:
            self._watching = False
            asyncio.get_running_loop().remove_reader(self.waker.fileno())

    def _woken(self) -> None:
        for stream in self.waker.drain():
            response = self._responses.get(stream)
            if response is not None:
                response.wake()


class AlchemyResponse:
    """A response that is being read, as `ReplyStream` needs it. It consists of steps, not of bytes."""

    def __init__(self, native: NativeStream, hub: WakerHub, signal: asyncio.Event | None) -> None:
        self.status = 200
        self.id: int = native.id
        self._native = native
        self._hub = hub
        self._waiter: asyncio.Future[None] | None = None
        self._peeked: list[Step] | None = None
        self._scope = CancelScope(signal)
        self._closed = False
        hub.add(self)

    def wake(self) -> None:
        """Wake the reader, because there are new steps."""
        wake(self._waiter)

    def cancel(self, reason: BaseException) -> None:
        """Let the current `read`, or the next one, raise `reason`."""
        self._scope.cancel(reason)

    async def read(self) -> list[Step]:
        """Return the steps since the last call; an empty list at the end.

        Raises:
            Aborted: The signal was set.
        """
        if self._peeked is not None:
            steps, self._peeked = self._peeked, None
            return steps
        async with self._scope:
            while (new := self._native.take()) is not None:
                if new:
                    return new
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
        return []

    async def peek(self) -> list[Step]:
        """Return the result of the next `read`."""
        self._peeked = await self.read()
        return self._peeked

    def restart(self, limit: float | None = None) -> None:
        """Do nothing: the wheel handles the time-outs."""

    async def finish(self) -> None:
        """Close a reply that is complete. The wheel reads the rest of its body."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close at once. The connection of a complete reply stays open."""
        if self._closed:
            return
        self._closed = True
        self._native.close()
        self._hub.discard(self)
