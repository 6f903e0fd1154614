"""Tools ask the user for values, to open an address, and to ask the model: `tinyagent.interaction`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tinyagent.testing import FakeReply, FakeServer

from .conftest import Cli, Terminal
from .test_chat import _chat

ASKING = """
from tinyagent import tool
from tinyagent.interaction import CompletionRequest, Form, Link, current_interaction

FIELDS = {
    "seat": {"type": "string", "description": "Your \\x1b[31mseat", "minLength": 2},
    "meal": {"type": "string", "enum": ["v", "m"], "enumNames": ["Veg", "Meat"]},
    "extras": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}},
    "count": {"type": "integer", "minimum": 1, "default": 3},
    "price": {"type": "number", "maximum": 9},
    "sure": {"type": "boolean"},
}
SCHEMA = {"type": "object", "properties": FIELDS, "required": ["seat", "sure"]}

def shown(answer):
    return f"{answer.accepted} {answer.values} {answer.reason}"

@tool(read_only=True)
async def book(message: str = "Choose\\x1b[2J a seat\\n[y] yes  [n] no: ", fields: bool = True) -> str:
    "Book a seat."
    schema = SCHEMA if fields else {"type": "object", "properties": {}}
    return shown(await current_interaction().fill_in(Form(source="the desk", message=message, schema=schema)))

@tool(read_only=True)
async def link() -> str:
    "Open an address."
    url = "https://a.example/\\u202e"
    return shown(await current_interaction().open_link(Link(source="the desk", message="Sign in", url=url)))

@tool(read_only=True)
async def think(times: int = 1) -> str:
    "Ask the model."
    user = {"role": "user", "content": [{"type": "text", "text": "2 + 2?"}], "timestamp": 0}
    request = CompletionRequest(source="the desk", messages=[user], max_tokens=50, wants_context=True,
                                system_prompt="Be brief")
    replies = [await current_interaction().complete(request) for _ in range(times)]
    return " ".join(f"{reply.text} {reply.reason}" for reply in replies)

@tool(read_only=True)
async def check() -> str:
    "Say whether it can ask."
    return str(current_interaction())
"""


@pytest.fixture
def ask(cli: Cli, serve: Callable[..., FakeServer]) -> Callable[..., tuple[Terminal, FakeServer]]:
    """Starts a run on a terminal whose model calls one tool."""
    cli.file("asking.py", ASKING)

    def start(tool: str, *more: FakeReply, **arguments: object) -> tuple[Terminal, FakeServer]:
        server = serve(FakeReply.tool_calls((tool, arguments)), *more, FakeReply.text("Done."))
        return cli.on_terminal("run", "-m", "local/m", "-t", "./asking.py", "Go"), server

    return start


def told(server: FakeServer) -> str:
    """Return what the model got as the result of the tool."""
    return str(server.requests[-1].json["messages"][-1]["content"])


def test_values_are_asked_one_by_one(ask: Callable[..., tuple[Terminal, FakeServer]]) -> None:
    """Each value is checked before the next; at the end the user sees what is sent. Nothing foreign acts."""
    terminal, server = ask("book")
    terminal.expect("The desk asks you for values:\r\n  │ Choose⟨\\x1b⟩[2J a seat\r\n  │ [y] yes")
    terminal.expect("  seat - Your \\x1b[31mseat: a text\r\n")
    terminal.expect("  meal: one of: 1 Veg, 2 Meat (optional)")
    terminal.expect("Only the desk gets the values. Do not type passwords or keys.")
    terminal.expect("Answer it? [y] yes  [n] no: ")
    terminal.type("y\n")
    for question, typed, problem in (
        ("seat: ", "a", "shorter than 2 characters"),
        ("seat: ", "Ab", None),
        ("meal (one of: 1 Veg, 2 Meat) [none]: ", "3", "Type the number of a choice"),
        ("meal (one of: 1 Veg, 2 Meat) [none]: ", "2", None),
        ("extras (some of: 1 a, 2 b) [none]: ", "1, b", None),
        ("count [3]: ", "0", "minimum"),
        ("count [3]: ", "x", "Type a whole number"),
        ("count [3]: ", "", None),
        ("price [none]: ", "nan", "Type a number"),
        ("price [none]: ", "", None),
        ("sure: ", "perhaps", "Type yes or no"),
        ("sure: ", "", "A value is needed"),
        ("sure: ", "yes", None),
    ):
        terminal.expect(f"\n{question}")
        terminal.shown = b""
        terminal.type(f"{typed}\n")
        if problem is not None:
            terminal.expect(problem)
    terminal.expect('Send {"seat": "Ab", "meal": "m", "extras": ["a", "b"], "count": 3, "sure": true}')
    terminal.type("y\n")
    assert 0 == terminal.end()
    values = "{'seat': 'Ab', 'meal': 'm', 'extras': ['a', 'b'], 'count': 3, 'sure': True}"
    assert f"True {values} " == told(server)


@pytest.mark.parametrize("answers", [["n"], ["y", "\x04"], ["\n"]])
def test_a_form_is_declined(ask: Callable[..., tuple[Terminal, FakeServer]], answers: list[str]) -> None:
    """`n`, Ctrl-D at a value, and anything but yes decline it."""
    terminal, server = ask("book")
    terminal.expect("[n] no: ")
    terminal.expect("Answer it? [y] yes  [n] no: ")
    terminal.type(f"{answers[0]}\n")
    if len(answers) > 1:
        terminal.expect("\nseat: ")
        terminal.type(answers[1])
    assert 0 == terminal.end()
    assert "False {} " == told(server)


def test_a_question_without_values(ask: Callable[..., tuple[Terminal, FakeServer]]) -> None:
    """A form without fields is a question for yes or no."""
    terminal, server = ask("book", message="Really?", fields=False)
    terminal.expect("The desk asks you:\r\n  │ Really?\r\nOnly the desk is told.\r\n[y] yes  [n] no: ")
    terminal.type("y\n")
    assert 0 == terminal.end()
    assert "True {} " == told(server)


def test_a_long_message_can_be_viewed(ask: Callable[..., tuple[Terminal, FakeServer]]) -> None:
    """`y` alone does not accept a message of which a part is hidden."""
    terminal, server = ask("book", message="x" * 20_000 + "\nend", fields=False)
    terminal.expect("Not all of it is shown. [v] view it  [yes] go on anyway  [n] no: ")
    terminal.type("y\n")
    terminal.expect("[v] view it all")
    terminal.type("n\n")
    assert 0 == terminal.end()
    assert "False {} " == told(server)


def test_an_address_is_shown(ask: Callable[..., tuple[Terminal, FakeServer]]) -> None:
    """The user opens it; characters that could disguise it are visible."""
    terminal, server = ask("link")
    terminal.expect("The desk asks you to open an address in your browser:\r\n  │ Sign in\r\n")
    terminal.expect("  https://a.example/\\u202e\r\n")
    terminal.expect("[y] I have opened it, go on  [n] no: ")
    terminal.type("y\n")
    assert 0 == terminal.end()
    assert "True {} " == told(server)


def test_the_model_is_asked(ask: Callable[..., tuple[Terminal, FakeServer]]) -> None:
    """The user sees the question and the reply. The request has no messages of the run."""
    terminal, server = ask("think", FakeReply.text("four"))
    terminal.expect(
        "The desk wants to ask local/m for at most 50 tokens:\r\n  │ System prompt:\r\n  │ Be brief"
    )
    terminal.expect("It has also asked for this conversation, and does not get it.")
    terminal.type("y\n")
    terminal.expect("The reply of local/m:\r\n  │ four\r\nSend it to the desk? [y] yes  [n] no: ")
    terminal.type("y\n")
    assert 0 == terminal.end()
    assert "The desk asked the model local/m." in terminal.shown.decode()
    assert "four " == told(server)
    request = server.requests[1].json
    assert [("system", "Be brief"), ("user", "2 + 2?")] == [
        (message["role"], message["content"]) for message in request["messages"]
    ]
    assert 50 in (request.get("max_tokens"), request.get("max_completion_tokens"))


def test_a_reply_is_not_sent(ask: Callable[..., tuple[Terminal, FakeServer]]) -> None:
    """The user may keep it, or refuse the question."""
    terminal, server = ask("think", FakeReply.text("four"))
    terminal.expect("[n] no: ")
    terminal.type("y\n")
    terminal.expect("Send it to the desk?")
    terminal.type("n\n")
    assert 0 == terminal.end()
    assert "None " == told(server)


def test_the_model_is_always_asked(ask: Callable[..., tuple[Terminal, FakeServer]]) -> None:
    """`a` asks no more in this run, for this source."""
    terminal, server = ask("think", FakeReply.text("four"), FakeReply.text("five"), times=2)
    terminal.expect("[a] always for the desk in this run")
    terminal.type("a\n")
    assert 0 == terminal.end()
    assert "four  five " == told(server)


def test_the_budget_holds(cli: Cli, serve: Callable[..., FakeServer]) -> None:
    """With a limit of tokens, the model is asked until the replies have used it."""
    cli.file("asking.py", ASKING)
    usage = {"prompt_tokens": 60, "completion_tokens": 60, "total_tokens": 120}
    server = serve(
        FakeReply.tool_calls(("think", {"times": 2})),
        FakeReply.text("four", usage=usage),
        FakeReply.text("Done."),
    )
    run = ("run", "-m", "local/m", "-t", "./asking.py", "--max-total-tokens", "100", "Go")
    terminal = cli.on_terminal(*run)
    terminal.expect("[a] always for the desk in this run")
    terminal.type("a\n")
    terminal.end()
    assert "four  None the limit of 100 tokens is reached" == told(server)


@pytest.mark.parametrize(
    ("tool", "words"), [("book", "for values"), ("link", "to open"), ("think", "for a reply")]
)
def test_without_a_terminal_it_is_declined(
    cli: Cli, serve: Callable[..., FakeServer], tool: str, words: str
) -> None:
    """The tool gets the reason, and the user a note."""
    cli.file("asking.py", ASKING)
    server = serve(FakeReply.tool_calls((tool, {})), FakeReply.text("Done."))
    done = cli("run", "-m", "local/m", "-t", "./asking.py", "Go")
    assert 0 == done.code
    assert f"The desk asked you {words}" in done.err
    assert "declined, because there is no terminal to ask the user on" in done.err
    assert "there is no terminal to ask the user on" in told(server)


def test_a_chat_asks_above_its_prompt(cli: Cli, serve: Callable[..., FakeServer]) -> None:
    """The question has the terminal, and the prompt comes back."""
    cli.file("asking.py", ASKING)
    server = serve(
        FakeReply.tool_calls(("book", {"message": "Really?", "fields": False})), FakeReply.text("Done.")
    )
    terminal = _chat(cli, "-t", "./asking.py")
    terminal.type("Go\r")
    terminal.expect("The desk asks you:")
    terminal.type("y\n")
    terminal.expect("Done.")
    terminal.expect_prompt()
    assert "True {} " == told(server)
    terminal.type("\x04")
    assert 0 == terminal.end()


def test_a_tool_call_without_a_model(cli: Cli) -> None:
    """`tools call` asks on the terminal, too; there is no model to ask."""
    cli.file("asking.py", ASKING)
    terminal = cli.on_terminal("tools", "call", "./asking.py:book", "fields=false")
    terminal.expect("The desk asks you:")
    terminal.type("y\n")
    assert 0 == terminal.end()
    assert "True {}" in terminal.shown.decode()
    assert "there is no model in this command" in cli("tools", "call", "./asking.py:think").out


def test_clients_and_batches_cannot_be_asked(cli: Cli, serve: Callable[..., FakeServer]) -> None:
    """In `rpc` and in a batch, a tool finds that it cannot ask."""
    cli.file("asking.py", ASKING)
    server = serve(FakeReply.tool_calls(("check", {})), FakeReply.text("Done."))
    line = json.dumps({"type": "prompt", "message": "Go"}).encode()
    assert 0 == cli("rpc", "-m", "local/m", "-t", "./asking.py", stdin=line).code
    assert "None" == told(server)
