"""`tinyagent batch` with a file in the format of OpenAI's batch API."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tinyagent.testing import FakeServer
from tinyagent.testing.server import FakeReply
from tinyagent_cli.batch.openai_format import openai_item

from .conftest import Cli, as_openai, read_lines

DOCUMENTED = (
    '{"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": '
    '"gpt-3.5-turbo-0125", "messages": [{"role": "system", "content": "You are a helpful assistant."},'
    '{"role": "user", "content": "Hello world!"}],"max_tokens": 1000}}\n'
)
"""The first line of the file in https://platform.openai.com/docs/guides/batch."""

USER = {"role": "user", "content": "Hi."}
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}


def request(custom_id: str, *messages: dict[str, Any], **body: Any) -> str:
    """Return a line."""
    return json.dumps({"custom_id": custom_id, "body": {"model": "m", "messages": messages, **body}}) + "\n"


def test_requests_are_sent(cli: Cli) -> None:
    """The requests have what the bodies ask for. `-m` takes precedence over their models."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "auto"}}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    cli.file(
        "in.jsonl",
        DOCUMENTED
        + request("image", {"role": "user", "content": [{"type": "text", "text": "See:"}, image]}, seed=3)
        + request("history", USER, {"role": "assistant", "content": None, "tool_calls": [call]},
                  {"role": "tool", "tool_call_id": "c1", "content": "3"}, USER, n=1, temperature=0.5)
        + request("schema", USER, response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}})
        + request("tools", USER, tools=[{"type": "function", "function": {"name": "f"}}]),
    )  # fmt: skip
    with FakeServer(*map(FakeReply.text, ("Hello.", "A cat.", "Three.", '{"age": 3}'))) as server:
        environment = as_openai(server)
        done = cli("batch", "in.jsonl", "-o", "out.jsonl", "-j", "1", **environment)
        other = cli("batch", "in.jsonl", "-o", "x.jsonl", "-m", "demo", **environment)
        sent = [sent.json for sent in server.requests]
    results = read_lines(cli.work / "out.jsonl")
    assert ["request-1", "image", "history", "schema"] == [result["id"] for result in results]
    assert ([1, 2, 3, 4], {"age": 3}) == ([result["line"] for result in results], results[3]["value"])
    assert "Line 5 is skipped: body.tools is not supported: name the tools with -t." in done.err
    assert ("gpt-3.5-turbo-0125", 1000) == (sent[0]["model"], sent[0]["max_completion_tokens"])
    roles = [("system", "You are a helpful assistant."), ("user", "Hello world!")]
    assert roles == [(message["role"], message["content"]) for message in sent[0]["messages"]]
    assert ("m", 3) == (sent[1]["model"], sent[1]["seed"])
    assert ["text", "image_url"] == [part["type"] for part in sent[1]["messages"][0]["content"]]
    assert ["user", "assistant", "tool", "user"] == [message["role"] for message in sent[2]["messages"]]
    assert ("f", 0.5) == (sent[2]["messages"][1]["tool_calls"][0]["function"]["name"], sent[2]["temperature"])
    assert SCHEMA == sent[3]["response_format"]["json_schema"]["schema"]
    found = {line["id"]: line for line in read_lines(cli.work / "x.jsonl")}
    assert (1, True) == (other.code, found["request-1"]["ok"])  # by the demo
    assert "demo/demo accepts no fields of chat/completions: seed." == found["image"]["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"custom_id": 3}, "custom_id is not a text"),
        ({"url": "/v1/embeddings"}, "only requests to POST /v1/chat/completions are supported"),
        ({"body": []}, "body is not an object"),
        ({"messages": "Hi."}, "body.messages is not a list of messages"),
        ({"messages": [{"role": "critic"}]}, "body.messages[0] has no role that is supported"),
        ({"messages": [{**USER, "name": "Ada"}]}, "body.messages[0].name is not supported"),
        ({"messages": [USER, {"role": "system", "content": "x"}]}, "body.messages[1] is a system message"),
        (
            {"messages": [USER, {"role": "assistant", "content": "x"}]},
            "the last message is not from the user",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "has the type 'file'; only text"),
        ({"n": 2}, "body.n is not supported: an item has one answer"),
        ({"stream": True}, "body.stream is not supported"),
        ({"logprobs": True}, "body.logprobs is not supported: a result has no log probabilities"),
        ({"modalities": ["text", "audio"]}, "body.modalities is not supported: a result has only text"),
        ({"response_format": {"type": "xml"}}, "body.response_format has no type that is supported"),
        ({"response_format": {"type": "json_schema"}}, "body.response_format.json_schema has no schema"),
        ({"temperature": "hot"}, "body.temperature is not a number from 0"),
        ({"max_tokens": 0}, "the token limit of body is not a whole number from 1"),
        ({"model": ["m"]}, "body.model is not a text"),
    ],
)
def test_what_cannot_be_honoured(fields: dict[str, Any], reason: str) -> None:
    """A request with anything that a run does not support is a bad line with the reason."""
    outer = {name: fields[name] for name in ("custom_id", "url", "body") if name in fields}
    inner = {name: value for name, value in fields.items() if name not in outer}
    body = {"model": "m", "messages": [USER], **inner}
    with pytest.raises(ValueError, match=re.escape(reason)):
        openai_item({"custom_id": "a", "body": body, **outer}, 1)
