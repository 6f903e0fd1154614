"""`replay:FILE` answers like the recorded run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tinyagent import jsonl
from tinyagent.agent import Agent, AgentOptions
from tinyagent.agent_types import AgentTool, AgentToolResult, MessageUpdateEvent
from tinyagent.errors import ConfigurationError, RecordError
from tinyagent.replay_provider import replay_provider
from tinyagent.testing import Reply, ScriptedProvider, call, check_grammar, collect, thinking


async def _double(call_id: str, args: dict[str, Any], signal: Any, on_update: Any) -> AgentToolResult:
    return AgentToolResult(content=[{"type": "text", "text": str(2 * args["n"])}])


DOUBLE = AgentTool(name="double", execute=_double, read_only=True)


async def run(stream_fn: Any, model: Any, prompts: tuple[str, ...] = ("hi",)) -> list[Any]:
    agent = Agent(AgentOptions(initial_state={"model": model, "tools": [DOUBLE]}, stream_fn=stream_fn))
    events = []
    for prompt in prompts:
        part = await collect(agent.stream(prompt))
        check_grammar(part)
        events += part
    return events


async def record(
    path: Path, *steps: Any, deltas: bool = True, prompts: tuple[str, ...] = ("hi",)
) -> list[Any]:
    async with ScriptedProvider(*steps) as provider:
        events = await run(provider, provider.model, prompts)
    path.write_bytes(b"".join(jsonl.write(events, deltas=deltas)))
    return events


async def replay(path: Path, prompts: tuple[str, ...] = ("hi",)) -> list[Any]:
    provider = replay_provider(path)
    return await run(provider.stream_fn, provider.make_model(str(path), {}), prompts)


def steps_of(events: list[Any]) -> list[Any]:
    return [event.assistant_message_event for event in events if isinstance(event, MessageUpdateEvent)]


def messages_of(events: list[Any]) -> list[Any]:
    ended = [message for event in events if event.type == "agent_end" for message in event.messages]
    return [{**message, "timestamp": 0} for message in ended]


STEPS = (
    Reply(
        thinking("h", "m", signature="s"),
        "I will double",
        call("double", '{"n"', ": 1}"),
        call("double", n=2),
    ),
    Reply(call("double", "{broken")),
    Reply("All in all: 2 and 4", usage={"input": 3, "output": 4}, finish_reason="eos"),
)


async def test_a_recorded_run_is_answered_again(tmp_path: Path) -> None:
    """The deltas, tool calls, signatures, usage and end are those of the recording."""
    file = tmp_path / "run.jsonl"
    recorded = await record(file, *STEPS)
    replayed = await replay(file)
    assert steps_of(recorded) == steps_of(replayed)
    assert messages_of(recorded) == messages_of(replayed)


async def test_a_session_file_is_replayed_block_by_block(tmp_path: Path) -> None:
    """Without recorded deltas the messages are the same, with one delta for each block."""
    file = tmp_path / "session.jsonl"
    recorded = await record(file, *STEPS, deltas=False)
    replayed = await replay(file)
    assert messages_of(recorded) == messages_of(replayed)
    deltas = [step["delta"] for step in steps_of(replayed) if step["type"].endswith("_delta")]
    assert ["hm", "I will double", '{"n":1}', '{"n":2}', "{broken", "All in all: 2 and 4"] == deltas


@pytest.mark.parametrize("deltas", [True, False])
async def test_a_failure_is_replayed_as_a_failure(tmp_path: Path, deltas: bool) -> None:
    """A failed reply fails again, with its partial text and its error."""
    file = tmp_path / "run.jsonl"
    step = Reply("Half an ans", error="the line broke", error_kind="stream_interrupted")
    recorded = await record(file, step, deltas=deltas)
    replayed = await replay(file)
    assert messages_of(recorded) == messages_of(replayed)
    assert "error" == messages_of(replayed)[-1]["stop_reason"]
    assert "the line broke" == messages_of(replayed)[-1]["error_message"]


async def test_more_calls_than_recorded_are_an_error(tmp_path: Path) -> None:
    """The error states the number of replies and the number of this call."""
    file = tmp_path / "run.jsonl"
    await record(file, "one", "two", prompts=("a", "b"))
    last = messages_of(await replay(file, ("a", "b", "c")))[-1]
    assert "error" == last["stop_reason"]
    assert "2 recorded replies, and this is model call 3" in last["error_message"]


async def test_replies_of_several_streams_follow_each_other(tmp_path: Path) -> None:
    """The replies of several runs in one file are one script."""
    file, one, two = tmp_path / "run.jsonl", tmp_path / "1", tmp_path / "2"
    await record(one, "one")
    await record(two, "two")
    file.write_bytes(one.read_bytes() + two.read_bytes())
    answers = [message["content"][0]["text"] for message in messages_of(await replay(file, ("a", "b")))]
    assert ["a", "one", "b", "two"] == answers


def test_a_file_that_cannot_be_replayed_is_an_error(tmp_path: Path) -> None:
    """A file that is missing, not a recording or without a reply is an error when the model is made."""
    other, empty = tmp_path / "notes.txt", tmp_path / "empty.jsonl"
    other.write_text("Dear diary\n")
    empty.write_text("")
    for path, error, says in (
        (tmp_path / "none.jsonl", ConfigurationError, "Cannot read the replay .*: No such file"),
        (tmp_path, ConfigurationError, "Is a directory"),
        (other, RecordError, r"the replay .*notes\.txt: line 1 is not JSON"),
        (empty, ConfigurationError, "contains no reply"),
    ):
        with pytest.raises(error, match=says):
            replay_provider(path).make_model(str(path), {})


async def test_an_image_is_replayed(tmp_path: Path) -> None:
    """An image of a session file, which has no events, is in the replayed message."""
    content: Any = [{"type": "text", "text": "Here"}, {"type": "image", "url": "data:image/png;base64,AAAA"}]
    file = tmp_path / "session.jsonl"
    recorded = await record(file, Reply("Here", content=content), deltas=False)
    assert ["text", "image"] == [block["type"] for block in messages_of(recorded)[-1]["content"]]
    assert messages_of(recorded) == messages_of(await replay(file))
