"""The encoded history: each request is the same as without the cache, and a turn encodes only what is new."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyagent import anthropic_provider, responses_provider
from tinyagent._stream import history_cache, request
from tinyagent._stream.history import UsedIds, adapt_history
from tinyagent._stream.history_cache import MAX_HISTORIES, MIN_MESSAGES
from tinyagent._stream.model import HttpModel
from tinyagent._stream.request_cache import RequestCache
from tinyagent.agent import Agent, AgentOptions
from tinyagent.agent_types import AgentTool, AgentToolResult, Context, Message
from tinyagent.anthropic_provider import AnthropicModel, stream_anthropic
from tinyagent.errors import ConfigurationError
from tinyagent.openai_wire import OpenAICompatModel, chat_request, stream_openai_completions
from tinyagent.responses_provider import OpenAIResponsesModel, stream_openai_responses
from tinyagent.testing import FakeServer, assistant, collect, tool_result, user
from tinyagent.testing.server import FakeReply, RecordedRequest

LENGTH = 2 * MIN_MESSAGES


@dataclass(frozen=True)
class Protocol:
    """A protocol: how to send a request, and how to build its body without the cache."""

    name: str
    stream: Callable[..., Any]
    body: Callable[..., dict[str, Any]]
    model: HttpModel
    reply: dict[str, Any]
    messages: str
    """The field of the body with the conversation."""

    def at(self, server: FakeServer, **fields: Any) -> HttpModel:
        return replace(self.model, base_url=server.url, **fields)

    async def send(self, model: HttpModel, server: FakeServer, context: Context, **options: Any) -> Any:
        """Send a request, and return it as the server received it."""
        server.add(FakeReply.json(self.reply))
        reply = await self.stream(model, context, {"api_key": "k", **options})
        assert "stop" == (await reply.result())["stop_reason"]
        return server.requests[-1]


CHAT = Protocol(
    "chat",
    stream_openai_completions,
    chat_request,
    OpenAICompatModel(id="m"),
    {"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]},
    "messages",
)
MESSAGES = Protocol(
    "messages",
    stream_anthropic,
    anthropic_provider.request_body,
    AnthropicModel(),
    {"content": [{"type": "text", "text": "Yes."}], "stop_reason": "end_turn"},
    "messages",
)
RESPONSES = Protocol(
    "responses",
    stream_openai_responses,
    responses_provider.request_body,
    OpenAIResponsesModel(),
    {
        "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "Yes."}]}],
    },
    "input",
)
FABLE = "claude-fable-5-1"
"""A model that checks the binding of thinking."""
each_protocol = pytest.mark.parametrize(
    "protocol", [CHAT, MESSAGES, RESPONSES], ids=lambda protocol: protocol.name
)


def call(call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_call", "id": call_id, "name": "add", "arguments": arguments}


def signed(kind: str, signature: Any) -> dict[str, Any]:
    text = signature if isinstance(signature, str) else json.dumps(signature)
    body = {"thinking": {"thinking": "Hm."}, "text": {"text": "So."}}.get(kind, {})
    return {"type": kind, **body, f"{kind}_signature": text}


def conversation(count: int) -> list[Any]:
    """Questions, calls of tools with the same id in each turn, results, and answers."""
    messages: list[Any] = []
    for n in range(count // 4):
        question, answer = user(f"Add {n} and 1."), assistant(f"It is {n + 1}.")
        asks = assistant(call("call_0", a=n, b=1))
        messages += [question, asks, tool_result("call_0", "add", f"{n + 1}"), answer]
    return messages


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


def replace_last_by_a_number(messages: list[Any]) -> None:
    messages[-1] = 7


def replace_middle_by_an_object(messages: list[Any]) -> None:
    messages[5] = object()


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
    move_result, add_malformed, replace_last_by_a_number, replace_middle_by_an_object, add_other_role,
    add_image, add_objects, add_surrogate,
]  # fmt: skip


@each_protocol
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_a_changed_history_is_sent_as_it_is_now(
    change: Callable[[list[Any]], None], protocol: Protocol
) -> None:
    """After any change of the user's, the request is the one that is built without the cache."""
    messages = conversation(LENGTH)
    async with FakeServer() as server:
        model = protocol.at(server)
        context = Context("Be brief.", messages, [])
        for _ in range(2):  # the second request is cached
            await protocol.send(model, server, context)
        change(messages)
        for _ in range(3):
            request = await protocol.send(model, server, context)
            expected = protocol.body(model, Context("Be brief.", copy.copy(messages), []), {})
            assert repr(expected).replace("\\ud800", "\ufffd") == repr(request.json)
            messages += [assistant("Good."), user("And now?")]


@each_protocol
async def test_the_model_the_tools_and_the_instructions_may_change(protocol: Protocol) -> None:
    """The form for one model, or with one set of tools, is never sent for another."""
    messages = conversation(LENGTH)
    for message in messages:
        if message["role"] == "assistant":
            message.update(
                api=protocol.model.api, provider=protocol.model.provider, model="deepseek-reasoner"
            )
            thought = {"type": "thinking", "thinking": "Hm.", "thinking_signature": "reasoning_content"}
            message["content"].insert(0, thought)
            for block in message["content"]:
                if block["type"] == "tool_call":
                    block["name"] = "add numbers"
    tools = [AgentTool("add numbers")]
    async with FakeServer() as server:
        for name, offered, system in itertools.product(
            ("m", "deepseek-reasoner") * 3, ([], tools), ("", "A", "B")
        ):
            model = protocol.at(server, id=name)
            request = await protocol.send(model, server, Context(system, messages, offered))
            assert protocol.body(model, Context(system, messages, offered), {}) == request.json


@each_protocol
async def test_the_result_of_an_open_call_may_arrive_later(protocol: Protocol) -> None:
    """A call that was sent as one without a result is sent with its result as soon as it has one."""
    messages = [*conversation(LENGTH), assistant(call("late", a=1)), user("Go on.")]
    async with FakeServer() as server:
        model = protocol.at(server)
        for _ in range(2):
            await protocol.send(model, server, Context("", messages, []))
        messages.insert(-1, tool_result("late", "add", "At last."))
        request = await protocol.send(model, server, Context("", messages, []))
        assert protocol.body(model, Context("", messages, []), {}) == request.json
        assert b"At last." in request.body


async def test_the_thinking_of_a_long_turn() -> None:
    """Level and binding of the thinking follow the first reply of the turn, however long ago that was."""
    fields: Any = {"api": "anthropic-messages", "provider": "anthropic", "model": FABLE}
    messages: list[Any] = [user("Add all.")]
    async with FakeServer() as server:
        model = MESSAGES.at(server, id=FABLE)
        for n in range(LENGTH):
            thought, level = ([signed("thinking", "c2lnbmVk")], "low") if n == 0 else ([], "high")
            reply = assistant(*thought, call(f"c{n}", a=n), **fields)
            messages += [{**reply, "thinking_level": level}, tool_result(f"c{n}", "add", "1")]
            request = await MESSAGES.send(model, server, Context("", messages, []), thinking_level="high")
            assert {"effort": "low"} == request.json["output_config"]
            assert "block_binding" in request.json["thinking"]
            check_messages(request.json)


async def test_items_without_content_are_sent_only_if_they_are_stored() -> None:
    """The items for a server that stores replies are not used for one that does not."""
    messages = conversation(LENGTH)
    reply = assistant(signed("thinking", {"type": "reasoning", "id": "rs_1", "summary": []}), "Yes.")
    messages[3] = {**reply, "api": "openai-responses", "provider": "openai", "model": "gpt-5"}
    async with FakeServer() as server:
        for stored in (True, False) * 3:
            model = RESPONSES.at(server, extra_body={"store": stored})
            request = await RESPONSES.send(model, server, Context("", messages, []))
            assert RESPONSES.body(model, Context("", messages, []), {}) == request.json
            assert stored == (b"rs_1" in request.body)


@each_protocol
async def test_forks_of_a_conversation(protocol: Protocol) -> None:
    """Two conversations with the same beginning do not see each other's messages."""
    messages = conversation(LENGTH)
    forks = [[*messages, user("Left?")], [*messages, user("Right?")]]
    async with FakeServer() as server:
        model = protocol.at(server)
        for fork in forks * 3:
            request = await protocol.send(model, server, Context("", fork, []))
            assert protocol.body(model, Context("", fork, []), {}) == request.json
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


@each_protocol
async def test_values_that_are_hard_to_encode_beside_an_encoded_history(protocol: Protocol) -> None:
    """Half a surrogate pair is replaced, and a value that JSON cannot represent is an error of its own."""
    messages = conversation(LENGTH)
    async with FakeServer() as server:
        model = protocol.at(server, extra_body={"user": "half \ud800"})
        for _ in range(3):
            request = await protocol.send(model, server, Context("", messages, []))
        assert "half \ufffd" == request.json["user"]
        expected = protocol.body(model, Context("", messages, []), {})
        assert expected[protocol.messages] == request.json[protocol.messages]
        model.extra_body = {"metadata": object()}
        with pytest.raises(ConfigurationError, match="the conversation cannot be sent"):
            await protocol.stream(model, Context("", messages, []), {"api_key": "k"})


async def test_a_paused_reply_is_continued_after_an_encoded_history() -> None:
    """The request that continues a reply has the same messages, and the reply so far."""
    messages = [*conversation(LENGTH), user("And now?")]
    tool = {"type": "web_search_20250305", "name": "web_search"}
    async with FakeServer() as server:
        model = MESSAGES.at(server, extra_body={"tools": [tool]})
        for _ in range(4):
            server.add(FakeReply.json({**MESSAGES.reply, "stop_reason": "pause_turn"}))
            await MESSAGES.send(model, server, Context("", messages, []))
            paused, continued = (request.json for request in server.requests[-2:])
            answer = {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}
            assert {**paused, "messages": [*paused["messages"], answer]} == continued
            assert MESSAGES.body(model, Context("", messages, []), {}) == paused
            messages += [assistant("Good."), user("And then?")]


@each_protocol
async def test_messages_of_the_user_replace_those_of_the_conversation(protocol: Protocol) -> None:
    """The field in `extra_body` is sent instead of the conversation."""
    own = [{"role": "user", "content": [{"type": "text", "text": "Instead."}]}]
    async with FakeServer() as server:
        model = protocol.at(server, extra_body={protocol.messages: own})
        request = await protocol.send(model, server, Context("", conversation(LENGTH), []))
        assert own == request.json[protocol.messages]
        assert own == protocol.body(model, Context("", conversation(LENGTH), []), {})[protocol.messages]


# ---- any conversation ---------------------------------------------------------------------------------

OWN_MARK = {"type": "ephemeral", "ttl": "1h"}
IMAGE = {"type": "image", "url": "data:image/png;base64,AA=="}
TEXTS = st.sampled_from(["", " ", "Hi.", "And?"])
PARTS = st.one_of(
    TEXTS.map(lambda text: {"type": "text", "text": text}),
    st.just(IMAGE),
    st.just({"type": "text", "text": "Mark.", "cache_control": OWN_MARK}),
)
CONTENTS = st.lists(PARTS, max_size=3)
IDS = st.sampled_from(["a", "b", "c|d"])


REPLY_BLOCKS = st.one_of(
    TEXTS.map(lambda text: {"type": "text", "text": text}),
    IDS.map(call),
    st.sampled_from(
        [
            IMAGE,
            signed("thinking", "c2lnbmVk"),
            signed("thinking", {"type": "redacted_thinking", "data": "x"}),
            signed("thinking", {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}),
            signed("thinking", {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"}),
            signed("thinking", {"type": "image_generation_call", "id": "i"}),
            signed("thinking", {"type": "custom_tool_call", "id": "t", "call_id": "z", "name": "n"}),
            signed("text", {"id": "msg_1"}),
            signed("text", {"id": "msg_1", "citations": [{"url": "https://example.org"}]}),
        ]
    ),
)


@st.composite
def replies(draw: st.DrawFn) -> dict[str, Any]:
    """Any reply: of a protocol's own model or of another one, complete or failed."""
    api, provider, model = draw(
        st.sampled_from(
            [(each.model.api, each.model.provider, each.model.id) for each in (CHAT, MESSAGES, RESPONSES)]
            + [("anthropic-messages", "anthropic", FABLE)]
        )
    )
    fields: dict[str, Any] = {"api": api, "provider": provider, "model": model}
    if draw(st.booleans()):
        fields["thinking_level"] = draw(st.sampled_from(["low", "high"]))
    if draw(st.integers(0, 5)) == 0:
        fields["stop_reason"] = draw(st.sampled_from(["error", "aborted", "length"]))
    return {**assistant(*draw(st.lists(REPLY_BLOCKS, max_size=4))), **fields}


ANY_MESSAGE = st.one_of(
    CONTENTS.map(lambda content: {"role": "user", "content": content, "timestamp": 1}),
    replies(),
    replies(),
    st.builds(
        lambda call_id, content, is_error: (
            {**tool_result(call_id, "add", ""), "content": content} | {"is_error": is_error}
        ),
        *(IDS, CONTENTS, st.booleans()),
    ),
    st.just({"role": "memo", "content": "private"}),
)


MODELS: list[dict[str, Any]] = [{}, {"id": FABLE}, {"extra_body": {"store": True}}]


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, Any, Any]:
    """One change of a conversation or of its request."""
    kind = draw(st.sampled_from(["add", "add", "add", "replace", "insert", "remove", "cut", "edit", "ask"]))
    if kind == "add":
        return kind, 0, draw(st.lists(ANY_MESSAGE, min_size=1, max_size=6))
    if kind == "ask":
        tools = [AgentTool(name) for name in draw(st.sampled_from(["", "add", "add c|d"])).split()]
        system = draw(st.sampled_from(["", "Be brief."]))
        level, fields = draw(st.sampled_from(["off", "high"])), draw(st.sampled_from(MODELS))
        return kind, (system, tools), (level, fields)
    return kind, draw(st.integers(0, 30)), draw(ANY_MESSAGE)


def apply(step: tuple[str, Any, Any], messages: list[Any]) -> None:
    """Change the conversation in place, as a callback of the user might."""
    kind, at, value = step
    at = at % len(messages) if messages and kind != "ask" else 0
    if kind == "add":
        messages += copy.deepcopy(value)
    elif kind == "insert":
        messages.insert(at, copy.deepcopy(value))
    elif kind == "cut":
        del messages[at + 1 :]
    elif kind == "remove":
        del messages[at : at + 1]
    elif kind == "replace" and messages:
        messages[at] = copy.deepcopy(value)
    elif kind == "edit" and messages and isinstance(messages[at]["content"], list):
        messages[at]["content"].append({"type": "text", "text": "More."})


@contextmanager
def cached_from(length: int) -> Iterator[None]:
    """Cache histories from this length on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history_cache, "MIN_MESSAGES", length)
        yield


def sent(request: RecordedRequest) -> tuple[bytes, str | None]:
    return request.body, request.headers.get("anthropic-beta")


def check_messages(body: dict[str, Any]) -> None:
    """Check the marks for caching and the binding of thinking in a request of the Messages API."""
    blocks = [block for message in body["messages"] for block in message["content"]]
    results = [block.get("content", []) for block in blocks if block["type"] == "tool_result"]
    fixed = [*body.get("system", []), *body.get("tools", [])]
    marks = [block.get("cache_control") for block in [*fixed, *blocks, *itertools.chain(*results)]]
    if OWN_MARK in marks:
        assert {json.dumps(None), json.dumps(OWN_MARK)} >= set(map(json.dumps, marks))
    else:
        questions = [message for message in body["messages"] if message["role"] == "user"]
        places = [*body.get("system", [])[-1:], *body.get("tools", [])[-1:]]
        places += [message["content"][-1] for message in questions[-2:]]
        assert [{"type": "ephemeral"}] * len(places) == [place.get("cache_control") for place in places]
        assert len(places) == len(marks) - marks.count(None)
    if body["model"] == FABLE:
        thinks = any(block["type"] in ("thinking", "redacted_thinking") for block in blocks)
        assert thinks == ("block_binding" in body.get("thinking", {}))


@each_protocol
@settings(max_examples=40)  # of a conversation each
@given(changes=st.lists(steps(), min_size=3, max_size=12))
def test_any_growing_and_edited_conversation(protocol: Protocol, changes: list[tuple[str, Any, Any]]) -> None:
    """Each request of a conversation has the bytes and headers of one that is built without the cache."""

    async def check() -> None:
        messages: list[Any] = []
        system, tools, level = "", [AgentTool("add")], "off"
        async with FakeServer() as server:
            model = protocol.at(server)
            for step in changes:
                apply(step, messages)
                if step[0] == "ask":
                    (system, tools), (level, fields) = step[1:]
                    model = protocol.at(server, **fields)
                context = Context(system, messages, tools)
                with cached_from(1):
                    cached = await protocol.send(model, server, context, thinking_level=level)
                with cached_from(1_000_000):
                    expected = await protocol.send(model, server, context, thinking_level=level)
                assert sent(expected) == sent(cached)
                if protocol is MESSAGES:
                    check_messages(cached.json)

    asyncio.run(check())


# ---- what is encoded ----------------------------------------------------------------------------------


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of messages that each conversion gets."""
    counts: list[int] = []

    def counting(messages: Any, *args: Any, **options: Any) -> list[Message]:
        counts.append(len(messages))
        return adapt_history(messages, *args, **options)

    for module in ("_stream.messages_request", "_stream.responses_request", "_stream.chat_request"):
        monkeypatch.setattr(f"tinyagent.{module}.adapt_history", counting)
    return counts


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of bytes that each encoding of items writes."""
    sizes: list[int] = []
    encode_items = request.encode_items

    def counting(values: Any) -> bytes:
        items = encode_items(values)
        sizes.append(len(items))
        return items

    for module in ("_stream.request_cache", "anthropic_provider", "_stream.chat_request"):
        monkeypatch.setattr(f"tinyagent.{module}.encode_items", counting)
    return sizes


@each_protocol
async def test_a_turn_of_a_long_conversation_converts_and_encodes_only_its_end(
    protocol: Protocol, converted: list[int], encoded: list[int]
) -> None:
    """At 2,000 messages, a turn converts its new messages, and encodes a few of the last ones."""
    messages = conversation(2_000)
    async with FakeServer() as server:
        model = protocol.at(server)
        for turn in range(5):
            converted.clear()
            encoded.clear()
            request = await protocol.send(
                model, server, Context("Be brief.", [*messages], [AgentTool("add")])
            )
            if turn > 1:
                assert 3 == sum(converted)
                assert sum(encoded) < 2_000
                assert len(request.body) > 100_000
            else:
                assert len(messages) == sum(converted)
            messages += [assistant("Good."), user("And now?")]


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


def new_cache() -> RequestCache[UsedIds]:
    return RequestCache()


async def test_a_turn_encodes_only_new_messages() -> None:
    """From the third request on, a turn converts its new messages and the last one of the turn before.

    The first request is not cached, because most conversations of that length have no second one.
    """
    messages, convert, cache = conversation(LENGTH), Converter(), new_cache()
    for _ in range(2):
        cache.encode(messages, (), convert, {})
        assert convert.take() == LENGTH
    for _ in range(5):
        messages += [assistant("Yes."), user("And?")]
        cache.encode([*messages], (), convert, {})
        assert convert.take() == 3


async def test_short_histories_are_not_cached() -> None:
    """A short conversation is encoded completely in each turn."""
    messages, convert, cache = conversation(MIN_MESSAGES - 4), Converter(), new_cache()
    for _ in range(3):
        cache.encode(messages, (), convert, {})
        assert convert.take() == len(messages)


def test_without_an_event_loop_nothing_is_cached() -> None:
    """The cache ends with its event loop, so there is none outside."""
    messages, convert, cache = conversation(LENGTH), Converter(), new_cache()
    for _ in range(3):
        cache.encode(messages, (), convert, {})
        assert convert.take() == LENGTH


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The history that was not used for the longest time is removed, by number and by size."""
    convert, cache = Converter(), new_cache()
    histories = [conversation(LENGTH) for _ in range(MAX_HISTORIES + 1)]
    for messages in histories:
        for _ in range(2):
            cache.encode(messages, (), convert, {})
    convert.take()
    cache.encode(histories[-1], (), convert, {})
    assert convert.take() == 1
    cache.encode(histories[0], (), convert, {})
    assert convert.take() == LENGTH
    monkeypatch.setattr(history_cache, "MAX_CACHED_BYTES", 100)
    for _ in range(4):
        cache.encode(histories[0], (), convert, {})
        assert convert.take() == LENGTH


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
