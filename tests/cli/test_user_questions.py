"""Tools ask the user for values, to open an address, and to ask the model: `tinyagent.interaction`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tinyagent.testing import FakeReply, FakeServer

from .conftest import ROOT, SECONDS, Cli, Serve, Terminal, tool_result
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
def ask(cli: Cli, serve: Serve) -> Callable[..., tuple[Terminal, FakeServer]]:
    """Starts a run on a terminal whose model calls one tool."""
    cli.file("asking.py", ASKING)

    def start(tool: str, *more: FakeReply, **arguments: object) -> tuple[Terminal, FakeServer]:
        server = serve(FakeReply.tool_calls((tool, arguments)), *more, FakeReply.text("Done."))
        return cli.on_terminal("run", "-m", "local/m", "-t", "./asking.py", "Go"), server

    return start


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
    assert f"True {values} " == tool_result(server)


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
    assert "False {} " == tool_result(server)


def test_a_question_without_values(ask: Callable[..., tuple[Terminal, FakeServer]]) -> None:
    """A form without fields is a question for yes or no."""
    terminal, server = ask("book", message="Really?", fields=False)
    terminal.expect(
        "The desk asks you:\r\n  │ Really?\r\nOnly the desk gets the answer.\r\n[y] yes  [n] no: "
    )
    terminal.type("y\n")
    assert 0 == terminal.end()
    assert "True {} " == tool_result(server)


def test_a_long_message_can_be_viewed(ask: Callable[..., tuple[Terminal, FakeServer]]) -> None:
    """`y` alone does not accept a message of which a part is hidden."""
    terminal, server = ask("book", message="x" * 20_000 + "\nend", fields=False)
    terminal.expect("Not all of it is shown. [v] view it  [yes] go on anyway  [n] no: ")
    terminal.type("y\n")
    terminal.expect("[v] view it all")
    terminal.type("n\n")
    assert 0 == terminal.end()
    assert "False {} " == tool_result(server)


def test_an_address_is_shown(ask: Callable[..., tuple[Terminal, FakeServer]]) -> None:
    """The user opens it; characters that could disguise it are visible."""
    terminal, server = ask("link")
    terminal.expect("The desk asks you to open an address in your browser:\r\n  │ Sign in\r\n")
    terminal.expect("  https://a.example/\\u202e\r\n")
    terminal.expect("[y] I have opened it, go on  [n] no: ")
    terminal.type("y\n")
    assert 0 == terminal.end()
    assert "True {} " == tool_result(server)


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
    assert "four " == tool_result(server)
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
    assert "None " == tool_result(server)


def test_the_model_is_always_asked(ask: Callable[..., tuple[Terminal, FakeServer]]) -> None:
    """`a` asks no more in this run, for this source."""
    terminal, server = ask("think", FakeReply.text("four"), FakeReply.text("five"), times=2)
    terminal.expect("[a] always for the desk in this run")
    terminal.type("a\n")
    assert 0 == terminal.end()
    assert "four  five " == tool_result(server)


def test_the_budget_holds(cli: Cli, serve: Serve) -> None:
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
    assert "four  None the limit of 100 tokens is reached" == tool_result(server)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the workers of xdist leave the terminal")
def test_tests_have_no_terminal(cli: Cli) -> None:
    """Tests that are started on a terminal do not wait for answers on it."""
    code = "import os, tests.conftest; os.open('/dev/tty', os.O_RDWR)"
    command = ["sh", "-c", f'cd "{ROOT}"; "{sys.executable}" -c "{code}"; echo "exit code $?"']
    terminal = cli.on_terminal(program=command)
    terminal.expect("exit code 1")
    assert "No such device or address: '/dev/tty'" in terminal.shown.decode()
    assert 0 == terminal.end()


@pytest.mark.parametrize(
    ("tool", "words"), [("book", "for values"), ("link", "to open"), ("think", "for a reply")]
)
def test_without_a_terminal_it_is_declined(cli: Cli, serve: Serve, tool: str, words: str) -> None:
    """The tool gets the reason, and the user a note."""
    cli.file("asking.py", ASKING)
    server = serve(FakeReply.tool_calls((tool, {})), FakeReply.text("Done."))
    done = cli("run", "-m", "local/m", "-t", "./asking.py", "Go")
    assert 0 == done.code
    assert f"The desk asked you {words}" in done.err
    assert "declined, because there is no terminal to ask the user on" in done.err
    assert "there is no terminal to ask the user on" in tool_result(server)


def test_a_chat_asks_above_its_prompt(cli: Cli, serve: Serve) -> None:
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
    assert "True {} " == tool_result(server)
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


def test_a_batch_cannot_ask(cli: Cli, serve: Serve) -> None:
    """There a tool finds that it cannot ask."""
    cli.file("asking.py", ASKING)
    server = serve(FakeReply.tool_calls(("check", {})), FakeReply.text("Done."))
    cli.file("prompts.txt", "Go\n")
    done = cli(
        "batch", "--lines", "prompts.txt", "-o", "out.jsonl", "-q", "-m", "local/m", "-t", "./asking.py"
    )
    assert 0 == done.code, done.err
    assert "None" == tool_result(server)


def rpc(cli: Cli, *answers: dict[str, object]) -> list[dict[str, Any]]:
    """Run a tool that asks the client of `rpc`, and answer its questions in order. Return all lines."""
    process = cli.start(
        "rpc", "-m", "local/m", "-t", "./asking.py", stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    lines: list[dict[str, Any]] = []

    def send(command: dict[str, object]) -> None:
        process.stdin.write(json.dumps(command).encode() + b"\n")
        process.stdin.flush()

    send({"type": "prompt", "message": "Go", "id": "p", "answers_input": True})
    waiting, request = list(answers), ""
    for line in process.stdout:
        lines.append(json.loads(line))
        request = lines[-1].get("request", request)
        asks = lines[-1]["type"] == "input_request" or lines[-1].get("success") is False
        if asks and waiting:
            send({"type": "respond", "request": request, **waiting.pop(0)})
        elif asks or lines[-1]["type"] == "result":
            process.stdin.close()  # a question that is open then has no answer
        if lines[-1]["type"] == "result":
            break
    assert 0 == process.wait(SECONDS)
    return lines


def test_a_client_that_answers_no_questions(cli: Cli, serve: Serve) -> None:
    """Without `answers_input` in the prompt nothing is asked, so that no run waits for ever."""
    cli.file("asking.py", ASKING)
    server = serve(FakeReply.tool_calls(("book", {})), FakeReply.text("Done."))
    line = json.dumps({"type": "prompt", "message": "Go"}).encode()
    done = cli("rpc", "-m", "local/m", "-t", "./asking.py", stdin=line)
    assert [] == asked(done.lines)
    assert "the client of this run does not ask the user" in tool_result(server)


def asked(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the questions to a client."""
    return [line for line in lines if line["type"] == "input_request"]


def test_a_client_fills_in_a_form(cli: Cli, serve: Serve) -> None:
    """It gets the schema; values that do not fit are refused, and it may answer again."""
    cli.file("asking.py", ASKING)
    server = serve(FakeReply.tool_calls(("book", {})), FakeReply.text("Done."))
    good = {"seat": "12A", "sure": True}
    lines = rpc(cli, {"accept": True, "values": {"seat": "x"}}, {"accept": True, "values": good})
    [request] = asked(lines)
    assert ("form", "the desk", "p", "input-1") == tuple(
        request[key] for key in ("kind", "source", "id", "request")
    )
    assert ["seat", "sure"] == request["schema"]["required"]
    [refused] = [line for line in lines if line.get("success") is False]
    assert "do not fit the schema of the form" in refused["error"]
    assert f"True {good} " == tool_result(server)


@pytest.mark.parametrize(
    ("tool", "result"), [("book", "False {} "), ("link", "False {} "), ("think", "None ")]
)
def test_a_client_declines(cli: Cli, serve: Serve, tool: str, result: str) -> None:
    """The tool gets no values and no other reason."""
    cli.file("asking.py", ASKING)
    server = serve(FakeReply.tool_calls((tool, {})), FakeReply.text("Done."))
    rpc(cli, {"accept": False, "values": {"ignored": 1}})
    assert result == tool_result(server)


def test_a_client_lets_the_model_be_asked(cli: Cli, serve: Serve) -> None:
    """It sees the prompt and the reply."""
    cli.file("asking.py", ASKING)
    server = serve(FakeReply.tool_calls(("think", {})), FakeReply.text("four"), FakeReply.text("Done."))
    completion, reply = asked(rpc(cli, {"accept": True}, {"accept": True}))
    assert ("completion", 50) == (completion["kind"], completion["max_tokens"])
    assert "System prompt:\nBe brief\nUser:\n2 + 2?" == completion["message"]
    assert ("reply", "four") == (reply["kind"], reply["message"])
    assert "four " == tool_result(server)


@pytest.mark.parametrize("tool", ["book", "link", "think"])
def test_a_client_that_leaves_declines(cli: Cli, serve: Serve, tool: str) -> None:
    """At the end of its input, an open question has no answer, and the run goes on."""
    cli.file("asking.py", ASKING)
    server = serve(FakeReply.tool_calls((tool, {})), FakeReply.text("Done."))
    lines = rpc(cli)
    assert 1 == len(asked(lines))
    assert "the client of this run does not ask the user" in tool_result(server)
    assert lines[-1]["ok"]
