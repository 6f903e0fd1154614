"""The message builder: each event shows the message at its own time, and a delta has constant cost."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagent import Model, _json
from tinyagent._stream.builder import BuilderEvent, MessageBuilder, now_ms
from tinyagent._stream.trace import MAX_BLOCKS, parse_partial_object
from tinyagent.errors import InvalidReplyError

MODEL = Model(provider="p", id="m", api="a")


def builder() -> MessageBuilder:
    return MessageBuilder(MODEL, timestamp=1)


# ---- the model: the same with deep copies --------------------------------------------------------------


class Naive:
    """A simple model of the builder: one growing message that is copied after each step."""

    def __init__(self) -> None:
        self.message: dict[str, Any] = {
            "role": "assistant",
            "content": [],
            "stop_reason": "stop",
            "timestamp": 1,
            "api": "a",
            "provider": "p",
            "model": "m",
            "usage": None,
        }
        self.ids: set[str] = set()

    @property
    def content(self) -> list[dict[str, Any]]:
        return self.message["content"]

    def photograph(self) -> dict[str, Any]:
        shown = copy.deepcopy(self.message)
        for block in shown["content"]:
            if block["type"] == "tool_call" and "partial_json" in block and not block.pop("closed", False):
                block["arguments"] = parse_partial_object(block["partial_json"]) or {}
            block.pop("closed", None)
        return shown

    def fresh_id(self, call_id: str) -> str:
        taken = next(
            name
            for n in range(1, 10_000)
            if (name := (call_id or "call_1") if n == 1 else f"{call_id or 'call'}_{n}") not in self.ids
        )
        self.ids.add(taken)
        return taken


PIECES = st.sampled_from(
    ["", "a", "é", "{", '{"k": ', '"v"', "}", "1", " ", "\n", "[", "]", "\\", "\U0001f600"]
)
STEPS = st.lists(
    st.one_of(
        st.just(("start",)),
        st.just(("open_text",)),
        st.just(("open_thinking",)),
        st.tuples(st.just("open_tool_call"), st.sampled_from(["", "x", "y"]), st.sampled_from(["", "tool"])),
        st.tuples(st.just("delta"), st.integers(0, 5), PIECES),
        st.tuples(st.just("delta"), st.integers(0, 5), PIECES),
        st.tuples(st.just("delta"), st.integers(0, 5), PIECES),
        st.tuples(st.just("update"), st.integers(0, 5), st.sampled_from(["s1", "s2"])),
        st.tuples(st.just("close"), st.integers(0, 5), st.sampled_from([None, {"a": 1}])),
    ),
    max_size=40,
)
ENDS = st.sampled_from([("done", "stop"), ("done", "length"), ("fail", "error"), None])


def play(
    steps: list[Any], end: Any
) -> tuple[list[BuilderEvent], list[dict[str, Any]], MessageBuilder, Naive]:
    """Run the same steps on both. Return the events of the builder and the copies of the model."""
    made, naive = builder(), Naive()
    events: list[BuilderEvent] = []
    photographs: list[dict[str, Any]] = []
    for name, *args in steps:
        if name == "start":
            events.append(made.start())
        elif name in ("open_text", "open_thinking"):
            kind = name.removeprefix("open_")
            index, event = getattr(made, name)()
            assert index == len(naive.content)
            naive.content.append({"type": kind, kind: ""})
            events.append(event)
        elif name == "open_tool_call":
            _, event = made.open_tool_call(*args)
            call_id = naive.fresh_id(args[0])
            block = {"type": "tool_call", "id": call_id, "name": args[1], "arguments": {}, "partial_json": ""}
            naive.content.append(block)
            events.append(event)
        elif args[0] >= len(naive.content):
            continue
        else:
            block = naive.content[args[0]]
            kind = block["type"]
            if block.get("closed") or ("partial_json" not in block and kind == "tool_call"):
                continue  # closed
            if name == "delta":
                block["partial_json" if kind == "tool_call" else kind] += args[1]
                events.append(made.delta(*args))
            elif name == "update":
                key = "name" if kind == "tool_call" else f"{kind}_signature"
                block[key] = args[1]
                made.update(args[0], **{key: args[1]})
                continue
            elif kind != "tool_call":
                events.append(made.close(args[0]))
            else:
                events.append(made.close(args[0], args[1]))
                raw = block["partial_json"]
                arguments = args[1] if args[1] else _json.decode_object(raw) if raw.strip() else {}
                if arguments is None:
                    block |= {"arguments": {}, "closed": True}
                else:
                    block["arguments"] = arguments
                    del block["partial_json"]
        photographs.append(naive.photograph())
    if end is not None:
        how, reason = end
        if how == "done":
            events.append(made.done(reason, usage={"input": 1}))
            naive.message |= {"stop_reason": reason, "usage": {"input": 1}}
        else:
            events.append(made.fail(reason, "why", error_kind="k"))
            naive.message |= {"stop_reason": reason, "error_message": "why", "error_kind": "k"}
        photographs.append(naive.photograph())
    return events, photographs, made, naive


@given(STEPS, ENDS, st.randoms(use_true_random=False))
def test_a_stored_event_shows_the_message_at_its_time(steps: list[Any], end: Any, random: Any) -> None:
    """For any sequence of calls, each partial is the message at its time, in any order of reading."""
    events, photographs, made, naive = play(steps, end)
    assert naive.photograph() == made.message()
    order = list(range(len(events)))
    random.shuffle(order)
    for number in [*order, *range(len(events)), *reversed(range(len(events)))]:
        assert photographs[number] == events[number]["partial"]
        assert photographs[number] == events[number].get("partial")


@given(STEPS, ENDS)
def test_reading_on_the_way_changes_nothing(steps: list[Any], end: Any) -> None:
    """A listener that reads each partial at once gets the same as one that reads all at the end."""
    events, photographs, made, _ = play(steps, end)
    again = builder()
    for (name, *args), _ in zip(steps, range(len(steps)), strict=True):
        try:
            result = getattr(again, name)(*(args if name != "update" else args[:1]))
        except (IndexError, KeyError):
            break
        event = result[1] if isinstance(result, tuple) else result
        if event is not None:
            assert event["partial"] == again.message()
    assert [event["partial"] for event in events] == photographs
    assert made.message() == made.trace.message_at(sys.maxsize - 1)


@given(STEPS, ENDS)
def test_absorbing_deltas_only_builds_the_same(steps: list[Any], end: Any) -> None:
    """Events without partials build the same blocks and the same end through another builder."""
    events, photographs, _, _ = play([step for step in steps if step[0] not in ("update", "start")], end)
    other = builder()
    for event, photograph in zip(events, photographs, strict=True):
        plain = dict(event)
        assert "partial" not in plain
        own = other.absorb(plain)
        assert own["type"] == event["type"]
        if event["type"] in ("done", "error"):
            assert own == plain
        else:
            assert [block["type"] for block in photograph["content"]] == [
                block["type"] for block in own["partial"]["content"]
            ]
            assert photograph == own["partial"]


@given(STEPS, ENDS)
def test_absorbing_full_partials_takes_them_as_they_stand(steps: list[Any], end: Any) -> None:
    """The partials of a provider are used unchanged, and are copied before the provider changes them."""
    events, photographs, _, _ = play(steps, end)
    other = builder()
    for event, photograph in zip(events, photographs, strict=True):
        partial = copy.deepcopy(photograph)
        own = other.absorb({**event, "partial": partial})
        partial["content"].append("changed")
        partial.clear()
        assert photograph == own["partial"]


# ---- cost --------------------------------------------------------------------------------------------


def calls_of(work: Any) -> int:
    """Count the calls of Python and C functions during `work`."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    previous = sys.getprofile()
    gc.collect()
    gc.disable()  # the callbacks of hypothesis would be counted
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(previous)
        gc.enable()
    return count


def test_a_delta_costs_the_same_at_any_length() -> None:
    """Twice the deltas take at most twice the calls, for one block and for interleaved blocks."""

    def stream(count: int, blocks: int) -> Any:
        def work() -> None:
            made = builder()
            made.start()
            indices = [made.open_tool_call()[0] for _ in range(blocks)]
            for number in range(count):
                made.delta(indices[number % blocks], "piece")

        return work

    for blocks in (1, 3):
        base, once, twice = (calls_of(stream(count, blocks)) for count in (0, 1000, 2000))
        assert 2 * (once - base) == twice - base
        assert once - base <= 12 * 1000


def test_events_share_the_pieces() -> None:
    """A stored event has only its own delta; the pieces exist once."""
    made = builder()
    index, _ = made.open_text()
    events = [made.delta(index, "x" * 10) for _ in range(100)]
    assert all(sum(len(value) for value in event.values() if isinstance(value, str)) < 25 for event in events)
    assert 1000 == len(made.text(index))


def test_reading_on_joins_only_what_is_new() -> None:
    """Reading the partial of each event joins each piece only once."""
    made = builder()
    index, _ = made.open_text()
    joined = 0

    class Pieces(list[str]):
        def __getitem__(self, key: Any) -> Any:
            nonlocal joined
            value = super().__getitem__(key)
            if isinstance(key, slice):
                joined += len(value)
            return value

    made._pieces = made.trace.pieces = Pieces(made.trace.pieces)
    for _ in range(500):
        event = made.delta(index, "x")
        assert event["partial"]["content"][0]["text"]
    assert joined <= 2 * 500 + 10


def test_many_blocks_cost_no_more_each() -> None:
    """Twice the tool calls take at most twice the function calls to open, extend and close."""

    def stream(blocks: int) -> Any:
        def work() -> None:
            made = builder()
            indices = [made.open_tool_call("same", "w")[0] for _ in range(blocks)]
            for index in indices:
                made.delta(index, "{}")
            for index in indices:
                made.close(index)
            made.done("tool_use")

        return work

    base, once, twice = (calls_of(stream(blocks)) for blocks in (0, 400, 800))
    assert twice - base <= 2.2 * (once - base)


def test_the_changes_between_two_moments_are_known() -> None:
    """`changed_between` returns exactly the blocks that were opened, extended or changed."""
    made = builder()
    text, _ = made.open_text()
    first = made.delta(text, "a").count
    grown = made.delta(text, "b").count
    call, opened = made.open_tool_call("c", "w")
    made.update(text, text_signature="s")
    last = made.delta(text, "c").count
    assert {text} == made.trace.changed_between(first, grown)
    assert {call} == made.trace.changed_between(grown, opened.count)
    assert {text} == made.trace.changed_between(opened.count, last)
    assert set() == made.trace.changed_between(last, last)
    assert {text, call} == made.trace.changed_between(0, last)
    assert [1, 2] == [made.trace.length_at(grown), made.trace.length_at(last)]


def test_a_message_has_a_bounded_number_of_blocks() -> None:
    """One block more than the limit raises an error that names the limit."""
    made = builder()
    for _ in range(MAX_BLOCKS):
        made.open_text()
    with pytest.raises(InvalidReplyError, match="more than 10,000 blocks"):
        made.open_tool_call()


# ---- events --------------------------------------------------------------------------------


def test_partial_is_readable_like_any_other_key() -> None:
    """`[]`, `get` and `in` find `partial`; it is not among the stored keys."""
    event = builder().open_text()[1]
    assert "partial" in event
    assert event["partial"] == event.get("partial")
    assert "partial" not in dict(event)
    assert b"partial" not in _json.encode(event)
    assert "nothing" not in event
    assert (None, 5) == (event.get("nothing"), event.get("nothing", 5))
    with pytest.raises(KeyError):
        _ = event["nothing"]


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda event: pickle.loads(pickle.dumps(event))]
)
def test_a_copy_has_the_partial_in_it(duplicate: Any) -> None:
    """A copy and a pickle of an event have the same partial as the event."""
    made = builder()
    index, _ = made.open_text()
    event = made.delta(index, "hi")
    copied = duplicate(event)
    made.delta(index, " there")
    assert event["partial"] == copied["partial"]
    assert "hi" == copied["delta"]


def test_partials_are_new_each_time() -> None:
    """Changing a partial that was read does not change the next one."""
    event = builder().open_text()[1]
    event["partial"]["content"].clear()
    event["partial"]["content"][0]["text"] = "changed"
    assert [{"type": "text", "text": ""}] == event["partial"]["content"]


# ---- the methods for providers -----------------------------------------------------------------------------


def test_interleaved_tool_calls() -> None:
    """The pieces of two calls may alternate; each call gets its own."""
    made = builder()
    first, _ = made.open_tool_call("a", "one")
    second, _ = made.open_tool_call("b", "two")
    for piece, index in (('{"x"', first), ('{"y"', second), (": 1}", first), (": 2}", second)):
        made.delta(index, piece)
    end = made.close(second)
    assert {"type": "tool_call", "id": "b", "name": "two", "arguments": {"y": 2}} == end["tool_call"]
    assert {"x": 1} == made.close(first)["tool_call"]["arguments"]


def test_late_fields() -> None:
    """A late signature, name or id is in the partials after it, and not in those before it."""
    made = builder()
    index, opened = made.open_thinking()
    delta = made.delta(index, "hm")
    end = made.close(index, thinking_signature="sig")
    call, started = made.open_tool_call()
    made.update(call, name="late", id=made.unique_id("real"))
    after = made.delta(call, "{}")
    assert "thinking_signature" not in str([opened["partial"], delta["partial"]])
    assert "sig" == end["partial"]["content"][0]["thinking_signature"]
    assert ("call_1", "") == tuple(started["partial"]["content"][1][key] for key in ("id", "name"))
    assert ("real", "late") == tuple(after["partial"]["content"][1][key] for key in ("id", "name"))


def test_ids_are_unique() -> None:
    """An empty or repeated id is replaced."""
    made = builder()
    ids = [
        made.open_tool_call(given)[1]["tool_call"]["id"] for given in ("", "", "x", "x", "x", "x_2", "call_1")
    ]
    assert len(ids) == len(set(ids))
    assert ["call_1", "call_2", "x", "x_2", "x_3"] == ids[:5]


@pytest.mark.parametrize(
    ("raw", "arguments", "invalid"),
    [
        ("", {}, False),
        ("  \n", {}, False),
        ('{"a": 1}', {"a": 1}, False),
        (' {"a": 123456789012345678901234567890} ', {"a": 123456789012345678901234567890}, False),
        (r'"{\"a\": 1}"', {"a": 1}, False),
        (r'{"a": "\ud800"}', {"a": "\ufffd"}, False),
        ('{"a": "\ud800"}', {"a": "\ufffd"}, False),
        (r'{"a": "\ud83d\ude00"}', {"a": "\U0001f600"}, False),
        ('{"a": 1', {}, True),
        ("[1]", {}, True),
        ("null", {}, True),
        ("1", {}, True),
        ('{"a": NaN}', {}, True),
        ('{"a": 1} trailing', {}, True),
        ("[" * 100_000, {}, True),
        ('{"a": ' * 5000 + "1" + "}" * 5000, {}, True),
        ('{"a": ' * 257 + "1" + "}" * 257, {}, True),
        ('{"a": [' + "{}," * 1000 + "{}]}", {"a": [{}] * 1001}, False),
    ],
)
def test_arguments_are_parsed_strictly_at_the_end(raw: str, arguments: Any, invalid: bool) -> None:
    """A JSON object is parsed; other text stays in `partial_json` and marks the call as invalid."""
    made = builder()
    index, _ = made.open_tool_call("x", "t")
    event = made.delta(index, raw)
    assert isinstance(event["partial"]["content"][0]["arguments"], dict)
    call = made.close(index)["tool_call"]
    assert arguments == call["arguments"]
    assert ({"partial_json": raw} if invalid else {}) == {k: call[k] for k in call if k == "partial_json"}


@pytest.mark.parametrize("given_arguments", [[], [1], 5, False])
def test_arguments_given_as_something_else_are_never_an_empty_call(given_arguments: Any) -> None:
    """Arguments that are not an object are kept as text, so that the call is invalid."""
    made = builder()
    index, _ = made.open_tool_call("x", "t")
    call = made.close(index, given_arguments)["tool_call"]
    assert {} == call["arguments"]
    assert call["partial_json"]


def test_a_failure_keeps_what_was_built() -> None:
    """`fail` ends the message with its content so far and the reason."""
    made = builder()
    index, _ = made.open_text()
    made.delta(index, "half")
    event = made.fail("error", "why", error_kind="connection")
    assert ("error", "why", "connection") == tuple(
        event["error"][key] for key in ("stop_reason", "error_message", "error_kind")
    )
    assert "half" == event["error"]["content"][0]["text"]
    assert event["error"] == made.message()


@pytest.mark.parametrize("garbage", [None, 42, "text", [], {}, {"type": None}, {"delta": "x"}])
def test_garbage_is_refused_by_name(garbage: Any) -> None:
    """A value that is not an event raises `InvalidReplyError`."""
    with pytest.raises(InvalidReplyError, match=type(garbage).__name__):
        builder().absorb(garbage)


def test_a_model_may_be_anything() -> None:
    """A model may have no `api`, `provider` or `id`, and the default timestamp is the current time."""
    before = now_ms()
    message: Any = MessageBuilder(object()).message()
    assert ("", "", "") == (message["api"], message["provider"], message["model"])
    assert before <= message["timestamp"] <= now_ms()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("x", None),
        ("[1", None),
        ("{", {}),
        ('{"a', {}),
        ('{"a": "b', {"a": "b"}),
        ('{"a": [1, 2', {"a": [1, 2]}),
        ('{"a": {"b": 1}', {"a": {"b": 1}}),
        ("[" * 10_000, None),
        ("\ud800", None),
    ],
)
def test_the_best_object_of_a_prefix(text: str, expected: Any) -> None:
    """While arguments are streamed, a partial shows the part that is complete."""
    assert expected == parse_partial_object(text)
