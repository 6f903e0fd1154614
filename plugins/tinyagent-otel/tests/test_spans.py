"""The spans of scripted runs, in memory."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

from tinyagent import Agent, AgentOptions, Compaction, OpenAICompatModel, RateLimitError, tool
from tinyagent.testing import Reply, ScriptedProvider, call, check_grammar, thinking
from tinyagent_otel import instrument

from .conftest import Spans

CANARY = "canary-7261"


def agent(provider: ScriptedProvider, *tools: Any, **options: Any) -> tuple[Agent, list[Any]]:
    """Return an agent with these tools, and its events."""
    state = {"model": provider.model, "tools": list(tools), "system_prompt": f"Be kind. {CANARY}"}
    made = Agent(AgentOptions(initial_state=state, stream_fn=provider, **options))
    events: list[Any] = []
    made.subscribe(events.append)
    return made, events


def check_runs(events: list[Any]) -> None:
    """Check the grammar of each run."""
    starts = [number for number, event in enumerate(events) if event.type == "agent_start"]
    assert starts
    for start, end in zip(starts, [*starts[1:], len(events)], strict=True):
        check_grammar(events[start:end])


@tool(read_only=True)
async def look(at: str = "") -> str:
    """Look at something."""
    if at == "nothing":
        raise ValueError(f"There is nothing. {CANARY}")
    return f"I see {at}. {CANARY}"


LONG_TALK: list[Any] = [
    {"role": role, "content": [{"type": "text", "text": "word " * 2000}], **fields}
    for _ in range(4)
    for role, fields in (
        ("user", {}),
        (
            "assistant",
            {
                "stop_reason": "stop",
                "timestamp": 1,
                "api": "",
                "provider": "",
                "model": "m",
                "usage": None,
            },
        ),
    )
]

USAGE = {
    "input": 12,
    "output": 3,
    "cache_read": 8,
    "cache_write": 2,
    "reasoning": 1,
    "total": 15,
    "cost": 0.25,
}


async def test_a_run_with_a_tool(spans: Spans) -> None:
    """A run is one tree of the agent, its requests and its tool calls, with the conventions' attributes."""
    with ScriptedProvider(
        Reply(
            f"Let me look. {CANARY}",
            call("look", at=CANARY, call_id="c1"),
            usage=USAGE,
            finish_reason="tool_calls",
        ),
        Reply("Done.", usage=USAGE, finish_reason="end_turn"),
    ) as provider:
        viewer, events = agent(provider, look, temperature=0.5, max_tokens=100)
        instrument(viewer, tracer_provider=spans.provider, name="viewer", conversation_id="conv-1")
        await viewer.prompt(f"Look! {CANARY}")
    check_runs(events)
    about = {
        "gen_ai.conversation.id": "conv-1",
        "gen_ai.provider.name": provider.model.provider,
        "gen_ai.request.model": provider.model.id,
    }
    asked = {
        **about,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.max_tokens": 100,
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.time_to_first_chunk": "…",
    }
    used = {
        "gen_ai.usage.cache_creation.input_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 8,
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 1,
        "tinyagent.usage.cost": 0.25,
    }
    chat = {"name": f"chat {provider.model.id}", "kind": "CLIENT", "status": "UNSET"}
    assert [
        {
            "name": "invoke_agent viewer",
            "kind": "INTERNAL",
            "status": "UNSET",
            "attributes": {
                **about,
                **{key: 2 * value for key, value in used.items()},
                "gen_ai.agent.name": "viewer",
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.response.finish_reasons": ["end_turn"],
            },
            "children": [
                {**chat, "attributes": {**asked, **used, "gen_ai.response.finish_reasons": ["tool_calls"]}},
                {
                    "name": "execute_tool look",
                    "kind": "INTERNAL",
                    "status": "UNSET",
                    "attributes": {
                        "gen_ai.conversation.id": "conv-1",
                        "gen_ai.operation.name": "execute_tool",
                        "gen_ai.tool.call.id": "c1",
                        "gen_ai.tool.description": "Look at something.",
                        "gen_ai.tool.name": "look",
                        "gen_ai.tool.type": "function",
                    },
                },
                {**chat, "attributes": {**asked, **used, "gen_ai.response.finish_reasons": ["end_turn"]}},
            ],
        }
    ] == spans.tree()


async def test_content_is_absent_unless_it_is_wanted(spans: Spans) -> None:
    """No span has text of prompts, replies, arguments, results or errors, unless the user asks for it."""
    script = (
        Reply(thinking(CANARY), call("look", at=CANARY)),
        Reply(call("look", at="nothing")),
        Reply(error=f"Invalid: {CANARY}", error_kind="provider"),
    )
    for capture in (False, True):
        with ScriptedProvider(*script) as provider:
            viewer, events = agent(provider, look)
            instrument(viewer, tracer_provider=spans.provider, capture_content=capture)
            await viewer.prompt(f"Look! {CANARY}")
        check_runs(events)
        everything = "".join(span.to_json() for span in spans.all)
        assert capture == (CANARY in everything)


async def test_content_has_the_form_of_the_conventions(spans: Spans) -> None:
    """Messages are JSON with roles and parts; a request has the messages before it."""
    with ScriptedProvider(
        Reply(thinking("Hm."), "Yes", call("look", at="it", call_id="c1")), "Done."
    ) as provider:
        viewer, events = agent(provider, look)
        instrument(viewer, tracer_provider=spans.provider, capture_content=True)
        await viewer.prompt("Look!", images=["data:image/png;base64,AAAA", "https://example.com/a.png"])
    check_runs(events)
    first, second = spans.named(f"chat {provider.model.id}")
    [looked] = spans.named("execute_tool look")
    [run] = spans.named("invoke_agent")
    asked = {
        "role": "user",
        "parts": [
            {"type": "text", "content": "Look!"},
            {"type": "image", "mime_type": "image/png", "characters": 26},
            {"type": "uri", "modality": "image", "mime_type": None, "uri": "https://example.com/a.png"},
        ],
    }
    replied = {
        "role": "assistant",
        "parts": [
            {"type": "reasoning", "content": "Hm."},
            {"type": "text", "content": "Yes"},
            {"type": "tool_call", "id": "c1", "name": "look", "arguments": {"at": "it"}},
        ],
    }
    result = f"I see it. {CANARY}"
    answered = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": result}]}
    done = {"role": "assistant", "parts": [{"type": "text", "content": "Done."}], "finish_reason": "stop"}

    def content(span: Any, name: str) -> Any:
        return json.loads(span.attributes[name])

    assert [asked] == content(first, "gen_ai.input.messages")
    assert [{**replied, "finish_reason": "tool_use"}] == content(first, "gen_ai.output.messages")
    assert [asked, replied, answered] == content(second, "gen_ai.input.messages")
    assert [done] == content(second, "gen_ai.output.messages") == content(run, "gen_ai.output.messages")
    assert [asked] == content(run, "gen_ai.input.messages")
    assert {"at": "it"} == content(looked, "gen_ai.tool.call.arguments")
    assert result == content(looked, "gen_ai.tool.call.result")
    for span in (first, second, run):
        system = [{"type": "text", "content": f"Be kind. {CANARY}"}]
        assert system == content(span, "gen_ai.system_instructions")
        assert [{"type": "function", "name": "look"}] == content(span, "gen_ai.tool.definitions")


@pytest.mark.parametrize(
    ("value", "captured"),
    [
        ("true", True),
        ("SPAN_ONLY", True),
        ("span_and_event", True),
        ("EVENT_ONLY", False),
        ("no_content", False),
    ],
)
async def test_the_variable_of_the_conventions_decides_about_content(
    spans: Spans, monkeypatch: pytest.MonkeyPatch, value: str, captured: bool
) -> None:
    """Its values for spans add content; without an argument, `instrument` reads it."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", value)
    with ScriptedProvider("Hello.") as provider:
        viewer, events = agent(provider)
        instrument(viewer, tracer_provider=spans.provider)
        await viewer.prompt("Hi")
    check_runs(events)
    assert captured == any("gen_ai.input.messages" in (span.attributes or {}) for span in spans.all)


async def test_a_failed_request(spans: Spans) -> None:
    """The request and the run have the kind of the error, and the status of the server."""
    with ScriptedProvider(RateLimitError("Slow down.", status=429)) as provider:
        viewer, events = agent(provider)
        instrument(viewer, tracer_provider=spans.provider)
        await viewer.prompt("Hi")
    check_runs(events)
    assert [f"chat {provider.model.id}", "invoke_agent"] == [span.name for span in spans.all]
    for span in spans.all:
        assert span.attributes is not None
        assert ("rate_limit", 429) == (
            span.attributes["error.type"],
            span.attributes["http.response.status_code"],
        )
        assert (False, None) == (span.status.is_ok, span.status.description)


async def test_a_failed_tool_is_an_error_of_its_span_only(spans: Spans) -> None:
    """So is a call of a tool that does not exist. The run itself has succeeded."""
    with ScriptedProvider(Reply(call("look", at="nothing"), call("unknown")), "Well.") as provider:
        viewer, events = agent(provider, look)
        instrument(viewer, tracer_provider=spans.provider)
        await viewer.prompt("Hi")
    check_runs(events)
    failed = {
        span.name: (span.attributes or {})["error.type"]
        for span in spans.all
        if span.status.status_code is StatusCode.ERROR
    }
    assert {"execute_tool look": "tool_error", "execute_tool unknown": "tool_error"} == failed


async def test_a_limit_is_an_error_of_the_run(spans: Spans) -> None:
    """The run names the limit that ended it."""
    with ScriptedProvider(Reply(call("look", at="it"))) as provider:
        viewer, events = agent(provider, look, max_turns=1)
        instrument(viewer, tracer_provider=spans.provider)
        await viewer.prompt("Hi")
    check_runs(events)
    [run] = spans.named("invoke_agent")
    assert run.attributes is not None
    assert ("max_turns", "max_turns") == (run.attributes["error.type"], run.attributes["tinyagent.run.limit"])


async def test_an_abort_during_a_reply(spans: Spans) -> None:
    """The request and the run end as aborted."""
    with ScriptedProvider(Reply("Once upon", hang=True)) as provider:
        viewer, events = agent(provider)
        instrument(viewer, tracer_provider=spans.provider)
        viewer.subscribe(lambda event: viewer.abort() if event.type == "message_update" else None)
        await viewer.prompt("Hi")
    check_runs(events)
    found = [(span.name, (span.attributes or {})["error.type"]) for span in spans.all]
    assert [(f"chat {provider.model.id}", "aborted"), ("invoke_agent", "aborted")] == found


async def test_an_abort_during_a_tool(spans: Spans) -> None:
    """The last turn, which reports the abort without a request, has no span of a request."""
    started = asyncio.Event()

    @tool(read_only=True)
    async def wait() -> str:
        """Wait."""
        started.set()
        await asyncio.Event().wait()
        return ""

    with ScriptedProvider(Reply(call("wait"))) as provider:
        viewer, events = agent(provider, wait)
        instrument(viewer, tracer_provider=spans.provider)
        running = asyncio.ensure_future(viewer.prompt("Hi"))
        await started.wait()
        viewer.abort()
        await running
    check_runs(events)
    assert [{"invoke_agent": [f"chat {provider.model.id}", "execute_tool wait"]}] == spans.tree(
        attributes=False
    )
    assert "aborted" == (spans.named("invoke_agent")[0].attributes or {})["error.type"]


async def test_a_cancelled_run_ends_its_spans_and_leaves_no_current_span(spans: Spans) -> None:
    """The next run of the same task is no child of the run that was cancelled."""
    with ScriptedProvider(Reply("Once", hang=True), "Hello.") as provider:
        viewer, events = agent(provider)
        instrument(viewer, tracer_provider=spans.provider)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await viewer.prompt("Hi")
        await viewer.prompt("Hi again")
    check_runs(events)
    chat = f"chat {provider.model.id}"
    assert [{"invoke_agent": [chat]}, {"invoke_agent": [chat]}] == spans.tree(attributes=False)
    assert not trace.get_current_span().get_span_context().is_valid


async def test_parallel_tools_are_the_parents_of_their_own_spans(spans: Spans) -> None:
    """What a tool does is below its own call, in tasks and threads, also if calls run at the same time."""
    tracer = trace.get_tracer("test", tracer_provider=spans.provider)
    together = asyncio.Barrier(3)

    @tool(read_only=True)
    async def fetch(name: str) -> str:
        """Fetch something."""

        def in_a_thread() -> None:
            tracer.start_span(f"thread {name}").end()

        await together.wait()
        await asyncio.to_thread(in_a_thread)
        with tracer.start_as_current_span(f"GET {name}"):
            await together.wait()
        return name

    calls = [call("fetch", name=name, call_id="same") for name in "abc"]
    with ScriptedProvider(Reply(*calls), "Done.") as provider:
        viewer, events = agent(provider, fetch, before_tool_call=_slow_hook)
        instrument(viewer, tracer_provider=spans.provider)
        await viewer.prompt("Hi")
    check_runs(events)
    chat = f"chat {provider.model.id}"
    fetched = [{"execute_tool fetch": [f"thread {name}", f"GET {name}"]} for name in "abc"]
    assert [{"invoke_agent": [chat, *fetched, chat]}] == spans.tree(attributes=False)


async def _slow_hook(info: Any) -> None:
    await asyncio.sleep(0)


async def test_a_request_is_the_parent_of_the_spans_of_its_http_client(spans: Spans) -> None:
    """What a provider does is below the request."""
    tracer = trace.get_tracer("test", tracer_provider=spans.provider)

    def answer(context: Any, options: Any) -> str:
        tracer.start_span("POST").end()
        return "Hello."

    with ScriptedProvider(answer) as provider:
        viewer, events = agent(provider)
        instrument(viewer, tracer_provider=spans.provider)
        with tracer.start_as_current_span("mine") as mine:
            await viewer.prompt("Hi")
            assert mine is trace.get_current_span()
    check_runs(events)
    tree = {"mine": [{"invoke_agent": [{f"chat {provider.model.id}": ["POST"]}]}]}
    assert [tree] == spans.tree(attributes=False)


async def test_an_agent_as_a_tool_is_below_its_call(spans: Spans) -> None:
    """The run of an inner agent belongs to the trace of the outer one."""
    with (
        ScriptedProvider("Inner.") as inner_provider,
        ScriptedProvider(Reply(call("ask")), "Outer.") as provider,
    ):
        inner, inner_events = agent(inner_provider)
        instrument(inner, tracer_provider=spans.provider, name="inner")

        @tool
        async def ask() -> str:
            """Ask the other agent."""
            return await inner.prompt_text("Hi")

        viewer, events = agent(provider, ask)
        instrument(viewer, tracer_provider=spans.provider, name="outer")
        await viewer.prompt("Hi")
    check_runs(events)
    check_runs(inner_events)
    chat, inner_chat = f"chat {provider.model.id}", f"chat {inner_provider.model.id}"
    called = {"execute_tool ask": [{"invoke_agent inner": [inner_chat]}]}
    assert [{"invoke_agent outer": [chat, called, chat]}] == spans.tree(attributes=False)


async def test_a_compaction_is_a_request_of_its_own(spans: Spans) -> None:
    """It comes before the request of the turn, and names its reason."""
    with ScriptedProvider("A summary.", "Fine.") as provider:
        viewer, events = agent(provider, compaction=Compaction(context_window=4000))
        viewer.replace_messages(LONG_TALK)
        instrument(viewer, tracer_provider=spans.provider)
        assert "Fine." == await viewer.prompt_text("And now?")
    check_runs(events)
    chat = f"chat {provider.model.id}"
    assert [{"invoke_agent": [chat, chat]}] == spans.tree(attributes=False)
    reasons = [(span.attributes or {}).get("tinyagent.compaction.reason") for span in spans.named(chat)]
    assert ["limit", None] == reasons


async def test_steering_and_a_second_prompt(spans: Spans) -> None:
    """A message to a running agent is part of its run. Each prompt is a run and a trace of its own."""
    with ScriptedProvider(Reply(call("look", at="it")), "Fine.", "Hello.") as provider:
        viewer, events = agent(provider, look)
        instrument(viewer, tracer_provider=spans.provider)
        viewer.steer("Be quick.")
        await viewer.prompt("Look!")
        await viewer.prompt("Hi")
    check_runs(events)
    chat = f"chat {provider.model.id}"
    first = {"invoke_agent": [chat, "execute_tool look", chat]}
    assert [first, {"invoke_agent": [chat]}] == spans.tree(attributes=False)
    assert 2 == len({span.context.trace_id for span in spans.all})


async def test_runs_at_the_same_time_have_their_own_traces(spans: Spans) -> None:
    """Many agents in one event loop do not mix their spans."""

    async def one() -> None:
        with ScriptedProvider(Reply(call("look", at="it")), "Done.") as provider:
            viewer, events = agent(provider, look)
            instrument(viewer, tracer_provider=spans.provider)
            await viewer.prompt("Look!")
        check_runs(events)

    await asyncio.gather(*(one() for _ in range(20)))
    trees = spans.tree(attributes=False)
    chat = spans.all[0].name
    assert [{"invoke_agent": [chat, "execute_tool look", chat]}] * 20 == trees


async def test_the_instrumentation_can_be_ended(spans: Spans) -> None:
    """After that, runs make no spans; a run under way ends its spans as aborted."""
    with ScriptedProvider(Reply("Once", " upon"), "Hello.") as provider:
        viewer, events = agent(provider)
        remove = instrument(viewer, tracer_provider=spans.provider)
        viewer.subscribe(lambda event: remove() if event.type == "message_update" else None)
        await viewer.prompt("Hi")
        await viewer.prompt("Hi again")
    check_runs(events)
    found = [(span.name, (span.attributes or {})["error.type"]) for span in spans.all]
    assert [(f"chat {provider.model.id}", "aborted"), ("invoke_agent", "aborted")] == found


async def test_spans_that_are_not_sampled_cost_no_content() -> None:
    """Messages are not encoded for a span that nobody keeps."""
    with ScriptedProvider(Reply(call("look", at="it")), "Done.") as provider:
        viewer, events = agent(provider, look)
        instrument(
            viewer,
            tracer_provider=TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False),
            capture_content=True,
        )
        assert "Done." == await viewer.prompt_text("Hi")
    check_runs(events)


async def test_the_server_of_a_request(spans: Spans) -> None:
    """A request names the host and the port of its server, without user, path and query."""
    for url, server in (
        ("https://user:secret@api.example.com/v1?key=secret", ("api.example.com", 443)),
        ("http://127.0.0.1:8080/v1", ("127.0.0.1", 8080)),
        ("http://[", (None, None)),
        ("", (None, None)),
    ):
        with ScriptedProvider("Hello.") as provider:
            viewer, events = agent(provider)
            viewer.set_model(OpenAICompatModel(id="m", base_url=url))
            instrument(viewer, tracer_provider=spans.provider)
            await viewer.prompt("Hi")
        check_runs(events)
        found = spans.named("chat m")[-1].attributes or {}
        assert server == (found.get("server.address"), found.get("server.port"))
        assert "secret" not in "".join(span.to_json() for span in spans.all)


async def test_a_compaction_outside_of_a_run(spans: Spans) -> None:
    """It is a trace of its own, and has no text of the conversation."""
    with ScriptedProvider(f"A summary. {CANARY}") as provider:
        viewer, events = agent(provider)
        viewer.replace_messages(LONG_TALK)
        instrument(viewer, tracer_provider=spans.provider)
        await viewer.compact()
    assert ["compaction_start", "compaction_end"] == [event.type for event in events]
    [span] = spans.all
    assert ("request", f"chat {provider.model.id}") == (
        (span.attributes or {})["tinyagent.compaction.reason"],
        span.name,
    )
    assert CANARY not in span.to_json()
    assert not trace.get_current_span().get_span_context().is_valid


async def test_metrics_of_requests() -> None:
    """Durations and tokens are histograms of the conventions, with few attributes."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    with ScriptedProvider(Reply("Hello.", usage=USAGE), RateLimitError("Slow down.", status=429)) as scripted:
        viewer, events = agent(scripted)
        instrument(viewer, meter_provider=provider, conversation_id="conv-1")
        await viewer.prompt("Hi")
        await viewer.prompt("Hi again")
    check_runs(events)
    data = reader.get_metrics_data()
    assert data is not None
    [resource] = data.resource_metrics
    [scope] = resource.scope_metrics
    found = {
        (metric.name, metric.unit, *sorted((point.attributes or {}).items())): (point.count, point.sum)  # type: ignore[union-attr]
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    about = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": scripted.model.provider,
        "gen_ai.request.model": scripted.model.id,
    }
    duration, tokens = ("gen_ai.client.operation.duration", "s"), ("gen_ai.client.token.usage", "{token}")
    expected = {
        (*duration, *sorted(about.items())),
        (*duration, *sorted({**about, "error.type": "rate_limit"}.items())),
        (*tokens, *sorted({**about, "gen_ai.token.type": "input"}.items())),
        (*tokens, *sorted({**about, "gen_ai.token.type": "output"}.items())),
    }
    assert expected == set(found)
    assert [1, 1] == [count for key, (count, _) in found.items() if key[0] == duration[0]]
    assert {12, 3} == {total for key, (_, total) in found.items() if key[0] == tokens[0]}
