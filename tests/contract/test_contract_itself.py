"""The contract finds and names each way in which a provider breaks it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tinyagent._stream.builder import MessageBuilder
from tinyagent._stream.generator_reply import GeneratorReply
from tinyagent.agent_types import Model
from tinyagent.errors import ProviderError
from tinyagent.openai_wire import OpenAICompatModel, stream_openai_completions
from tinyagent.testing import ChatWire, ProviderContract, check_reply

# ---- check_reply -------------------------------------------------------------------------------------


def good() -> list[dict[str, Any]]:
    """Return a reply with a block of each type, as plain dicts."""
    builder = MessageBuilder(Model("p", "m", "a"))
    events: list[Any] = [builder.start()]
    for opened, deltas in (
        (builder.open_thinking(), ["h", "m"]),
        (builder.open_text(), ["Hel", "lo"]),
        (builder.open_tool_call("c", "look"), ['{"at":', ' "sky"}']),
    ):
        index, event = opened
        events += [event, *(builder.delta(index, delta) for delta in deltas), builder.close(index)]
    events.append(builder.done("tool_use"))
    return [copy.deepcopy(dict(event)) for event in events]


def test_a_good_reply_passes() -> None:
    """A reply with correct events passes."""
    check_reply(good())


def change(at: int, **fields: Any) -> Callable[[list[Any]], None]:
    return lambda events: events[at].update(fields)


def message(**fields: Any) -> Callable[[list[Any]], None]:
    return lambda events: events[-1]["message"].update(fields)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda events: events.clear(), "no events"),
        (lambda events: events.pop(0), "starts with `start`"),
        (lambda events: events.pop(), "ends with `done`"),
        (lambda events: events.append(events[-1]), "only steps of blocks"),
        (lambda events: events.insert(1, {"type": "ping"}), "only steps of blocks"),
        (lambda events: events.pop(1), "not an open thinking block"),
        (lambda events: events.pop(4), "every block is closed"),
        (change(1, content_index=1), "the next block has the index 0"),
        (change(2, content_index=1), "not an open thinking block"),
        (change(2, delta=None), "a delta is text"),
        (change(4, content="other"), "its content is the text of its deltas"),
        (change(2, partial={"content": []}), "the blocks so far"),
        (change(2, partial={"content": [{"type": "thinking", "thinking": "hm"}]}), "the text so far"),
        (change(-1, reason="stop"), "its reason"),
        (change(-1, type="error", error={"stop_reason": "tool_use"}, reason="tool_use"), "`error` is for"),
        (
            lambda events: events[-1].update(
                type="error", reason="error", error={**events[-1]["message"], "stop_reason": "error"}
            ),
            "a failed message has its reason",
        ),
        (message(content=[]), "the message has these blocks"),
        (message(api=None), "its api"),
        (lambda events: events[-1]["message"]["content"][1].update(text="Hell"), "is the text of its deltas"),
        (lambda events: events[-1]["message"]["content"][2].update(arguments={}), "arguments of call 2"),
    ],
)
def test_a_spoilt_reply_does_not(spoil: Callable[[list[Any]], None], complaint: str) -> None:
    """Each fault is found and named."""
    events = good()
    spoil(events)
    with pytest.raises(AssertionError, match=complaint):
        check_reply(events)


# ---- ProviderContract --------------------------------------------------------------------------------


def contract(stream_fn: Any, **attributes: Any) -> ProviderContract:
    """Return the tests for a chat/completions provider with this `stream_fn`."""

    def make_model(self: Any, base_url: str) -> Any:
        return OpenAICompatModel(id="m", base_url=base_url)

    given = {"wire": ChatWire(), "stream_fn": stream_fn, "make_model": make_model, "patience": 60.0}
    made: ProviderContract = type("Spoilt", (ProviderContract,), given | attributes)()
    return made


async def buffering(model: Any, context: Any, options: Mapping[str, Any]) -> Any:
    """Yield all events at the end."""
    response = await stream_openai_completions(model, context, dict(options))  # type: ignore[arg-type]
    events = [event async for event in response]

    async def later() -> Any:
        for event in events:
            yield event

    return GeneratorReply(later())


async def greedy(model: Any, context: Any, options: Mapping[str, Any]) -> Any:
    """Read the whole reply ahead."""
    response = await stream_openai_completions(model, context, dict(options))  # type: ignore[arg-type]
    events: asyncio.Queue[Any] = asyncio.Queue()

    async def read() -> None:
        async for event in response:
            events.put_nowait(event)

    reading = asyncio.create_task(read())

    async def later() -> Any:
        while True:
            event = await events.get()
            yield event
            if event["type"] in ("done", "error"):
                await reading
                return

    return GeneratorReply(later())


async def deaf(model: Any, context: Any, options: Mapping[str, Any]) -> Any:
    """Ignore the signal and the time-out."""
    supported = {key: value for key, value in options.items() if key not in ("signal", "timeout")}
    return await stream_openai_completions(model, context, supported)  # type: ignore[arg-type]


async def talkative(model: Any, context: Any, options: Mapping[str, Any]) -> Any:
    """Put the key into errors."""
    try:
        return await stream_openai_completions(model, context, dict(options))  # type: ignore[arg-type]
    except ProviderError as error:
        raise type(error)(f"{error} (with {options['api_key']})") from None


async def credulous(model: Any, context: Any, options: Mapping[str, Any]) -> Any:
    """Treat an incomplete reply as complete."""
    response = await stream_openai_completions(model, context, dict(options))  # type: ignore[arg-type]

    async def believing() -> Any:
        builder = MessageBuilder(model)
        async for event in response:
            if event["type"] != "error":
                yield builder.absorb(event)
                continue
            for index, block in enumerate(event["error"]["content"]):
                yield builder.close(index, *([block["arguments"]] if block["type"] == "tool_call" else []))
            yield builder.done("stop")

    return GeneratorReply(believing())


async def raising(model: Any, context: Any, options: Mapping[str, Any]) -> Any:
    """Raise an exception after the start of the reply."""
    response = await stream_openai_completions(model, context, dict(options))  # type: ignore[arg-type]

    async def brusque() -> Any:
        async for event in response:
            if event["type"] == "error":
                raise ConnectionError("broken")
            yield event

    return GeneratorReply(brusque())


async def forgetful(model: Any, context: Any, options: Mapping[str, Any]) -> Any:
    """Send only the last message."""
    context.messages[:-1] = []
    return await stream_openai_completions(model, context, dict(options))  # type: ignore[arg-type]


HANGS = 3.0
"""The patience for a provider that hangs until it is used up."""


@pytest.mark.parametrize(
    ("stream_fn", "test", "patience", "complaint"),
    [
        (buffering, "test_deltas_come_as_they_are_sent", HANGS, "held back"),
        (greedy, "test_a_slow_reader_loses_nothing", 60.0, "no back-pressure"),
        (deaf, "test_aborts", HANGS, "signal"),
        (deaf, "test_stalls", HANGS, "hangs"),
        (talkative, "test_http_500", 60.0, "the key is in"),
        (credulous, "test_cut_streams", 60.0, "it fails"),
        (raising, "test_an_error_in_the_stream", 60.0, "is an event, not an exception"),
        (forgetful, "test_second_turn", 60.0, "the second request lacks"),
    ],
)
def test_a_provider_that_breaks_the_contract_is_found(
    stream_fn: Any, test: str, patience: float, complaint: str
) -> None:
    """Each of the providers above fails its test."""
    with pytest.raises((AssertionError, TimeoutError), match=complaint):
        getattr(contract(stream_fn, patience=patience), test)()


def test_what_does_not_apply_is_skipped_with_its_reason() -> None:
    """An exempt test is skipped with its reason, and an unknown feature in `exempt` raises `TypeError`."""
    with pytest.raises(pytest.skip.Exception, match="it cannot see"):
        _skipping(contract(None, exempt={"images": "it cannot see"}).test_images)
    with pytest.raises(TypeError, match="'sight' is not a feature"):
        contract(None, exempt={"sight": "it cannot see"})


def _skipping(test: Callable[[], None]) -> None:
    """Convert the skip of unittest to that of pytest, as pytest does for its tests."""
    import unittest

    try:
        test()
    except unittest.SkipTest as reason:
        pytest.skip(str(reason))
