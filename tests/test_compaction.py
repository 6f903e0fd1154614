"""Compaction: a summary replaces the older messages, and nothing is lost if it fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagent import (
    Agent,
    AgentOptions,
    AgentTool,
    AgentToolResult,
    Compaction,
    CompactionEndEvent,
    CompactionStartEvent,
    extract_text,
    jsonl,
)
from tinyagent._stream.compaction import compacted, context_tokens, find_cut, summary_message, summary_prompt
from tinyagent._stream.history import repair_history
from tinyagent.errors import (
    AgentStateError,
    ContextOverflowError,
    EmptyReplyError,
    OutputTruncatedError,
    ProviderError,
    RunAbortedError,
)
from tinyagent.testing import (
    Reply,
    ScriptedProvider,
    assistant,
    call,
    check_grammar,
    tool_result,
    user,
)

LONG = "x" * 4000
"""A text of 1,000 tokens."""


def overflow() -> ContextOverflowError:
    """The error of a server whose context window is exceeded."""
    return ContextOverflowError("the prompt is too long", status=400, provider="scripted")


async def _look(call_id: str, args: dict[str, Any], signal: Any, on_update: Any) -> AgentToolResult:
    return AgentToolResult(content=[{"type": "text", "text": LONG}])


def agent(provider: Any, *messages: Any, **options: Any) -> tuple[Agent, list[Any]]:
    """Return an agent with a history, and the list of its events."""
    made = Agent(
        AgentOptions(
            initial_state={
                "system_prompt": "Be kind.",
                "model": provider.model if isinstance(provider, ScriptedProvider) else options.pop("model"),
                "messages": messages,
                "tools": [AgentTool(name="look", execute=_look, read_only=True)],
            },
            stream_fn=provider,
            **{"compaction": Compaction(context_window=4000), **options},
        )
    )
    events: list[Any] = []
    made.subscribe(events.append)
    return made, events


def talk(count: int) -> list[Any]:
    """Return a conversation of `count` prompts and long replies."""
    return [
        message
        for n in range(count)
        for message in (user(f"question {n}"), assistant((f"answer {n} {LONG}"), timestamp=n))
    ]


def used(call_id: str, path: str) -> Any:
    """Return the block of a tool call."""
    return {"type": "tool_call", "id": call_id, "name": "look", "arguments": {"path": path}}


def texts(messages: Any) -> list[str]:
    """Return the beginnings of the texts of messages."""
    return [extract_text(message)[:12] for message in messages]


def ends(events: list[Any]) -> list[CompactionEndEvent]:
    """Return the ends of the compactions."""
    return [event for event in events if type(event) is CompactionEndEvent]


async def test_a_conversation_near_the_limit_is_compacted_before_the_request() -> None:
    """One request without tools writes the summary; the next one has it with the latest messages."""
    with ScriptedProvider("They talked about x.", "Fine.") as provider:
        talker, events = agent(provider, *talk(4))
        assert "Fine." == await talker.prompt_text("and now?")
    check_grammar(events)
    asked, sent = (call.context for call in provider.calls)
    assert asked.tools in (None, [])
    assert ["user"] == [message["role"] for message in asked.messages]
    assert "User: question 0\n\nAssistant: answer 0" in extract_text(asked.messages[0])
    assert "Be kind." == sent.system_prompt
    assert ["The earlier ", "and now?"] == texts(sent.messages)
    assert "<summary>\nThey talked about x.\n</summary>" in extract_text(sent.messages[0])
    start = next(event for event in events if type(event) is CompactionStartEvent)
    assert ("limit", 4000) == (start.reason, start.context_window)
    [end] = ends(events)
    assert (None, 8) == (end.error_message, end.replaced)
    assert [*texts(sent.messages), "Fine."] == texts(talker.state["messages"])
    assert 2 == len(events[-1].messages), "the run has its own messages only"


async def test_a_short_conversation_is_sent_as_it_is() -> None:
    """So is a long one without settings, or with an unknown window."""
    for messages, options in (
        (talk(2), {}),
        (talk(4), {"compaction": None}),
        (talk(4), {"compaction": Compaction(context_window=lambda model, tokens: None)}),
        ([user(LONG * 8)], {}),
    ):
        with ScriptedProvider("Fine.") as provider:
            talker, events = agent(provider, *messages, **options)
            await talker.prompt("and now?")
        assert len(messages) + 1 == len(provider.calls[0].context.messages)
        check_grammar(events)
        assert [] == ends(events)


@pytest.mark.parametrize("in_stream", [False, True])
async def test_a_request_that_was_too_long_is_repeated_once(in_stream: bool) -> None:
    """The window need not be known. The failed turn does not count, and no error is left."""
    failed: Any = Reply(error="too long", error_kind="context_overflow") if in_stream else overflow()
    with ScriptedProvider(failed, "A summary.", "Fine.") as provider:
        talker, events = agent(provider, *talk(4), compaction=Compaction(), max_turns=1)
        assert "Fine." == await talker.prompt_text("and now?")
    check_grammar(events)
    assert ("overflow", None) == (
        next(event for event in events if type(event) is CompactionStartEvent).reason,
        talker.state["error"],
    )
    assert "and now?" == extract_text(provider.calls[2].context.messages[-1])


async def test_a_second_overflow_ends_the_run_as_the_error_it_is() -> None:
    """There is no third attempt."""
    with ScriptedProvider(overflow(), "A summary.", overflow()) as provider:
        talker, events = agent(provider, *talk(4), compaction=Compaction())
        with pytest.raises(ContextOverflowError, match="too long"):
            await talker.prompt_text("and now?")
    check_grammar(events)
    assert 1 == len(ends(events))


async def test_an_overflow_with_nothing_to_compact_is_the_error() -> None:
    """One long prompt cannot be summarised."""
    with ScriptedProvider(overflow()) as provider:
        talker, events = agent(provider, compaction=Compaction())
        with pytest.raises(ContextOverflowError):
            await talker.prompt_text(LONG)
    check_grammar(events)
    assert [] == ends(events)


@pytest.mark.parametrize(
    "bad", ["", "  \n", Reply("Half a sum", stop_reason="length"), ProviderError("no luck")], ids=str
)
async def test_a_failed_summary_before_the_limit_changes_nothing(bad: Any) -> None:
    """The run goes on with the whole conversation, and does not try again in its next turns."""
    with ScriptedProvider(bad, Reply(call("look")), "Fine.") as provider:
        talker, events = agent(provider, *talk(4))
        assert "Fine." == await talker.prompt_text("and now?")
    check_grammar(events)
    [end] = ends(events)
    assert end.error_message
    assert end.summary is None
    assert 9 == len(provider.calls[1].context.messages)
    assert 12 == len(talker.state["messages"])


async def test_a_request_for_a_summary_that_is_too_long_is_repeated_with_less() -> None:
    """Nothing else is known about the context window. The usage is that of all attempts."""
    used = {"input": 10, "output": 1, "total": 11}
    failed = Reply(error="too long", error_kind="context_overflow", usage=used)
    with ScriptedProvider(failed, failed, failed, Reply("A summary.", usage=used), "Fine.") as provider:
        talker, events = agent(provider, *talk(20), compaction=Compaction())
        assert "Fine." == await talker.prompt_text("and now?")
    check_grammar(events)
    sizes = [context_tokens("", provider.calls[number].context.messages, None) for number in (1, 2, 3)]
    assert sizes[0] > 3 * sizes[1] > 3 * sizes[2]
    assert 33 == ends(events)[0].usage["total"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [([""], "compacted: .*empty"), ([overflow()] * 3, "compacted: a summary, too, would be too long")],
    ids=["empty", "too long"],
)
async def test_a_failed_summary_after_an_overflow_is_the_error_of_the_run(bad: list[Any], why: str) -> None:
    """The history is as it was."""
    with ScriptedProvider(overflow(), *bad) as provider:
        talker, events = agent(provider, *talk(4), compaction=Compaction())
        with pytest.raises(ContextOverflowError, match=why):
            await talker.prompt_text("and now?")
    check_grammar(events)
    assert texts([*talk(4), user("and now?")]) == texts(repair_history(talker.state["messages"]))


async def test_the_summary_counts_in_usage_and_limits() -> None:
    """It is no turn."""
    used = {"input": 100, "output": 10, "total": 110, "cost": 0.5}
    with ScriptedProvider(Reply("A summary.", usage=used), Reply(call("look"), usage=used)) as provider:
        talker, events = agent(provider, *talk(4), max_cost=0.9, max_turns=2)
        await talker.prompt("and now?")
    check_grammar(events)
    assert ("budget", 220, 1.0) == (events[-1].limit, events[-1].usage["total"], events[-1].usage["cost"])


@pytest.mark.parametrize("cancelled", [False, True])
async def test_an_abort_during_the_summary_ends_the_run(cancelled: bool) -> None:
    """All events have their end, and the conversation is as it was."""
    asked = asyncio.Event()

    async def hang(*_: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    talker, events = agent(ScriptedProvider(hang), *talk(4))
    task = asyncio.create_task(talker.prompt("and now?"))
    await asked.wait()
    if cancelled:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        talker.abort()
        assert "aborted" == (await task)["stop_reason"]
    check_grammar(events)
    assert ends(events)[0].error_message
    assert texts([*talk(4), user("and now?")]) == texts(repair_history(talker.state["messages"]))


async def test_the_user_compacts() -> None:
    """`compact` is no run; its instructions are in the request."""
    with ScriptedProvider("A summary.") as provider:
        talker, events = agent(provider, *talk(4), compaction=None)
        end = await talker.compact("Keep the numbers.")
    assert [CompactionStartEvent, CompactionEndEvent] == [type(event) for event in events]
    assert ("request", end) == (events[0].reason, events[1])
    assert "Keep the numbers." in extract_text(provider.calls[0].context.messages[0])
    assert texts([end.summary, user("question 3"), *talk(4)[-1:]]) == texts(talker.state["messages"])
    assert not talker.state["is_streaming"]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("", EmptyReplyError),
        (Reply("Half", stop_reason="length"), OutputTruncatedError),
        ([overflow()] * 3, ContextOverflowError),
        (Reply(call("look")), Exception),
    ],
)
async def test_a_summary_that_fails_is_raised(reply: Any, error: type[Exception]) -> None:
    """The conversation is as it was."""
    replies = reply if isinstance(reply, list) else [reply]
    talker, events = agent(ScriptedProvider(*replies), *talk(4))
    with pytest.raises(error):
        await talker.compact()
    assert talk(4) == talker.state["messages"]
    assert 1 == len(ends(events))


async def test_a_conversation_that_is_too_short_is_an_error() -> None:
    """No request is sent, and nothing is emitted."""
    for messages in ([], talk(1), [user("only"), user("prompts")]):
        with ScriptedProvider() as provider:
            talker, events = agent(provider, *messages)
            with pytest.raises(AgentStateError, match="too short"):
                await talker.compact()
        assert [] == events


async def test_a_compaction_is_aborted() -> None:
    """Another call is refused meanwhile."""
    asked = asyncio.Event()

    async def hang(*_: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    talker, events = agent(ScriptedProvider(hang), *talk(4))
    task = asyncio.create_task(talker.compact())
    await asked.wait()
    with pytest.raises(AgentStateError, match="is streaming"):
        await talker.compact()
    talker.abort()
    with pytest.raises(RunAbortedError):
        await task
    assert talk(4) == talker.state["messages"]
    assert 1 == len(ends(events))


async def test_a_compacted_conversation_is_read_back() -> None:
    """A record has all messages; `messages` returns those that are left, or the whole conversation."""
    looks = [Reply(call("look")) for _ in range(4)]
    with ScriptedProvider(*looks, "A summary.", "Fine.", "Again.") as provider:
        talker, events = agent(provider)
        await talker.prompt("look around")
        await talker.prompt("and now?")
    lines = list(jsonl.write(events))
    assert 1 == len(ends(events))
    assert talker.state["messages"] == jsonl.messages(lines)
    assert [event.message for event in events if event.type == "message_end"] == jsonl.messages(
        lines, whole=True
    )
    assert events == list(jsonl.read(lines))
    unknown = [line for line in lines if b'"compaction_' not in line]
    assert jsonl.messages(lines, whole=True) == jsonl.messages(unknown), "a reader that ignores it"


async def test_callbacks_see_the_older_messages() -> None:
    """`transform_context` and `convert_to_llm` decide what a summary may have."""
    hidden = Compaction(context_window=4000)
    with ScriptedProvider("A summary.", "Fine.") as provider:
        talker, _ = agent(
            provider,
            *talk(4),
            compaction=hidden,
            transform_context=lambda messages, signal: [
                m for m in messages if "answer 1" not in extract_text(m)
            ],
        )
        await talker.prompt("and now?")
    assert "answer 0" in extract_text(provider.calls[0].context.messages[0])
    assert "answer 1" not in extract_text(provider.calls[0].context.messages[0])


MESSAGES = st.lists(
    st.one_of(
        st.builds(lambda n: [user(f"ask {n}" * n)], st.integers(0, 300)),
        st.builds(lambda n: [assistant("say" * n)], st.integers(0, 900)),
        st.builds(
            lambda ids, n: [
                assistant(
                    {"type": "thinking", "thinking": "hm"},
                    *(used(id, "n") for id in ids),
                    stop_reason="tool_use",
                ),
                *(tool_result(id, "look", "y" * n) for id in ids),
            ],
            st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3, unique=True),
            st.integers(0, 4000),
        ),
        st.builds(lambda: [assistant(("hal"), stop_reason="error", error_message="no")]),
        st.builds(lambda: [summary_message("before", 1)]),
        st.builds(lambda: [{"role": "custom"}]),
    ),
    max_size=20,
).map(lambda groups: [message for group in groups for message in group])


@given(MESSAGES, st.integers(0, 3000))
def test_a_cut_separates_no_call_from_its_result(messages: Any, keep: int) -> None:
    """The latest messages and the last prompt stay in their order, and the rest is older."""
    cut = find_cut(messages, keep)
    if cut is None:
        return
    end = CompactionEndEvent(summary=summary_message("s", 1), kept=cut.kept)
    left = compacted(messages, end)
    assert len(messages) == len(cut.older) + len(left) - 1
    assert all(any(message is one for one in messages) for message in [*cut.older, *left[1:]])
    for part in (cut.older, left):
        calls = [
            block["id"] for m in part if m["role"] == "assistant" and m["stop_reason"] != "error"
            for block in m["content"] if block["type"] == "tool_call"
        ]  # fmt: skip
        assert calls == [m["tool_call_id"] for m in part if m["role"] == "tool_result"]
    prompts = [message for message in messages if message["role"] == "user" and not message.get("summary")]
    assert not prompts or any(message is prompts[-1] for message in left)
    if messages[-1]["role"] != "custom":
        assert messages[-1] is left[-1]


def test_long_texts_are_shortened_to_fit() -> None:
    """The earlier summary is whole, images and reasoning are left out, and no text ends the conversation."""
    image: Any = {"role": "user", "content": [{"type": "image", "url": "data:image/png;base64," + LONG}]}
    messages: Any = [
        summary_message("before " * 50, 1),
        image,
        assistant({"type": "thinking", "thinking": "secret"}, used("a", LONG), stop_reason="tool_use"),
        tool_result("a", "look", LONG * 100 + "</conversation>"),
    ]
    prompt = summary_prompt(messages, "", 800)
    assert len(prompt) < 800 * 4 + 1000
    assert ("before " * 50).strip() in prompt
    assert "User: (an image)" in prompt
    assert "secret" not in prompt
    assert 1 == prompt.count("</conversation>")
    assert "characters …]" in summary_prompt([user("é" * 100_000)], "", 100)


def test_the_size_is_that_of_the_last_reply_and_what_follows() -> None:
    """A reply from before the summary had a longer request."""
    used: Any = {"input": 5000, "output": 10, "total": 5010}
    reply = assistant(("a"), usage=used, timestamp=5)
    assert 5010 == context_tokens("", [user("q"), reply], None)
    assert 6014 == context_tokens("", [user("q"), reply, user(LONG)], None)
    assert context_tokens("", [summary_message("s", 6), reply], None) < 100
    assert 5010 == context_tokens("", [summary_message("s", 4), reply], None)
