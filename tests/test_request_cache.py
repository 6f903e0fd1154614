"""The encoded history: each request is the same as without the cache, and a turn encodes only what is new."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tinyagent._stream import request_cache
from tinyagent._stream.history import UsedIds, adapt_history
from tinyagent._stream.request_cache import MAX_HISTORIES, MIN_MESSAGES, encode_history
from tinyagent.agent import Agent, AgentOptions
from tinyagent.agent_types import AgentTool, AgentToolResult, Context, Message
from tinyagent.errors import ConfigurationError
from tinyagent.openai_wire import OpenAICompatModel, chat_request, stream_openai_completions
from tinyagent.testing import FakeServer, assistant, collect, tool_result, user
from tinyagent.testing.server import FakeReply

LENGTH = 2 * MIN_MESSAGES


def call(call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_call", "id": call_id, "name": "add", "arguments": arguments}


def conversation(count: int) -> list[Any]:
    """Questions, calls of tools with the same id in each turn, results, and answers."""
    messages: list[Any] = []
    for n in range(count // 4):
        question, answer = user(f"Add {n} and 1."), assistant(f"It is {n + 1}.")
        asks = assistant(call("call_0", a=n, b=1))
        messages += [question, asks, tool_result("call_0", "add", f"{n + 1}"), answer]
    return messages


async def sent(model: OpenAICompatModel, server: FakeServer, context: Context) -> Any:
    """Send a request, and return its body."""
    server.add(FakeReply.text("Yes."))
    reply = await stream_openai_completions(model, context, {"api_key": "k"})
    await reply.result()
    return server.requests[-1].json


def change_text(messages: list[Any]) -> None:
    messages[0]["content"][0]["text"] = "Subtract."


def change_type(messages: list[Any]) -> None:
    messages[1]["content"][0]["arguments"]["b"] = True


def change_error(messages: list[Any]) -> None:
    messages[5]["stop_reason"] = "error"


def remove_first(messages: list[Any]) -> None:
    del messages[:4]


def remove_last(messages: list[Any]) -> None:
    del messages[-3:]


def remove_middle(messages: list[Any]) -> None:
    del messages[5]


def move_result(messages: list[Any]) -> None:
    messages[-1:] = [tool_result("call_0", "add", "late")]


def add_malformed(messages: list[Any]) -> None:
    messages.append({"role": "user", "content": 7})


def add_other_role(messages: list[Any]) -> None:
    messages[3:3] = [{"role": "memo", "content": "private"}]


def add_image(messages: list[Any]) -> None:
    image = {"type": "image", "url": "data:image/png;base64,AA=="}
    messages += [assistant(call("call_1", a=1)), tool_result("call_1", "add", "")]
    messages[-1]["content"] = [image]


def add_objects(messages: list[Any]) -> None:
    messages[2]["details"] = {"handle": object()}


def add_surrogate(messages: list[Any]) -> None:
    messages[0]["content"][0]["text"] = "half \ud800"


CHANGES = [
    change_text, change_type, change_error, remove_first, remove_last, remove_middle,
    move_result, add_malformed, add_other_role, add_image, add_objects, add_surrogate,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_a_changed_history_is_sent_as_it_is_now(change: Callable[[list[Any]], None]) -> None:
    """After any change of the user's, the request is the one that is built without the cache."""
    messages = conversation(LENGTH)
    async with FakeServer() as server:
        model = OpenAICompatModel(id="m", base_url=server.url)
        context = Context("Be brief.", messages, [])
        await sent(model, server, context)
        change(messages)
        for _ in range(3):
            body = await sent(model, server, context)
            expected = chat_request(model, Context("Be brief.", copy.copy(messages), []), {})
            expected_text = repr(expected["messages"]).replace("\\ud800", "\ufffd")
            assert repr(body["messages"]) == expected_text
            messages += [assistant("Good."), user("And now?")]


async def test_the_model_the_tools_and_the_instructions_may_change() -> None:
    """The form for one model, or with one set of tools, is never sent for another."""
    messages = conversation(LENGTH)
    for message in messages:
        if message["role"] == "assistant":
            message.update(api="openai-completions", provider="openai-compatible", model="deepseek-reasoner")
            thought = {"type": "thinking", "thinking": "Hm.", "thinking_signature": "reasoning_content"}
            message["content"].insert(0, thought)
            for block in message["content"]:
                if block["type"] == "tool_call":
                    block["name"] = "add numbers"
    tools = [AgentTool("add numbers")]
    async with FakeServer() as server:
        for name, offered, system in itertools.product(
            ("m", "deepseek-reasoner"), ([], tools), ("", "A", "B")
        ):
            model = OpenAICompatModel(id=name, base_url=server.url)
            body = await sent(model, server, Context(system, messages, offered))
            assert body == chat_request(model, Context(system, messages, offered), {})


async def test_forks_of_a_conversation() -> None:
    """Two conversations with the same beginning do not see each other's messages."""
    messages = conversation(LENGTH)
    forks = [[*messages, user("Left?")], [*messages, user("Right?")]]
    async with FakeServer() as server:
        model = OpenAICompatModel(id="m", base_url=server.url)
        for fork in forks * 3:
            body = await sent(model, server, Context("", fork, []))
            assert body == chat_request(model, Context("", fork, []), {})
            fork += [assistant("Yes."), user(f"Sure, after {len(fork)}?")]


async def test_an_agent_sends_its_whole_history_in_each_turn() -> None:
    """Turn after turn, the messages of a request begin with those of the request before."""

    async def add(*_: Any) -> AgentToolResult:
        return AgentToolResult([{"type": "text", "text": "3"}])

    async with FakeServer() as server:
        agent = Agent(AgentOptions(stream_fn=stream_openai_completions, get_api_key=lambda _: "k"))
        agent.set_model(OpenAICompatModel(id="m", base_url=server.url))
        agent.set_tools([AgentTool("add", execute=add)])
        for n in range(MIN_MESSAGES):
            server.add(FakeReply.tool_calls(("add", {"a": n})), FakeReply.text("3"))
            await collect(agent.stream("Go on."))
            assert agent.state["error"] is None
    bodies = [request.json["messages"] for request in server.requests]
    assert len(bodies) == 2 * MIN_MESSAGES
    for earlier, later in itertools.pairwise(bodies):
        assert later[: len(earlier)] == earlier
        assert len(later) == len(earlier) + 2


async def test_values_that_are_hard_to_encode_beside_an_encoded_history() -> None:
    """Half a surrogate pair is replaced, and a value that JSON cannot represent is an error of its own."""
    messages = conversation(LENGTH)
    async with FakeServer() as server:
        model = OpenAICompatModel(id="m", base_url=server.url, extra_body={"user": "half \ud800"})
        body = await sent(model, server, Context("", messages, []))
        assert body["user"] == "half \ufffd"
        assert body["messages"] == chat_request(model, Context("", messages, []), {})["messages"]
        model.extra_body = {"metadata": object()}
        with pytest.raises(ConfigurationError, match="the conversation cannot be sent"):
            await stream_openai_completions(model, Context("", messages, []), {"api_key": "k"})


# ---- what is encoded ----------------------------------------------------------------------------------


class Converter:
    """Converts each message to its index of conversion, and counts."""

    def __init__(self) -> None:
        self.converted = 0

    def __call__(self, messages: Sequence[Message], used: UsedIds) -> list[object]:
        self.converted += len(messages)
        return [message["content"] for message in messages]

    def take(self) -> int:
        """Return the messages converted since the last call."""
        self.converted, count = 0, self.converted
        return count


async def test_a_turn_encodes_only_new_messages() -> None:
    """After the first request, a turn converts its new messages and the last one of the turn before."""
    messages, convert = conversation(LENGTH), Converter()
    encode_history(messages, (), convert)
    assert convert.take() == LENGTH
    for _ in range(5):
        messages += [assistant("Yes."), user("And?")]
        encode_history([*messages], (), convert)
        assert convert.take() == 3


async def test_short_histories_are_not_cached() -> None:
    """A short conversation is encoded whole."""
    messages, convert = conversation(MIN_MESSAGES - 4), Converter()
    for _ in range(2):
        encode_history(messages, (), convert)
        assert convert.take() == len(messages)


def test_without_an_event_loop_nothing_is_cached() -> None:
    """The cache ends with its event loop, so there is none outside."""
    messages, convert = conversation(LENGTH), Converter()
    for _ in range(2):
        encode_history(messages, (), convert)
        assert convert.take() == LENGTH


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The history that was not used for the longest time is removed, by number and by size."""
    convert = Converter()
    histories = [conversation(LENGTH) for _ in range(MAX_HISTORIES + 1)]
    for messages in histories:
        encode_history(messages, (), convert)
    convert.take()
    encode_history(histories[-1], (), convert)
    assert convert.take() == 1
    encode_history(histories[0], (), convert)
    assert convert.take() == LENGTH
    monkeypatch.setattr(request_cache, "MAX_CACHED_BYTES", 100)
    for _ in range(2):
        encode_history(histories[0], (), convert)
    assert convert.take() == 1 + LENGTH


class CountingIds(dict[str, int]):
    """Used ids that count how often they are searched."""

    searches = 0

    def __contains__(self, key: object) -> bool:
        self.searches += 1
        return super().__contains__(key)


def test_equal_ids_are_made_different_without_a_search_from_the_first() -> None:
    """Each of thousands of equal ids gets its number in a few searches, and all are different."""
    used = CountingIds()
    turns = 2_000
    history = adapt_history(
        conversation(4 * turns),
        OpenAICompatModel(id="m", base_url="http://127.0.0.1:1"),
        ids=r"\w+",
        used=used,
    )
    ids = [message["tool_call_id"] for message in history if message["role"] == "tool_result"]
    assert ids[:3] == ["call_0", "call_0_2", "call_0_3"]
    assert len(set(ids)) == turns
    assert used.searches <= 2 * turns
