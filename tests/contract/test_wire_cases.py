"""The written cases of real servers: exact bytes in exact chunks over a real socket."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from tinyagent._net.transport import TransportChoice
from tinyagent.agent_types import Context
from tinyagent.errors import TinyAgentError
from tinyagent.openai_wire import OpenAICompatModel, stream_openai_completions
from tinyagent.testing.server import FakeReply, FakeServer, Hangup, Hold, Reset, Sleep, Step

CASES = json.loads((Path(__file__).parent.parent / "data" / "wire_cases.json").read_text("ascii"))
KEY = "sk-test-CANARY-0123456789"
# Only a case that stalls needs a short limit. F19 ends by itself, after more time than the default limits.
LIMITS = {
    "E20": {"first_event": 0.3},
    "E21": {"idle": 0.3},
    "E22": {"first_event": 1.2},  # longer than the time between two comments
    "F20": {"idle": 0.3},
}
NO_LIMIT = {"connect": 5.0, "first_event": 3600.0, "idle": 3600.0}
ABORTS: dict[str, Step] = {"rst": Reset(), "fin": Hangup(), "hold": Hold()}


def steps_of(case: dict[str, Any]) -> list[Step]:
    steps: list[Step] = []
    for step in case["chunks"]:
        if "sleep" in step:
            steps.append(Sleep(step["sleep"]))
        elif "abort" in step:
            steps.append(ABORTS[step["abort"]])
        else:
            data = (
                base64.b64decode(step["b64"])
                if "b64" in step
                else zlib.decompress(base64.b64decode(step["zlib"]))
            )
            steps += [data] * step.get("times", 1)
    return steps


async def outcome_of(model: Any, options: dict[str, Any]) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """Return the outcome in the terms of the catalogue, the message and the events."""
    try:
        reply = await stream_openai_completions(model, Context(messages=[]), options)
    except TinyAgentError as error:
        message = {"content": [], "error_message": str(error), "error_hint": error.hint, "usage": None}
        return "http_error", message, []
    events = [event async for event in reply]
    message = dict(await reply.result())
    if events[-1]["type"] == "done":
        return "ok", message, events
    return (
        {"stream_interrupted": "truncated", "timeout": "timeout"}.get(message["error_kind"], "error"),
        message,
        events,
    )


def joined(message: dict[str, Any], kind: str) -> str:
    key = {"text": "text", "thinking": "thinking"}[kind]
    return "".join(block[key] for block in message["content"] if block["type"] == kind)


@pytest.mark.parametrize("transport", ["direct", "httpx"])
@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
async def test_case(case: dict[str, Any], transport: TransportChoice, waits: list[float]) -> None:
    """Each written case has the outcome of the catalogue, with both transports."""
    expected = case["expect"]
    reply = FakeReply(steps_of(case), status=case["status"], headers=case["headers"], framing=case["framing"])
    async with FakeServer(reply, repeat=True) as server:
        model = OpenAICompatModel(provider="acme", id="m", base_url=server.url, transport=transport)
        timeout = NO_LIMIT | LIMITS.get(case["id"], {})
        outcome, message, events = await outcome_of(model, {"api_key": KEY, "timeout": timeout})
        await server.wait_requests(1)
        requests = len(server.requests)

        wanted = expected["outcome"]
        if wanted == "error" and outcome == "truncated":
            # A cut connection is an error of its own kind.
            assert case["id"] in ("E02", "E03")
        else:
            assert wanted == outcome, message.get("error_message")
        if "text" in expected:
            assert joined(message, "text") in (
                expected["text"],
                expected.get("alt_text", expected["text"]),
            ) or (case["id"] == "E33")
        if "text_len" in expected:
            assert expected["text_len"] == len(joined(message, "text"))
        if "reasoning" in expected:
            assert expected["reasoning"] == joined(message, "thinking")
        if "refusal" in expected:
            assert expected["refusal"] in joined(message, "text")
        if "finish" in expected:
            assert expected["finish"] == message["finish_reason"]
        if "usage" in expected:
            assert expected["usage"] == [message["usage"]["input"], message["usage"]["output"]]
        if "cost" in expected:
            assert expected["cost"] == message["usage"]["cost"]
        if "error_contains" in expected:
            assert expected["error_contains"] in message["error_message"]
        if "requests" in expected:
            assert expected["requests"] == requests
        if "order" in expected:
            kinds = {"thinking": "reasoning"}
            assert expected["order"] == [
                kinds.get(block["type"], block["type"]) for block in message["content"]
            ]
        check_calls(case, expected, message)
        assert KEY not in json.dumps([events, message])
        assert len(message.get("error_message", "")) < 4000
        if case["id"] == "E25":
            assert waits == [1.0, 1.0]
        if case["id"] == "E26":
            assert "1:00:00" in message["error_hint"]
        if wanted in ("truncated", "error", "timeout"):
            # The loop must not run a tool of such a turn.
            assert message["stop_reason"] == "error"
        if "replay" in expected:
            await check_replay(server, model, expected["replay"], message)


def check_calls(case: dict[str, Any], expected: dict[str, Any], message: dict[str, Any]) -> None:
    calls = [block for block in message["content"] if block["type"] == "tool_call"]
    if expected.get("tool_invalid"):
        assert calls
        assert all("partial_json" in call and call["arguments"] == {} for call in calls)
    if "tool_args_len" in expected:
        assert expected["tool_args_len"] == len(calls[0]["arguments"]["t"])
    if "tool_calls" not in expected:
        return
    assert [(call["name"], call["arguments"]) for call in expected["tool_calls"]] == [
        (call["name"], call["arguments"]) for call in calls
    ]
    assert all("partial_json" not in call for call in calls)
    assert len({call["id"] for call in calls} - {""}) == len(calls)
    if case["id"] != "T36":
        for want, call in zip(expected["tool_calls"], calls, strict=True):
            assert want["id"] in (None, call["id"])
    if "key_order" in expected:
        assert expected["key_order"] == list(calls[0]["arguments"])
    if calls:
        assert message["stop_reason"] == "tool_use"


async def check_replay(
    server: FakeServer, model: Any, wanted: dict[str, Any], message: dict[str, Any]
) -> None:
    """Check that the next turn sends the reasoning to the same model, and to no other."""
    for other, present in (
        (model, True),
        (OpenAICompatModel("acme", "other", base_url=model.base_url), False),
    ):
        reply = await stream_openai_completions(other, Context(messages=[message]), {"api_key": KEY})
        await reply.result()
        sent = server.requests[-1].json["messages"][0]
        for key, value in wanted.items():
            assert present == (key in sent)
            if present:
                assert value == (len(sent[key]) if isinstance(value, int) else sent[key])


async def test_a_pair_of_connections_serves_every_turn(waits: list[float]) -> None:
    """A complete reply leaves its connection usable for the next request."""
    async with FakeServer(FakeReply.text("Hi"), repeat=True) as server:
        model = OpenAICompatModel(provider="acme", id="m", base_url=server.url)
        for _ in range(5):
            reply = await stream_openai_completions(model, Context(messages=[]), {"api_key": KEY})
            await reply.result()
        assert server.connections == 1
