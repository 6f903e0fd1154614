"""Long conversations. Checked by mypy and pyright, and never run."""

from collections.abc import Sequence
from typing import Literal, assert_type

from tinyagent import (
    Agent,
    AgentEvent,
    AgentMessage,
    AgentOptions,
    Compaction,
    CompactionEndEvent,
    CompactionStartEvent,
    OpenAICompatModel,
    UserMessage,
    jsonl,
    stream_openai_completions,
)
from tinyagent.agent_types import ModelIdentity, Usage
from tinyagent.errors import TinyAgentError

WINDOWS = {"qwen3:8b": 40_960}


def window(model: ModelIdentity, tokens: int) -> int | None:
    """The context window may depend on the model."""
    return WINDOWS.get(model.id)


def settings() -> Sequence[AgentOptions]:
    """Every setting has a default."""
    model = OpenAICompatModel(id="qwen3:8b", base_url="http://127.0.0.1:11434/v1")
    return [
        AgentOptions(
            initial_state={"model": model}, stream_fn=stream_openai_completions, compaction=compaction
        )
        for compaction in (
            None,
            Compaction(),
            Compaction(context_window=8192, limit=0.7, keep=0.1, instructions="Keep all file names."),
            Compaction(context_window=window),
            Compaction(context_window=lambda model, tokens: WINDOWS.get(model.id)),
        )
    ]


async def compact(agent: Agent) -> None:
    """The result has the summary, and what it has cost."""
    try:
        end = await agent.compact("Keep the numbers.")
    except TinyAgentError as error:
        print("The conversation is as it was:", error)
        return
    assert_type(end, CompactionEndEvent)
    assert_type(end.summary, UserMessage | None)
    assert_type(end.usage, Usage | None)
    assert_type(end.replaced + end.tokens, int)


def listen(agent: Agent) -> None:
    """The events are told apart by their class, or by `type`."""

    def show(event: AgentEvent) -> None:
        match event:
            case CompactionStartEvent(reason=reason, tokens=tokens, context_window=known):
                assert_type(reason, Literal["limit", "overflow", "request"])
                assert_type(tokens, int)
                assert_type(known, int | None)
            case CompactionEndEvent(kept=kept, error_message=why):
                assert_type(kept, list[int])
                assert_type(why, str | None)
            case _:
                pass

    agent.subscribe(show)


def whole_conversation(agent: Agent, record: bytes) -> None:
    """A record has the messages that the agent no longer has, and tells them from a summary."""
    assert_type(jsonl.messages(record, whole=True), list[AgentMessage])
    for message in agent.state["messages"]:
        if message["role"] == "user" and message.get("summary"):
            print(message["content"])
