"""The spans of an agent's runs, from its events.

    invoke_agent                   agent_start … agent_end
      chat MODEL                   turn_start … message_end of the reply
      execute_tool NAME            tool_execution_start … tool_execution_end
      chat MODEL                   compaction_start … compaction_end

The current span of the run's task is set at each start. Right after these events, the loop starts a task for
the model call or the tool, and a task copies the context. So spans that a tool or a provider makes are
children of the right span, also if tools run in parallel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeAlias
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context, attach, create_key, get_current, get_value, set_value
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from tinyagent import Agent
from tinyagent.agent_types import (
    AgentEndEvent,
    AgentEvent,
    AgentStartEvent,
    AssistantMessage,
    CompactionEndEvent,
    CompactionStartEvent,
    MessageEndEvent,
    MessageUpdateEvent,
    ToolExecutionEndEvent,
    ToolExecutionStartEvent,
    TurnEndEvent,
    TurnStartEvent,
    Usage,
)

from . import _content
from . import _semconv as names
from ._metrics import request_metrics

__all__ = ["AgentTracer"]

_Value: TypeAlias = str | bool | int | float | list[str]

_RUN = create_key("tinyagent.run")

ABORTED = "Operation aborted"
"""The text of a tool call or a compaction that an abort has ended."""


class _Run:
    """A run under way: its span, and the context from before it."""

    def __init__(self, span: Span, base: Context) -> None:
        self.span = span
        self.base = base
        self.ended = False


class AgentTracer:
    """A listener that makes spans of an agent's events, and metrics of its requests.

    Args:
        agent: The agent. Its model, its tools and its conversation are read when a span starts or ends.
        tracer_provider: Makes the spans; the global one if None.
        meter_provider: Makes the metrics; the global one if None.
        name: The name of the agent (`gen_ai.agent.name`).
        conversation_id: Returns the id of the conversation, or None.
        capture_content: Whether spans get messages, arguments, results and the system prompt.
        parent: The parent of runs that start outside of any span.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        name: str | None = None,
        conversation_id: Callable[[], str | None] | None = None,
        capture_content: bool = False,
        parent: Context | None = None,
    ) -> None:
        self._agent = agent
        self._tracer = trace.get_tracer("tinyagent", None, tracer_provider, names.SCHEMA_URL)
        self._metrics = request_metrics(meter_provider)
        self._name = name
        self._conversation_id = conversation_id or (lambda: agent.session_id)
        self._capture = capture_content
        self._parent = parent
        self._run: _Run | None = None
        self._chat: Span | None = None
        self._chat_attributes: dict[str, _Value] = {}
        self._chat_start = 0.0
        self._first_chunk: float | None = None
        self._tools: dict[str, list[Span]] = {}
        self._aborted = False
        """Whether an abort has ended a tool or a compaction since the last request."""

    def __call__(self, event: AgentEvent) -> None:
        """Start or end the span of an event."""
        match event:
            case MessageUpdateEvent():
                if self._first_chunk is None:
                    self._first_chunk = time.monotonic()
            case AgentStartEvent():
                self._start_run()
            case TurnStartEvent():
                self._start_chat()
            case CompactionStartEvent(reason=reason):
                # The span that the turn has started is left out: its request was not sent yet.
                self._start_chat({names.COMPACTION_REASON: reason})
            case CompactionEndEvent():
                self._end_compaction(event)
            case MessageEndEvent(message=message) if message["role"] == "assistant":
                self._end_chat(message)
            case ToolExecutionStartEvent():
                self._start_tool(event)
            case ToolExecutionEndEvent():
                self._end_tool(event)
            case TurnEndEvent():
                self._set_current(None)
            case AgentEndEvent():
                self._end_run(event)
            case _:
                pass

    def close(self) -> None:
        """End the spans of a run whose events have stopped, as aborted."""
        open_tools = [span for spans in self._tools.values() for span in spans]
        chat, run = self._chat, self._run
        for span in (*open_tools, chat, run.span if run is not None else None):
            if span is not None:
                _fail(span, "aborted")
                span.end()
        self._tools, self._chat, self._run = {}, None, None
        if run is not None:
            run.ended = True

    # ---- runs -----------------------------------------------------------------------------------------

    def _start_run(self) -> None:
        self.close()
        base = get_current()
        while isinstance(outer := get_value(_RUN, base), _Run) and outer.ended:
            base = outer.base  # it was cancelled, and could not restore the context
        parent = base
        if self._parent is not None and not trace.get_current_span(base).get_span_context().is_valid:
            parent = self._parent
        attributes = self._attributes(names.INVOKE_AGENT)
        if self._name is not None:
            attributes[names.AGENT_NAME] = self._name
        label = names.INVOKE_AGENT if self._name is None else f"{names.INVOKE_AGENT} {self._name}"
        span = self._tracer.start_span(label, parent, SpanKind.INTERNAL, attributes)
        self._run, self._aborted = _Run(span, base), False
        self._set_current(None)

    def _end_run(self, event: AgentEndEvent) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        span = run.span
        replies = [message for message in event.messages if message["role"] == "assistant"]
        _add_usage(span, event.usage)
        if replies:
            span.set_attribute(names.RESPONSE_FINISH_REASONS, [_finish_reason(replies[-1])])
            self._add_error(span, replies[-1])
        if event.limit is not None:
            span.set_attribute(names.LIMIT, event.limit)
            _fail(span, event.limit)
        if self._capture and span.is_recording():
            asked = [message for message in event.messages if message["role"] == "user"]
            self._add_request_content(span)
            span.set_attribute(names.INPUT_MESSAGES, _content.messages_json(asked))
            if replies:
                span.set_attribute(
                    names.OUTPUT_MESSAGES, _content.output_json(replies[-1], _finish_reason(replies[-1]))
                )
        span.end()
        run.ended = True
        attach(run.base)

    # ---- requests -------------------------------------------------------------------------------------

    def _start_chat(self, more: Mapping[str, _Value] | None = None) -> None:
        options, attributes = self._agent.options, self._attributes(names.CHAT)
        attributes[names.REQUEST_STREAM] = True
        if options.temperature is not None:
            attributes[names.REQUEST_TEMPERATURE] = options.temperature
        if options.max_tokens is not None:
            attributes[names.REQUEST_MAX_TOKENS] = options.max_tokens
        attributes.update(more or {})
        label = f"{names.CHAT} {attributes.get(names.REQUEST_MODEL, '')}".strip()
        self._chat = self._tracer.start_span(label, self._run_context(), SpanKind.CLIENT, attributes)
        self._chat_attributes, self._chat_start, self._first_chunk = attributes, time.monotonic(), None
        self._set_current(self._chat)

    def _end_chat(self, message: AssistantMessage) -> None:
        span, self._chat = self._chat, None
        aborted, self._aborted = self._aborted, False
        if span is None or (aborted and message["stop_reason"] == "aborted" and not message["content"]):
            return  # the message reports the abort, and there was no request
        reason = _finish_reason(message)
        span.set_attribute(names.RESPONSE_FINISH_REASONS, [reason])
        if self._first_chunk is not None:
            span.set_attribute(names.RESPONSE_TIME_TO_FIRST_CHUNK, self._first_chunk - self._chat_start)
        model = self._agent.state["model"]
        if model is not None and message["model"] not in ("", model.id):
            span.set_attribute(names.RESPONSE_MODEL, message["model"])
            self._chat_attributes[names.RESPONSE_MODEL] = message["model"]
        self._record(message["usage"], self._add_error(span, message))
        _add_usage(span, message["usage"])
        if self._capture and span.is_recording():
            self._add_request_content(span)
            sent = [other for other in self._agent.state["messages"] if other is not message]
            span.set_attribute(names.INPUT_MESSAGES, _content.messages_json(sent))
            span.set_attribute(names.OUTPUT_MESSAGES, _content.output_json(message, reason))
        span.end()

    def _end_compaction(self, event: CompactionEndEvent) -> None:
        span, self._chat = self._chat, None
        if span is not None:
            _add_usage(span, event.usage)
            self._record(event.usage, None if event.error_message is None else names.OTHER_ERROR)
            if event.error_message is not None:
                _fail(span, names.OTHER_ERROR, event.error_message if self._capture else None)
                self._aborted = event.error_message == ABORTED
            elif self._capture and event.summary is not None and span.is_recording():
                span.set_attribute(names.OUTPUT_MESSAGES, _content.messages_json([event.summary]))
            span.end()
        if self._run is not None:
            self._start_chat()  # the request of the turn follows
        else:
            self._set_current(None)

    def _record(self, usage: Usage | None, error: str | None) -> None:
        """Record the metrics of the request that has ended."""
        self._metrics.record(self._chat_attributes, time.monotonic() - self._chat_start, usage, error)

    # ---- tools ----------------------------------------------------------------------------------------

    def _start_tool(self, event: ToolExecutionStartEvent) -> None:
        attributes: dict[str, _Value] = {
            names.OPERATION_NAME: names.EXECUTE_TOOL,
            names.TOOL_NAME: event.tool_name,
            names.TOOL_CALL_ID: event.tool_call_id,
            names.TOOL_TYPE: names.FUNCTION,
        }
        conversation = self._conversation_id()
        if conversation is not None:
            attributes[names.CONVERSATION_ID] = conversation
        tool = next((tool for tool in self._agent.state["tools"] if tool.name == event.tool_name), None)
        if tool is not None and tool.description:
            attributes[names.TOOL_DESCRIPTION] = tool.description
        label = f"{names.EXECUTE_TOOL} {event.tool_name}"
        span = self._tracer.start_span(label, self._run_context(), SpanKind.INTERNAL, attributes)
        if self._capture and span.is_recording():
            span.set_attribute(names.TOOL_CALL_ARGUMENTS, _content.arguments_json(event.args))
        self._tools.setdefault(event.tool_call_id, []).append(span)
        self._set_current(span)

    def _end_tool(self, event: ToolExecutionEndEvent) -> None:
        spans = self._tools.get(event.tool_call_id)
        if not spans:
            return
        span = spans.pop(0)
        if not spans:
            del self._tools[event.tool_call_id]
        if self._capture and span.is_recording():
            span.set_attribute(names.TOOL_CALL_RESULT, _content.result_json(event.result.content))
        if event.is_error:
            _fail(span, names.TOOL_ERROR)
            self._aborted = self._aborted or {"type": "text", "text": ABORTED} in event.result.content
        span.end()

    # ---- common ---------------------------------------------------------------------------------------

    def _run_context(self) -> Context:
        """Return the context in which the run's span is the current one."""
        run = self._run
        if run is None:
            return get_current() if self._parent is None else self._parent
        return set_value(_RUN, run, trace.set_span_in_context(run.span, run.base))

    def _set_current(self, span: Span | None) -> None:
        """Make a span the current one; that of the run if None. Outside of a run, nothing changes."""
        if self._run is not None:
            context = self._run_context()
            attach(context if span is None else trace.set_span_in_context(span, context))

    def _attributes(self, operation: str) -> dict[str, _Value]:
        """Return the attributes of a span about the model."""
        attributes: dict[str, _Value] = {names.OPERATION_NAME: operation}
        model = self._agent.state["model"]
        if model is not None:
            attributes[names.PROVIDER_NAME] = names.provider_name(model.provider)
            attributes[names.REQUEST_MODEL] = model.id
            attributes.update(_server(getattr(model, "base_url", "")) if operation == names.CHAT else {})
        conversation = self._conversation_id()
        if conversation is not None:
            attributes[names.CONVERSATION_ID] = conversation
        return attributes

    def _add_error(self, span: Span, message: AssistantMessage) -> str | None:
        """Add the error of a reply to a span. Return its `error.type`; None without an error."""
        if message["stop_reason"] not in ("error", "aborted"):
            return None
        other = "aborted" if message["stop_reason"] == "aborted" else names.OTHER_ERROR
        kind = message.get("error_kind") or other
        # The text may quote the request.
        _fail(span, kind, message.get("error_message") if self._capture else None)
        status = message.get("error_status")
        if status is not None:
            span.set_attribute(names.HTTP_STATUS, status)
        return kind

    def _add_request_content(self, span: Span) -> None:
        state = self._agent.state
        if state["system_prompt"]:
            span.set_attribute(names.SYSTEM_INSTRUCTIONS, _content.system_json(state["system_prompt"]))
        if state["tools"]:
            span.set_attribute(names.TOOL_DEFINITIONS, _content.tools_json(state["tools"]))


def _finish_reason(message: AssistantMessage) -> str:
    return message.get("finish_reason") or message["stop_reason"]


def _fail(span: Span, kind: str, description: str | None = None) -> None:
    span.set_attribute(names.ERROR_TYPE, kind)
    span.set_status(Status(StatusCode.ERROR, description))


def _add_usage(span: Span, usage: Usage | None) -> None:
    if usage is None:
        return
    for value, name in (
        (usage.get("input"), names.USAGE_INPUT),
        (usage.get("output"), names.USAGE_OUTPUT),
        (usage.get("cache_read"), names.USAGE_CACHE_READ),
        (usage.get("cache_write"), names.USAGE_CACHE_CREATION),
        (usage.get("reasoning"), names.USAGE_REASONING),
        (usage.get("cost"), names.COST),
        (usage.get("cost_estimated"), names.COST_ESTIMATED),
    ):
        if value is not None:
            span.set_attribute(name, value)


def _server(url: object) -> dict[str, _Value]:
    """Return the host and the port of an address; nothing if it has none."""
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        host, port = parts.hostname, parts.port
    except ValueError:
        return {}
    if not host:
        return {}
    return {
        names.SERVER_ADDRESS: host,
        names.SERVER_PORT: port or (80 if parts.scheme == "http" else 443),
    }
