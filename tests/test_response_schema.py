"""`response_schema` in the requests of each protocol, and what happens if a server refuses it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tinyagent import (
    Agent,
    AgentOptions,
    AgentTool,
    Context,
    ThinkingLevel,
    anthropic_provider,
    openai_wire,
    responses_provider,
)
from tinyagent._stream import response_schema
from tinyagent.agent_types import Model, SimpleStreamOptions
from tinyagent.anthropic_provider import ANSWER_TOOL, AnthropicModel, stream_anthropic
from tinyagent.errors import ProviderError
from tinyagent.openai_wire import OpenAICompatModel, stream_openai_completions
from tinyagent.proxy import stream_proxy
from tinyagent.responses_provider import OpenAIResponsesModel, stream_openai_responses
from tinyagent.testing import AnthropicWire, FakeReply, FakeServer, ResponsesWire, collect, user
from tinyagent.testing.server import chat_chunk

SCHEMA = {
    "title": "A point!",
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0}, "y": {"type": "number"}},
    "required": ["x"],
}
STRICT = {
    "title": "A point!",
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0}, "y": {"type": ["number", "null"]}},
    "required": ["x", "y"],
    "additionalProperties": False,
}
FOR_CLAUDE = {
    "title": "A point!",
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"type": "number"}},
    "required": ["x"],
    "additionalProperties": False,
}
OPTIONS: SimpleStreamOptions = {"api_key": "sk-test", "response_schema": SCHEMA}
TOOL = AgentTool("look", "Look.")


@pytest.fixture(autouse=True)
def forget_refusals() -> Iterator[None]:
    """What a server of another test has refused says nothing about the next one."""
    response_schema._refused.clear()
    yield
    response_schema._refused.clear()


def claude_calls(text: str = "") -> FakeReply:
    """A reply of the Messages API: a text, and a call of the answer tool in two deltas."""
    wire = AnthropicWire()
    answer: Any = {"type": "tool_call", "id": "toolu_1", "name": ANSWER_TOOL, "arguments": {"x": 1}}
    blocks: list[Any] = [*([{"type": "text", "text": text}] if text else []), answer]
    return FakeReply([*wire.begin(), *wire.say(blocks), *wire.end("tool_use", {})])


def responses_say(text: str) -> FakeReply:
    """A reply of the Responses API."""
    wire = ResponsesWire()
    return FakeReply([*wire.begin(), *wire.say([{"type": "text", "text": text}]), *wire.end("stop", {})])


def context(*tools: AgentTool) -> Context:
    return Context("Be brief.", [user("Hi")], list(tools))


# ---- chat/completions ---------------------------------------------------------------------------------


def chat(model: str = "gpt-4.1", provider: str = "openai", **fields: Any) -> OpenAICompatModel:
    return OpenAICompatModel(provider=provider, id=model, base_url="http://127.0.0.1:1/v1", **fields)


def test_chat_requests_have_a_strict_response_format() -> None:
    """The name comes from the title, in letters that OpenAI accepts. The system prompt stays as it is."""
    body = openai_wire.chat_request(chat(), context(TOOL), OPTIONS)
    wanted = {"name": "A_point", "schema": STRICT, "strict": True}
    assert {"type": "json_schema", "json_schema": wanted} == body["response_format"]
    assert {"role": "system", "content": "Be brief."} == body["messages"][0]  # type: ignore[index]
    assert "tools" in body


def test_a_schema_without_a_strict_form_is_sent_as_a_hint() -> None:
    """An object with any keys."""
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    body = openai_wire.chat_request(chat(), context(), {"response_schema": schema})
    wanted = {"name": "answer", "schema": schema, "strict": False}
    assert {"type": "json_schema", "json_schema": wanted} == body["response_format"]


@pytest.mark.parametrize(("provider", "sent"), [("deepseek", {"type": "json_object"}), ("minimax", None)])
def test_servers_without_schemas_get_instructions(provider: str, sent: Any) -> None:
    """The schema is in the system prompt, after that of the agent."""
    body = openai_wire.chat_request(chat("m", provider), context(), OPTIONS)
    assert sent == body.get("response_format")
    prompt = body["messages"][0]["content"]  # type: ignore[index]
    assert prompt.startswith("Be brief.\n\nGive your final answer as JSON")
    assert json.loads(prompt.splitlines()[-1]) == SCHEMA


def test_the_users_own_response_format_wins() -> None:
    """`extra_body` is merged last."""
    own = {"type": "text"}
    body = openai_wire.chat_request(chat(extra_body={"response_format": own}), context(), OPTIONS)
    assert own == body["response_format"]


REFUSALS = [
    "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
    "This model does not support response format `json_schema`.",
    "Invalid schema for response_format 'answer': In context=(), 'oneOf' is not permitted.",
    "json mode cannot be combined with tool/function calling",
    "Cannot use custom grammar constraints with tools.",
    "Function calling with a response mime type: 'application/json' is unsupported",
]


@pytest.mark.parametrize("text", REFUSALS)
async def test_a_refused_schema_is_sent_as_instructions(text: str) -> None:
    """The request is repeated once; later ones of the same kind omit the schema at once."""
    notes: list[str] = []
    refusal = FakeReply.json({"error": {"message": text}}, 400)
    with FakeServer(refusal, *[FakeReply.text('{"x": 1}')] * 3) as server:
        model = OpenAICompatModel(provider="local", id="m", base_url=server.url, api_key_env=None)
        options: SimpleStreamOptions = {**OPTIONS, "on_note": notes.append}
        for tools in ([TOOL], [TOOL], []):
            await collect(await stream_openai_completions(model, context(*tools), options))
    first, second, third, fourth = (request.json for request in server.requests)
    assert "response_format" in first
    for later in (second, third):
        assert "response_format" not in later
        assert "JSON Schema" in later["messages"][0]["content"]
    assert "response_format" in fourth  # without tools, the server may accept it
    assert 1 == len(notes)
    assert text.split("'")[0] in notes[0]


async def test_parallel_refusals_are_all_repeated() -> None:
    """The second request was sent before the first one was refused."""
    refusal = FakeReply.json({"error": {"message": REFUSALS[0]}}, 400)
    with FakeServer(refusal, FakeReply.text("{}"), refusal, FakeReply.text("{}")) as server:
        model = OpenAICompatModel(provider="local", id="m", base_url=server.url, api_key_env=None)
        await collect(await stream_openai_completions(model, context(), OPTIONS))
        response_schema._refused.clear()  # as if both had been sent before the refusal
        await collect(await stream_openai_completions(model, context(), OPTIONS))
    assert 4 == len(server.requests)


@pytest.mark.parametrize(("status", "text"), [(400, "unknown model"), (401, REFUSALS[0])])
async def test_other_errors_are_not_repeated(status: int, text: str) -> None:
    """Nor is a refusal of the user's own `response_format`."""
    refusal = FakeReply.json({"error": {"message": text}}, status)
    with FakeServer(refusal) as server:
        model = OpenAICompatModel(provider="local", id="m", base_url=server.url, api_key_env=None)
        with pytest.raises(Exception, match=text.split("'")[0]):
            await stream_openai_completions(model, context(), OPTIONS)
    with FakeServer(FakeReply.json({"error": {"message": REFUSALS[0]}}, 400)) as server:
        model = OpenAICompatModel(
            provider="local",
            id="m",
            base_url=server.url,
            api_key_env=None,
            extra_body={"response_format": {}},
        )
        with pytest.raises(ProviderError, match="response_format"):
            await stream_openai_completions(model, context(), OPTIONS)


async def test_a_refusal_of_the_model_is_marked() -> None:
    """OpenAI sends it in a field of its own, with the finish reason `stop`."""
    reply = FakeReply.chunks(chat_chunk({"refusal": "I will not."}), chat_chunk({}, "stop"))
    with FakeServer(reply) as server:
        model = OpenAICompatModel(provider="local", id="m", base_url=server.url, api_key_env=None)
        message = await (await stream_openai_completions(model, context(), OPTIONS)).result()
    assert (True, "I will not.") == (message["refusal"], message["content"][0]["text"])  # type: ignore[typeddict-item]


# ---- the Responses API ------------------------------------------------------------------------------


def test_responses_requests_have_a_text_format() -> None:
    """The user's own fields of `text` are merged."""
    model = OpenAIResponsesModel(id="gpt-5", extra_body={"text": {"verbosity": "low"}})
    body = responses_provider.request_body(model, context(TOOL), OPTIONS)
    wanted = {"type": "json_schema", "name": "A_point", "schema": STRICT, "strict": True}
    assert {"format": wanted, "verbosity": "low"} == body["text"]
    assert "Be brief." == body["instructions"]


async def test_responses_requests_fall_back_to_instructions() -> None:
    """A server that does not know `text.format`."""
    refusal = FakeReply.json({"error": {"message": "Unknown parameter: 'text.format'"}}, 400)
    with FakeServer(refusal, responses_say('{"x": 1}')) as server:
        model = OpenAIResponsesModel(id="m", base_url=server.url, api_key_env=None)
        await collect(await stream_openai_responses(model, context(), OPTIONS))
    first, second = (request.json for request in server.requests)
    assert "format" in first["text"]
    assert "text" not in second
    assert "JSON Schema" in second["instructions"]


# ---- Anthropic ----------------------------------------------------------------------------------------


def messages_body(model: str, *tools: AgentTool, **options: Any) -> dict[str, Any]:
    given: SimpleStreamOptions = {**OPTIONS, **options}  # type: ignore[typeddict-item]
    return anthropic_provider.request_body(AnthropicModel(id=model), context(*tools), given)


def test_claude_has_structured_output_since_4_5() -> None:
    """With an effort, both are in `output_config`. Tools are not changed."""
    body = messages_body("claude-sonnet-4-5", TOOL)
    assert {"format": {"type": "json_schema", "schema": FOR_CLAUDE}} == body["output_config"]
    assert ["look"] == [tool["name"] for tool in body["tools"]]
    assert "tool_choice" not in body
    body = messages_body("claude-opus-4-6", thinking_level=ThinkingLevel.LOW)
    assert {"effort", "format"} == set(body["output_config"])


@pytest.mark.parametrize("model", ["claude-3-5-haiku-20241022", "claude-opus-4-1", "some-model"])
def test_other_models_give_the_answer_by_a_tool(model: str) -> None:
    """The call is forced; with other tools, the model must call one of them."""
    body = messages_body(model)
    assert [ANSWER_TOOL] == [tool["name"] for tool in body["tools"]]
    assert SCHEMA == body["tools"][0]["input_schema"]
    assert {"type": "tool", "name": ANSWER_TOOL} == body["tool_choice"]
    assert {"type": "any"} == messages_body(model, TOOL)["tool_choice"]
    assert 1 == len(body["system"])


def test_a_model_that_thinks_is_not_forced() -> None:
    """The API refuses a forced call of a model that thinks, so the system prompt asks for the answer."""
    body = messages_body("claude-3-7-sonnet-20250219", thinking_level=ThinkingLevel.LOW)
    assert "tool_choice" not in body
    assert [ANSWER_TOOL] == [tool["name"] for tool in body["tools"]]
    assert "JSON Schema" in body["system"][1]["text"]


@pytest.mark.parametrize("before", ["", "Here you are:"])
async def test_the_call_of_the_answer_tool_is_the_text_of_the_reply(before: str) -> None:
    """No tool runs. The history has the answer as text."""
    with FakeServer(claude_calls(before)) as server:
        model = AnthropicModel(id="claude-3-5-haiku-latest", base_url=server.url, api_key_env=None)
        agent = Agent(AgentOptions(stream_fn=stream_anthropic, initial_state={"model": model}))
        assert {"x": 1} == await agent.prompt_as(SCHEMA, "Hi")
    message: Any = agent.state["messages"][-1]
    assert "stop" == message["stop_reason"]
    assert {"x": 1} == json.loads(message["content"][-1]["text"])
    assert {"text"} == {block["type"] for block in message["content"]}


async def test_a_schema_that_claude_refuses_becomes_a_tool() -> None:
    """Such as one that is too complex."""
    refusal = FakeReply.json({"error": {"message": "output_config.format: Schema is too complex"}}, 400)
    with FakeServer(refusal, claude_calls()) as server:
        model = AnthropicModel(id="claude-sonnet-4-5", base_url=server.url, api_key_env=None)
        agent = Agent(AgentOptions(stream_fn=stream_anthropic, initial_state={"model": model}))
        assert {"x": 1} == await agent.prompt_as(SCHEMA, "Hi")
    first, second = (request.json for request in server.requests)
    assert ("output_config" in first, "output_config" in second) == (True, False)
    assert {"type": "tool", "name": ANSWER_TOOL} == second["tool_choice"]


def test_the_rust_provider_gets_instructions_in_place_of_the_tool() -> None:
    """Its decoder does not know the tool."""
    model = AnthropicModel(id="claude-3-5-haiku-latest")
    body, _ = anthropic_provider.request_and_level(model, context(), OPTIONS, answer_tool=False)
    assert "tools" not in body
    assert "JSON Schema" in body["system"][1]["text"]  # type: ignore[index]


# ---- the proxy ------------------------------------------------------------------------------------------


async def test_the_proxy_passes_the_schema_on() -> None:
    """It is in the options of the request."""
    end = {"type": "done", "reason": "stop", "usage": {}}
    with FakeServer(FakeReply.chunks({"type": "start"}, end, done=False)) as server:
        options: Any = {**OPTIONS, "proxy_url": server.url, "auth_token": "t"}
        await collect(await stream_proxy(Model("p", "m", "a"), context(), options))
    assert SCHEMA == server.requests[0].json["options"]["responseSchema"]
