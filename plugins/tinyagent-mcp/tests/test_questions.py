"""Servers ask the user (elicitation) and the model (sampling) through the interaction of the run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tinyagent import Agent, AgentOptions, Model
from tinyagent.interaction import Completion, CompletionRequest, Form, FormAnswer, Interaction, Link
from tinyagent.testing import Reply, ScriptedProvider, call
from tinyagent_mcp import McpServers, ServerConfig
from tinyagent_mcp._forms import UnsupportedFormError, checked_form, checked_values
from tinyagent_mcp._questions import MAX_QUESTIONS, MAX_TOKENS

from .conftest import config
from .test_hostile import HOSTILE

MODEL = Model(provider="scripted", id="scripted", api="scripted")


class User:
    """A user who accepts everything, or what the test wants."""

    def __init__(self, answer: FormAnswer | None = None, reply: Completion | None = None) -> None:
        self.asked: list[Any] = []
        self.answer = answer or FormAnswer(accepted=True, values={"seat": "12A"})
        self.reply = reply or Completion(text="four", model="m")
        self.while_asked: Callable[[], None] = lambda: None
        self.withdrawn = False

    async def fill_in(self, form: Form) -> FormAnswer:
        """Answer a form."""
        self.asked.append(form)
        self.while_asked()
        return self.answer

    async def open_link(self, link: Link) -> FormAnswer:
        """Answer a link."""
        self.asked.append(link)
        return self.answer

    async def complete(self, request: CompletionRequest) -> Completion:
        """Answer as the model."""
        self.asked.append(request)
        return self.reply


class Patient(User):
    """A user who never answers."""

    async def fill_in(self, form: Form) -> FormAnswer:
        """Wait for the withdrawal."""
        self.asked.append(form)
        self.while_asked()
        try:
            await asyncio.Event().wait()
        finally:
            self.withdrawn = True
        raise AssertionError


async def use(server: ServerConfig, tool: str, user: Interaction | None) -> tuple[str, dict[str, Any], bool]:
    """Call a tool in a run. Return its text, its details, and whether it is an error."""
    with McpServers([server]) as servers:
        agent = Agent(
            AgentOptions(
                initial_state={"model": MODEL, "tools": servers.tools()},
                stream_fn=ScriptedProvider(Reply(call(f"t__{tool}")), Reply("Done.")),
                interaction=user,
            )
        )
        await agent.prompt("Go.")
        result: Any = agent.state["messages"][2]
        text = "\n".join(part["text"] for part in result["content"])
        return text, result["details"], result["is_error"]


def hostile(**fields: Any) -> ServerConfig:
    """Return the server without the SDK, which uses the protocol of 2025."""
    return config(**{"command": HOSTILE, **fields})


async def test_a_form_is_answered() -> None:
    """The values go to the server; the record has only that it has asked."""
    user = User()
    text, details, is_error = await use(hostile(), "ask_form", user)
    assert ({"action": "accept", "content": {"seat": "12A"}}, False) == (json.loads(text), is_error)
    [form] = user.asked
    assert ("the MCP server 't'", "Choose\x1b[2J a seat") == (form.source, form.message)
    assert {"seat": {"type": "string"}} == form.schema["properties"]
    assert [{"kind": "elicitation", "outcome": "accepted"}] == details["questions"]


@pytest.mark.parametrize("tool", ["ask_form", "ask_link", "ask_model"])
async def test_without_a_user_it_is_declined(tool: str) -> None:
    """The result says why, for the model and the record."""
    text, details, _ = await use(hostile(), tool, None)
    assert "request was declined: this run cannot ask the user.]" in text
    [asked] = details["questions"]
    assert ("declined", "this run cannot ask the user") == (asked["outcome"], asked["reason"])


async def test_a_user_declines() -> None:
    """The server is told, and there is no other reason."""
    text, details, _ = await use(hostile(), "ask_form", User(FormAnswer(accepted=False)))
    assert {"action": "decline"} == json.loads(text)
    assert [{"kind": "elicitation", "outcome": "declined"}] == details["questions"]


async def test_a_form_that_is_not_permitted() -> None:
    """Nested objects are refused without asking the user."""
    user = User()
    text, _, _ = await use(hostile(), "ask_nested", user)
    assert "a field is not a text, a number, a boolean or a choice" in text
    assert [] == user.asked


async def test_values_that_do_not_fit_are_not_sent() -> None:
    """An application cannot answer with anything else than the form asks for."""
    text, _, _ = await use(hostile(), "ask_form", User(FormAnswer(accepted=True, values={"key": "secret"})))
    assert {"action": "decline"} == json.loads(text.partition("\n")[0])
    assert "the values do not fit its form" in text


async def test_an_address_is_opened_by_the_user() -> None:
    """An address that is not https is declined without asking."""
    user = User(FormAnswer(accepted=True))
    text, _, _ = await use(hostile(), "ask_link", user)
    assert {"action": "accept"} == json.loads(text)
    assert ["https://example.org/in"] == [link.url for link in user.asked]
    text, _, _ = await use(hostile(), "ask_file_link", user)
    assert "its address is not https" in text
    assert 1 == len(user.asked)


async def test_a_call_that_needs_an_address_first_is_repeated() -> None:
    """A server may refuse a call until the user has opened an address; then the call is made again."""
    user = User(FormAnswer(accepted=True))
    text, details, is_error = await use(hostile(), "needs_links", user)
    assert ("signed in, call 3", False) == (text, is_error)
    assert ["https://example.org/in?s=1"] * 2 == [link.url for link in user.asked]
    assert ["accepted", "accepted"] == [entry["outcome"] for entry in details["questions"]]


@pytest.mark.parametrize(
    ("tool", "user", "reason", "asked"),
    [
        ("needs_links", None, "this run cannot ask the user", 0),
        ("needs_links", User(FormAnswer(accepted=False)), "", 1),
        ("needs_links", User(FormAnswer(accepted=False, reason="there is no terminal")), "no terminal", 1),
        ("needs_link_always", User(), f"it is more than {MAX_QUESTIONS} in one tool call", MAX_QUESTIONS),
        ("needs_file_link", User(), "its address is not https", 0),
        ("needs_nothing", User(), "", 0),
    ],
)
async def test_an_address_that_is_not_opened(tool: str, user: User | None, reason: str, asked: int) -> None:
    """The call fails with the server's text and the reason. The model does not get the address."""
    text, _, is_error = await use(hostile(), tool, user)
    assert is_error
    assert text.startswith("t: Sign in first")
    assert reason in text
    assert "example.org" not in text
    assert asked == len(user.asked if user is not None else [])


async def test_the_model_is_asked() -> None:
    """The request has limits and no context of the conversation; the reply goes to the server."""
    user = User()
    text, _, _ = await use(hostile(), "ask_model", user)
    reply = json.loads(text)
    assert ("four", "m", "endTurn") == (reply["content"]["text"], reply["model"], reply["stopReason"])
    [request] = user.asked
    assert (MAX_TOKENS, "Be brief", True) == (
        request.max_tokens,
        request.system_prompt,
        request.wants_context,
    )
    assert ["2 + 2?"] == [part["text"] for message in request.messages for part in message["content"]]
    cut = User(reply=Completion(text="fo", model="m", is_complete=False))
    text, _, _ = await use(hostile(), "ask_model", cut)
    assert "maxTokens" == json.loads(text)["stopReason"]
    refused = User(reply=Completion(text=None, reason="the budget is reached"))
    text, _, _ = await use(hostile(), "ask_model", refused)
    assert "The user declined the request: the budget is reached." in text


async def test_a_server_that_asks_again_and_again() -> None:
    """After some questions in one call, the rest are declined."""
    user = User()
    text, _, _ = await use(hostile(), "ask_loop", user)
    assert str(MAX_QUESTIONS) == text.partition("\n")[0]
    assert MAX_QUESTIONS == len(user.asked)
    assert f"it is more than {MAX_QUESTIONS} in one tool call" in text


async def test_a_server_that_dies_while_the_user_is_asked(tmp_path: Path) -> None:
    """The question is withdrawn, and the call fails."""
    user, go = Patient(), tmp_path / "go"
    user.while_asked = go.touch
    text, _, is_error = await use(hostile(env={"TEST_GO": str(go)}), "ask_and_die", user)
    assert is_error
    assert "ended before it had answered 'ask_and_die'" in text
    assert user.withdrawn


async def test_a_question_ends_with_its_call() -> None:
    """A server that does not wait for the answer leaves no question open."""
    user = Patient()
    text, _, is_error = await use(hostile(), "ask_and_go_on", user)
    assert ("did not wait", False) == (text, is_error)


async def test_what_is_switched_off_is_refused() -> None:
    """`elicitation = false` and `sampling = false` are not offered to the server."""
    user = User()
    server = hostile(elicitation=False, sampling=False, roots=[])
    text, _, _ = await use(server, "requests", user)
    assert "-32601 -32601 -32601 -32601 pong" == text
    assert [] == user.asked


@pytest.mark.parametrize("tool", ["seat", "sum", "endless"])
async def test_the_protocol_of_2026(tool: str) -> None:
    """There a question is the result of a call, which is then repeated with the answers."""
    user = User()
    text, details, is_error = await use(config(), tool, user)
    match tool:
        case "seat":
            assert ("accept 12A", False) == (text, is_error)
        case "sum":
            assert ("four", False) == (text, is_error)
        case "endless":
            assert is_error
            assert "asks again and again" in text
            return
    assert ["accepted"] == [entry["outcome"] for entry in details["questions"]]


FIELDS: dict[str, Any] = {
    "text": {"type": "string", "minLength": 2, "pattern": "(a+)+$", "title": "T", "x": 1},
    "one": {"type": "string", "oneOf": [{"const": "a", "title": "A"}, {"const": "b", "title": "B"}]},
    "old": {"type": "string", "enum": ["a"], "enumNames": ["A"]},
    "some": {"type": "array", "items": {"anyOf": [{"const": "a", "title": "A"}]}, "maxItems": 1},
    "count": {"type": "integer", "minimum": 1, "default": 3},
    "sure": {"type": "boolean", "default": True},
}


def test_a_form_is_reduced_to_what_is_permitted() -> None:
    """Rules that are not in the protocol are left out, such as patterns, which can be slow."""
    schema = checked_form({"type": "object", "properties": FIELDS, "required": ["text", "nope"]})
    assert {
        "text": {"type": "string", "minLength": 2, "title": "T"},
        "one": {"type": "string", "enum": ["a", "b"], "enumNames": ["A", "B"]},
        "old": {"type": "string", "enum": ["a"], "enumNames": ["A"]},
        "some": {
            "type": "array",
            "items": {"type": "string", "enum": ["a"], "enumNames": ["A"]},
            "uniqueItems": True,
            "maxItems": 1,
        },
        "count": {"type": "integer", "minimum": 1, "default": 3},
        "sure": {"type": "boolean", "default": True},
    } == schema["properties"]
    assert ["text"] == schema["required"]
    assert checked_values(schema, {"text": "ab", "one": "b", "some": ["a"], "count": 1}) is None
    for wrong in ({}, {"text": "a"}, {"text": "ab", "one": "c"}, {"text": "ab", "more": 1}):
        assert checked_values(schema, wrong) is not None


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "object", "properties": {str(number): {"type": "string"} for number in range(31)}},
        {"type": "object", "properties": {"a": "string"}},
        {"type": "object", "properties": {"a": {"type": "object"}}},
        {"type": "object", "properties": {"a": {"type": ["string", "null"]}}},
        {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}}}},
        {"type": "object", "properties": {"a": {"type": "string", "enum": [1]}}},
        {"type": "object", "properties": {"a": {"type": "string", "enum": [str(n) for n in range(101)]}}},
    ],
)
def test_forms_that_are_refused(schema: dict[str, Any]) -> None:
    """A form is a flat object with a limited number of fields and choices."""
    with pytest.raises(UnsupportedFormError):
        checked_form(schema)
