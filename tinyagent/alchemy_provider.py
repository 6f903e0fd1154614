"""The provider of the Rust wheel `tinyagent-alchemy`: the steps of its replies become events.

    agent = Agent(AgentOptions(stream_fn=stream_alchemy_openai_completions))

The first call imports the wheel. It sends requests and reads replies on its own threads, which never run
Python; `_alchemy` describes how the steps arrive. The meaning of a reply, errors and retries are the same as
for every other provider.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Unpack

from . import _json
from ._alchemy import (
    DELTAS,
    END,
    TEXT_END,
    TEXT_START,
    THINKING_END,
    THINKING_START,
    Facts,
    NamedCall,
    load_wheel,
    read_facts,
)
from ._alchemy_request import ANTHROPIC, AlchemyRequest
from ._cancel import Aborted
from ._json import as_dict
from ._stream.builder import BuilderEvent
from ._stream.chat_decoder import Call, ChatDecoder
from ._stream.chat_fields import merge
from ._stream.chat_request import refuses_stream_options
from ._stream.chat_types import Delta, unknown_fields
from ._stream.citations import read_citations
from ._stream.decoder import DecoderOptions
from ._stream.messages_decoder import normal_usage
from ._stream.model import HttpModel, as_model
from ._stream.reply import ReplyStream
from ._stream.response_schema import refuses_schema
from .agent_types import Context, ModelIdentity, SimpleStreamOptions, Usage
from .errors import ProviderError, StreamInterruptedError, TinyAgentError
from .openai_wire import OpenAICompatModel

__all__ = ["AlchemyStreamResponse", "OpenAICompatModel", "stream_alchemy_openai_completions"]


class AlchemyDecoder(ChatDecoder):
    """Decodes the steps of the wheel to events.

    Args:
        model: The model that replies.
        request: Makes errors of failures.
    """

    def __init__(
        self, model: ModelIdentity, *, request: AlchemyRequest, **options: Unpack[DecoderOptions]
    ) -> None:
        super().__init__(model, **options)
        self._request = request
        self._anthropic = request.api == ANTHROPIC
        if request.thinking_level != "off":
            self._fields["thinking_level"] = request.thinking_level
        self._places: list[int] = []
        """Our index of each of the wheel's blocks."""
        self._texts: list[int] = []
        """Our index of each text block."""
        self._named: list[tuple[int, str, str]] = []
        """Our index, the id and the name of each tool call, as it began."""

    def feed(self, steps: Any) -> list[BuilderEvent]:
        """Decode the next steps, and return their events."""
        out: list[BuilderEvent] = []
        append, delta, places = out.append, self.builder.delta, self._places
        for step in steps:
            kind = step[0]
            if kind in DELTAS:
                append(delta(places[step[1]], step[2]))
            elif kind == TEXT_START:
                self._begin("text", *self.builder.open_text(), out)
            elif kind == THINKING_START:
                self._begin("thinking", *self.builder.open_thinking(), out)
            elif len(step) == 4:  # CALL_START
                index, event = self.builder.open_tool_call(step[2], step[3])
                self._named.append((index, step[2], step[3]))
                self._begin("", index, event, out)
            elif kind in (TEXT_END, THINKING_END):
                self._end_block(places[step[1]], step[2], out)
            elif kind == END:
                self._end(read_facts(step[2]), out)
        return out

    def close(self) -> list[BuilderEvent]:
        """Decode the end of the steps, and return the last events."""
        out: list[BuilderEvent] = []
        closed = StreamInterruptedError(f"{self._name}: the reply was closed", provider=self._provider)
        self.broken(closed, out)
        return out

    def _begin(self, kind: str, index: int, event: BuilderEvent, out: list[BuilderEvent]) -> None:
        self._places.append(index)
        if kind:
            self._block, self._block_type = index, kind
        if kind == "thinking" and self._thinking_block < 0:
            self._thinking_block = index
        if kind == "text":
            self._texts.append(index)
            if self._text_block < 0:
                self._text_block = index
        out.append(event)

    def _end_block(self, index: int, signature: str, out: list[BuilderEvent]) -> None:
        if index != self._block or not self._block_type:
            return
        # "thinking" is what alchemy-llm writes where there was no signature.
        if self._anthropic and signature and signature != "thinking":
            self.builder.update(index, thinking_signature=signature)
        self._close_block(out)

    def _end(self, facts: Facts, out: list[BuilderEvent]) -> None:
        self.seen: int = facts.seen
        for reason in facts.reasons or filter(None, [facts.finish_reason]):
            self._set_finish_reason(reason)
        self._raw_usage = facts.usage
        self._reasoning_field = facts.reasoning_field
        self._signed.add_details(facts.reasoning_details)
        self._take_text_fields(facts.texts)
        failure = facts.failure
        if failure is None:
            self._take_names(facts.calls)
            self._take_unknown(facts, out)
            self._finish(out)
        elif failure.kind == "reported":
            self._stop(self._reported(failure.value))
        else:
            error = self._request.error_of(failure)
            if not isinstance(error, TinyAgentError):
                raise error
            self._stop(error)

    def _take_names(self, calls: Iterable[NamedCall]) -> None:
        """Set late or fragmented ids and names, and arguments that are objects."""
        for (index, call_id, name), call in zip(self._named, calls, strict=False):
            if call.id and not call_id:
                self.builder.update(index, id=self.builder.unique_id(call.id))
            if call.name != name:
                self.builder.update(index, name=call.name)
            named = Call(index, call.id, call.name)
            named.whole = call.whole
            for fields in call.extra:
                merge(named.extra, fields)
            self._calls.append(named)

    def _take_text_fields(self, texts: Iterable[Mapping[str, object]]) -> None:
        """Set citations and unknown fields of the texts of a Messages reply, as `AnthropicDecoder` does."""
        for index, fields in zip(self._texts, texts, strict=False):
            if fields:
                self.builder.update(index, text_signature=_json.encode(fields).decode())
            if citations := read_citations(fields.get("citations")):
                self.builder.update(index, citations=citations)

    def _take_unknown(self, facts: Facts, out: list[BuilderEvent]) -> None:
        """Set fields to send back, images, citations, and fields that arrive with the finish reason."""
        for delta in facts.extra:
            extra = unknown_fields(delta)
            if extra is not None:
                self._take_extra(Delta(), extra, out)
        self._last_chunks = [chunk.encode() for chunk in facts.last]

    def _finish(self, out: list[BuilderEvent]) -> None:
        if not self._anthropic:
            super()._finish(out)
            return
        self._close_block(out)
        self._close_calls(out)
        self._conclude(out)

    def _usage(self) -> Usage | None:
        if self._anthropic:
            usage = as_dict(self._raw_usage)
            return normal_usage(usage) if usage else None
        return super()._usage()


class AlchemyStreamResponse(ReplyStream):
    """An active reply: iterate it for the events, await `result()` for the message."""


def prepare(
    model: HttpModel, context: Context, options: SimpleStreamOptions
) -> tuple[AlchemyRequest, Callable[..., AlchemyDecoder]]:
    """Return a checked request, which is not sent yet, and the factory of its decoders.

    Raises:
        PluginError: The wheel is not installed, or cannot be loaded.
        TinyAgentError: The request cannot be sent.
    """
    request = AlchemyRequest(load_wheel(), model, context, options)
    return request, partial(AlchemyDecoder, model, request=request)


async def stream_alchemy_openai_completions(
    model: ModelIdentity, context: Context, options: SimpleStreamOptions | None = None
) -> AlchemyStreamResponse:
    """Stream a reply through the Rust wheel.

    Args:
        model: An `OpenAICompatModel`, or any model with a `base_url`. Its `api` may be any that alchemy-llm
            implements: `openai-completions`, `anthropic-messages`, `minimax-completions`, `zai-completions`.
        context: The conversation.
        options: See `SimpleStreamOptions`.

    Raises:
        PluginError: The wheel is not installed, or cannot be loaded.
        TinyAgentError: The request failed before the reply started.
    """
    options = options or {}
    model = as_model(model, HttpModel)
    request, decoder = prepare(model, context, options)
    try:
        while True:  # Each refusal is remembered, so there are at most three requests.
            if request.signal is not None and request.signal.is_set():
                raise Aborted
            try:
                response = await request.open()
            except ProviderError as error:
                refused = refuses_stream_options(error, request.sent_body, model, options)
                if not (refused or refuses_schema(error, request.sent_body, model, context, options)):
                    raise
                request, decoder = prepare(model, context, options)
            else:
                return AlchemyStreamResponse(request, response, decoder)
    except Aborted:
        return AlchemyStreamResponse(request, None, decoder)
