"""The Rust crate alchemy-llm for Python: OpenAI-compatible streaming, blocking and without tinyagent's agent.

    from alchemy_llm_py import openai_completions_stream

    model = {"id": "m", "base_url": "http://127.0.0.1:8080/v1"}
    question = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    stream = openai_completions_stream(model, {"system_prompt": "Be brief.", "messages": [question]})
    while (event := stream.next_event()) is not None:
        ...

Model, context and options are plain dicts. Events are the assistant message events of tinyagent, dicts with
`type`; `partial`, the message so far, is built when it is read. The GIL is released while Rust waits. In
asynchronous programs use `tinyagent.alchemy_provider`, which needs no thread.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Generator, Mapping
from typing import Any, TypeAlias, TypedDict, cast

from tinyagent import default_convert_to_llm
from tinyagent._net import request as _http
from tinyagent._stream.builder import BuilderEvent
from tinyagent._stream.message_checks import checked_messages
from tinyagent.agent_types import (
    AgentTool,
    AssistantMessage,
    AssistantMessageEvent,
    Context,
    SimpleStreamOptions,
)
from tinyagent.alchemy_provider import OpenAICompatModel, prepare
from tinyagent.errors import ConfigurationError

from .batches import Waker

__all__ = [
    "CollectedReply",
    "OpenAICompletionsStream",
    "collect_openai_completions",
    "openai_completions_stream",
]


PlainDict: TypeAlias = Mapping[str, Any]
"""A model or a context as JSON."""


class CollectedReply(TypedDict):
    """All events of a reply, and its message."""

    events: list[AssistantMessageEvent]
    final_message: AssistantMessage


class OpenAICompletionsStream:
    """An active reply. Any thread may read it, but only one at a time."""

    def __init__(self, model: OpenAICompatModel, context: Context, options: SimpleStreamOptions) -> None:
        self._request, self._decoder = prepare(model, context, options)
        self._waker = Waker()
        self._native = self._request.open_native(self._waker)
        self._lock = threading.Lock()
        self._message: AssistantMessage | None = None
        # The events of the builder have the fields of an assistant message event.
        self._events = cast("Generator[AssistantMessageEvent]", self._read())

    def next_event(self) -> AssistantMessageEvent | None:
        """Wait for the next event. Return None after the last, which is `done` or `error`."""
        with self._lock:
            return next(self._events, None)

    def result(self) -> AssistantMessage:
        """Read to the end of the reply, and return the message."""
        while self.next_event() is not None:
            pass
        assert self._message is not None, "a reply ends with its message"
        return self._message

    def close(self) -> None:
        """End the request at once. A thread that waits in `next_event` gets an `error` event."""
        self._native.close()

    def _read(self) -> Generator[BuilderEvent]:
        decoder, tries = self._decoder(redact=self._request.errors.redact), 0
        poll = select.poll()
        poll.register(self._waker.fileno(), select.POLLIN)
        yield decoder.builder.start()
        while True:
            steps = self._native.take()
            if steps is not None and not steps:
                poll.poll()
                self._waker.drain()
                continue
            events = decoder.feed(steps) if steps else decoder.close()
            if decoder.ended and decoder.error is not None:
                wait = None if decoder.shown or steps is None else _http.RETRY.wait(decoder.error, tries)
                if wait is not None:
                    tries += 1
                    time.sleep(wait)
                    self._native = self._request.open_native(self._waker)
                    decoder = self._decoder(redact=self._request.errors.redact, builder=decoder.builder)
                    continue
                events.append(decoder.fail())
            if decoder.ended:
                last = events[-1]
                self._message = last["message"] if last["type"] == "done" else last["error"]
            yield from events
            if decoder.ended:
                return


def openai_completions_stream(
    model: PlainDict, context: PlainDict, options: SimpleStreamOptions | None = None
) -> OpenAICompletionsStream:
    """Send a request, and return the reply to read.

    Args:
        model: `id`, `base_url`, and optionally `provider`, `name`, `headers`, `reasoning`, `context_window`,
            `max_tokens`.
        context: `system_prompt`, `messages`, and optionally `tools` (`name`, `description`, `parameters`).
        options: See `SimpleStreamOptions`, such as `api_key`, `temperature` and `max_tokens`.

    Raises:
        tinyagent.ConfigurationError: The request is invalid.
        tinyagent.InvalidMessageError: A message is malformed. Nothing is sent.
    """
    known = {field for field in OpenAICompatModel.__dataclass_fields__ if model.get(field) is not None}
    try:
        described = OpenAICompatModel(**{field: model[field] for field in known})
        tools = [
            AgentTool(tool["name"], tool.get("description", ""), tool["parameters"])
            for tool in context.get("tools") or ()
        ]
        messages = checked_messages(context.get("messages") or ())
        conversation = Context(
            context.get("system_prompt") or "", default_convert_to_llm(messages), tools or None
        )
        if "base_url" not in known:
            raise KeyError("base_url")
    except KeyError as error:
        raise ConfigurationError(
            f"{error} is missing in the arguments of openai_completions_stream"
        ) from None
    return OpenAICompletionsStream(described, conversation, options or {})


def collect_openai_completions(
    model: PlainDict, context: PlainDict, options: SimpleStreamOptions | None = None
) -> CollectedReply:
    """Send a request and block until its reply is complete: `{"events": [...], "final_message": {...}}`."""
    stream = openai_completions_stream(model, context, options)
    events: list[AssistantMessageEvent] = list(iter(stream.next_event, None))
    return {"events": events, "final_message": stream.result()}
