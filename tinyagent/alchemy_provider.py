"""The provider of the Rust wheel `tinyagent-alchemy`: its handle's events become ours.

    agent = Agent(AgentOptions(stream_fn=stream_alchemy_openai_completions))

The wheel's module `alchemy_llm_py` is imported by the first call. Its handle blocks, so each stream has one
thread, which reads it and wakes the event loop once for all events that have piled up by then.

The crate behind it reports some failures as success; the README of the wheel lists them. What can be seen
from outside is refused here: a stream without its end, an empty reply, characters that were lost between
two network chunks (U+FFFD), arguments that are no JSON object. Text and arguments are put together from the
deltas, so that nothing the crate made of them stands in their place.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from types import ModuleType
from typing import Any, Self, cast

from ._http import Timeouts, check_url, provider_error, redact
from ._interrupt import Aborted, Interrupt
from ._message_builder import BuilderEvent, MessageBuilder
from .agent_types import AssistantMessage, AssistantMessageEvent, Context, SimpleStreamOptions, StopReason
from .errors import (
    ConfigurationError,
    InvalidReplyError,
    PluginError,
    ProviderTimeoutError,
    StreamInterruptedError,
    TinyAgentError,
)
from .openai_wire import OpenAICompatModel, endpoint, request_headers

__all__ = ["AlchemyStreamResponse", "OpenAICompatModel", "stream_alchemy_openai_completions"]

MODULE = "alchemy_llm_py"
INSTALL = "pip install tinyagent-alchemy"

LIMIT = 4096
"""Events that may wait for a slow reader before the thread waits for it."""


# ---- the thread -----------------------------------------------------------------------------------


class _Feed:
    """The thread that reads a handle, and the queue between it and the event loop.

    Args:
        open_handle: Called in the thread, as it may block; gives the handle.
    """

    def __init__(self, open_handle: Any) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.events: deque[Any] = deque()
        self.ended = False
        """The thread puts in nothing more."""
        self.error: BaseException | None = None
        self._open_handle = open_handle
        self._loop = asyncio.get_running_loop()
        self._handle: Any = None
        self._reader: asyncio.Future[None] | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._called = False
        """The loop has been woken and has not looked yet."""
        self._room = threading.Event()
        self._room.set()
        threading.Thread(target=self._read, name="tinyagent-alchemy", daemon=True).start()

    def _read(self) -> None:
        try:
            handle = self._open_handle()
            with self._lock:
                self._handle = handle
                closed = self._closed
            if closed:
                _close(handle)
            self._call(opened=True)
            while not self._closed:
                event = handle.next_event()
                if event is None:
                    break
                self.events.append(event)
                self._call()
                if len(self.events) >= LIMIT:
                    self._room.clear()
                    # Looked at again, as the reader may have been through in between.
                    if len(self.events) >= LIMIT and not self._closed:
                        self._room.wait()
        except BaseException as error:  # noqa: BLE001 - a panic of Rust is a BaseException; all are told to the reader
            self.error = error
        self.ended = True
        self._call(opened=True)

    def _call(self, *, opened: bool = False) -> None:
        with self._lock:
            if self._called and not opened:
                return
            self._called = True
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            self._closed = True  # the loop is gone, and whoever waited with it

    def _wake(self) -> None:
        with self._lock:
            self._called = False
        if not self.opened.done():
            self.opened.set_result(None)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def ready(self) -> None:
        """Wait until there is an event, or will be no more."""
        # In a loop: a call to wake may arrive when its events have been read already.
        while not self.events and not self.ended:
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    def taken(self) -> None:
        """The reader has caught up."""
        self._room.set()

    def close(self) -> None:
        """Let go: the handle is closed if it can be, and the thread ends with its next event."""
        with self._lock:
            self._closed, handle = True, self._handle
        self._room.set()
        if handle is not None and not self.ended:
            _close(handle)


def _close(handle: Any) -> None:
    close = getattr(handle, "close", None)
    if close is not None:
        close()


# ---- the reply ------------------------------------------------------------------------------------


class AlchemyStreamResponse:
    """A reply under way: iterate it for the events, await `result()` for the message."""

    def __init__(
        self,
        feed: _Feed | None,
        model: Any,
        *,
        timeouts: Timeouts,
        signal: asyncio.Event | None = None,
        secrets: list[str] | None = None,
    ) -> None:
        self._feed = feed
        self._name = getattr(model, "provider", "") or "alchemy"
        self._timeouts = timeouts
        self._signal = signal
        self._secrets = secrets or []
        self._builder = MessageBuilder(model)
        self._message: AssistantMessage | None = None
        self._blocks: dict[int, int] = {}
        """The crate's index of each open block -> ours."""
        self._calls: dict[int, tuple[str, str]] = {}
        """The id and the name of each tool call, by our index; empty until one that is not came."""
        self._events = self._run()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AssistantMessageEvent:
        return cast(AssistantMessageEvent, await self._events.__anext__())

    async def result(self) -> AssistantMessage:
        """The whole message; reads on to the end if nobody has."""
        async for _ in self._events:
            pass
        if self._message is None:
            raise StreamInterruptedError(f"{self._name}: the reply was left before its end")
        return self._message

    async def aclose(self) -> None:
        """Leave the reply; its handle is closed."""
        if self._feed is not None:
            self._feed.close()
        await self._events.aclose()

    async def _run(self) -> AsyncGenerator[BuilderEvent, None]:
        feed = self._feed
        try:
            yield self._builder.start()
            if feed is None:
                raise Aborted
            while self._message is None:
                await self._wait(feed)
                if not feed.events:
                    self._raise_end(feed)
                while feed.events and self._message is None:
                    for event in self._events_of(feed.events.popleft()):
                        yield event
                feed.taken()
        except Aborted:
            yield self._end(self._builder.fail("aborted", "Operation aborted"))
        except TinyAgentError as error:
            more = {"error_hint": error.hint} if error.hint else {}
            yield self._end(self._builder.fail("error", str(error), error_kind=error.kind, **more))
        finally:
            if feed is not None:
                feed.close()

    async def _wait(self, feed: _Feed) -> None:
        if self._signal is not None and self._signal.is_set():
            raise Aborted
        if feed.events or feed.ended:
            return
        which = "idle" if len(self._builder) else "first_event"
        seconds = getattr(self._timeouts, which)
        late = ProviderTimeoutError(
            f"{self._name}: no event within {seconds:g} s (time-out {which!r})",
            hint=f"Set the time-out {which!r} higher if the model needs longer.",
        )
        async with Interrupt(self._signal) as interrupt:
            timer = asyncio.get_running_loop().call_later(seconds, interrupt.fire, late)
            try:
                await feed.ready()
            finally:
                timer.cancel()

    def _raise_end(self, feed: _Feed) -> None:
        if feed.error is not None:
            raise _as_ours(feed.error, self._name, self._secrets)
        raise StreamInterruptedError(
            f"{self._name}: the stream ended without `done` or `error`, so the reply may be incomplete",
            provider=self._name,
            retryable=True,
        )

    def _end(self, event: BuilderEvent) -> BuilderEvent:
        self._message = event["message"] if event["type"] == "done" else event["error"]
        return event

    # ---- events -------------------------------------------------------------------------------------

    def _events_of(self, event: Any) -> list[BuilderEvent]:
        """Our events for one of the crate's."""
        kind = event.get("type") if isinstance(event, Mapping) else None
        if not isinstance(kind, str):
            raise self._invalid(f"an event without a type: {str(event)[:200]}")
        block, _, step = kind.replace("toolcall", "tool_call").rpartition("_")
        out: list[BuilderEvent] = []
        if block in ("text", "thinking", "tool_call"):
            self._step(block, step, event, out)
        elif kind == "done":
            self._done(event, out)
        elif kind == "error":
            whole = event.get("error")
            words = whole.get("error_message") if isinstance(whole, Mapping) else whole
            raise provider_error(redact(str(words or ""), self._secrets), provider=self._name)
        return out

    def _step(self, kind: str, step: str, event: Mapping[str, Any], out: list[BuilderEvent]) -> None:
        given = event.get("content_index")
        place = given if isinstance(given, int) else max(self._blocks, default=0)
        if step == "end" and place not in self._blocks:
            return
        call = event.get("tool_call")
        call = call if isinstance(call, Mapping) else {}
        call_id, name = str(call.get("id") or ""), str(call.get("name") or "")
        index = self._blocks.get(place)
        if index is None:
            if kind == "tool_call":
                index, opened = self._builder.open_tool_call(call_id, name)
                self._calls[index] = call_id, name
            elif kind == "thinking":
                index, opened = self._builder.open_thinking()
            else:
                index, opened = self._builder.open_text()
            self._blocks[place] = index
            out.append(opened)
        elif kind == "tool_call":
            self._name_late(index, call_id, name)
        delta = event.get("delta")
        if step == "delta" and isinstance(delta, str) and delta:
            if "\ufffd" in delta:
                raise self._invalid("characters were lost on the way (U+FFFD)")
            out.append(self._builder.delta(index, delta))
        elif step == "end":
            del self._blocks[place]
            out.append(self._closed(index, event, call))

    def _name_late(self, index: int, call_id: str, name: str) -> None:
        """An id or a name that came late; what is there already stays, whatever the crate says later."""
        known_id, known_name = self._calls[index]
        late = {}
        if call_id and not known_id:
            late["id"] = self._builder.unique_id(call_id)
        if name and not known_name:
            late["name"] = name
        if late:
            self._calls[index] = known_id or call_id, known_name or name
            self._builder.update(index, **late)

    def _closed(self, index: int, event: Mapping[str, Any], call: Mapping[str, Any]) -> BuilderEvent:
        if index not in self._calls:
            signatures = ("text_signature", "thinking_signature")
            return self._builder.close(index, **{key: event[key] for key in signatures if event.get(key)})
        # The crate makes `{}` of what it cannot parse: its word counts only where there were no deltas.
        whole = None if self._builder.text(index).strip() else call.get("arguments")
        closed = self._builder.close(index, whole)
        if not self._calls[index][1]:
            # Nobody knows what to run: the text stays, and marks the call as invalid.
            self._builder.update(index, arguments={}, partial_json=self._builder.text(index))
            closed["tool_call"] = self._builder.block(index)
        return closed

    def _done(self, event: Mapping[str, Any], out: list[BuilderEvent]) -> None:
        message = event.get("message")
        message = message if isinstance(message, Mapping) else {}
        out.extend(self._closed(index, {}, {}) for index in self._blocks.values())
        self._blocks.clear()
        if not len(self._builder):
            raise self._invalid("the reply is empty, which the wheel cannot tell from a lost one")
        said = str(event.get("reason") or message.get("stop_reason") or "stop")
        if said == "error":
            raise provider_error(
                redact(str(message.get("error_message") or ""), self._secrets), provider=self._name
            )
        reason: StopReason = "tool_use" if self._calls else "stop"
        if said in ("length", "max_tokens"):
            reason = "length"
        fields = {"finish_reason": message["finish_reason"]} if message.get("finish_reason") else {}
        out.append(self._end(self._builder.done(reason, usage=message.get("usage") or None, **fields)))

    def _invalid(self, what: str) -> InvalidReplyError:
        return InvalidReplyError(f"{self._name}: {what}", provider=self._name)


def _as_ours(error: BaseException, name: str, secrets: list[str]) -> TinyAgentError:
    if isinstance(error, TinyAgentError):
        return error
    return provider_error(redact(str(error) or type(error).__name__, secrets), provider=name)


# ---- the stream function ------------------------------------------------------------------------------


async def stream_alchemy_openai_completions(
    model: Any, context: Context, options: SimpleStreamOptions | None = None
) -> AlchemyStreamResponse:
    """Stream a reply from any chat/completions endpoint, through the Rust wheel.

    Args:
        model: An `OpenAICompatModel`, or any model with a `base_url`.
        context: The conversation.
        options: See `SimpleStreamOptions`.

    Raises:
        PluginError: if the wheel is not installed, or cannot be loaded.
        TinyAgentError: if the reply did not begin.
    """
    module = _module()
    given: Mapping[str, Any] = options or {}
    arguments, secrets = _arguments(model, context, given)
    timeouts, signal = Timeouts.of(given.get("timeout")), given.get("signal")
    if signal is not None and signal.is_set():
        return AlchemyStreamResponse(None, model, timeouts=timeouts)
    feed = _Feed(lambda: module.openai_completions_stream(*arguments))
    name = getattr(model, "provider", "") or "alchemy"
    late = ProviderTimeoutError(
        f"{name}: no reply began within {timeouts.first_event:g} s (time-out 'first_event')"
    )
    try:
        async with Interrupt(signal) as interrupt:
            timer = asyncio.get_running_loop().call_later(timeouts.first_event, interrupt.fire, late)
            try:
                await feed.opened
            finally:
                timer.cancel()
    except Aborted:
        feed.close()
        return AlchemyStreamResponse(None, model, timeouts=timeouts)
    except BaseException:
        feed.close()
        raise
    if feed.ended and feed.error is not None and not feed.events:
        raise _as_ours(feed.error, name, secrets)
    return AlchemyStreamResponse(feed, model, timeouts=timeouts, signal=signal, secrets=secrets)


def _module() -> ModuleType:
    try:
        return importlib.import_module(MODULE)
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


def _arguments(
    model: Any, context: Context, options: Mapping[str, Any]
) -> tuple[tuple[dict[str, Any], dict[str, Any], dict[str, Any]], list[str]]:
    """What the wheel is called with, checked, and what of it is secret."""
    base_url = getattr(model, "base_url", None)
    if not base_url or not getattr(model, "id", ""):
        raise ConfigurationError(
            f"the model {getattr(model, 'id', model)!r} has no id or no base_url",
            hint='Use OpenAICompatModel(id=…, base_url="http://127.0.0.1:8080/v1").',
        )
    provider = getattr(model, "provider", "") or ""
    url = check_url(
        endpoint(base_url), provider=provider, allow_http=bool(getattr(model, "allow_http", False))
    )
    headers, secrets = request_headers(model, options.get("api_key"))
    bearer = headers.pop("authorization", "")
    if bearer and not bearer.startswith("Bearer "):
        headers["authorization"] = bearer
        bearer = ""
    described = {
        "id": model.id,
        "base_url": url,
        "provider": provider or None,
        "name": getattr(model, "name", "") or None,
        "headers": headers or None,
        "reasoning": bool(getattr(model, "reasoning", False)),
        "context_window": getattr(model, "context_window", None),
        "max_tokens": getattr(model, "max_tokens", None),
    }
    conversation = {
        "system_prompt": context.system_prompt,
        "messages": context.messages,
        "tools": [
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
            for tool in context.tools or ()
        ]
        or None,
    }
    level = options.get("thinking_level") or getattr(model, "thinking_level", None)
    chosen = {
        "api_key": bearer.removeprefix("Bearer ") or None,
        "temperature": options.get("temperature"),
        "max_tokens": options.get("max_tokens"),
        "session_id": options.get("session_id"),
        "thinking_level": str(level) if level else None,
        "thinking_budgets": options.get("thinking_budgets"),
    }
    return (_present(described), _present(conversation), _present(chosen)), secrets


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
