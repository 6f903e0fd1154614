"""Plugins that are loaded for every run: they guard tool calls, get events, and fail closed."""

from __future__ import annotations

import json

import pytest

from tinyagent.testing import FakeServer

from .conftest import TOOLS, Cli, FakeReply, Serve, tool_result

RUN = ("run", "-m", "local/m", "-t", "mytools.py")
HEAD = "import asyncio, time\nfrom tinyagent import AgentToolResult, ToolCallDecision, hookimpl\n@hookimpl\n"
BEFORE = HEAD + "{how}def tinyagent_before_tool_call(call):\n    {body}\n"
AFTER = HEAD + "{how}def tinyagent_after_tool_call(call, result, is_error):\n    {body}\n"


@pytest.fixture
def server(cli: Cli, serve: Serve) -> FakeServer:
    """A model that calls `look` once and then answers."""
    cli.file("mytools.py", TOOLS)
    return serve(FakeReply.tool_calls(("look", {"at": "me"})), FakeReply.text("Done."))


def limit(cli: Cli, seconds: float) -> None:
    """Set the time limit of hooks."""
    config = (cli.home / "config.toml").read_text()
    cli.config(f"{config}\n[plugins]\nhook_timeout = {seconds}\n")


@pytest.mark.parametrize("how", ["", "async "])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return ToolCallDecision(block='not today')", "not today"),
        ("return ToolCallDecision(block='')", "Refused by the policy 'audit' (audit 1.0)"),
        ("return ToolCallDecision(arguments={'at': 'you'})", "saw you"),
        ("return None", "saw me"),
        (
            "import pathlib\n    return ToolCallDecision(arguments={'at': pathlib.Path('x')})",
            "the policy 'audit' (audit 1.0) failed: TypeError: the arguments that it returned are not JSON",
        ),
        ("return ToolCallDecision(arguments={'at': float('nan')})", "returned are not JSON"),
        ("raise ValueError('confused')", "the policy 'audit' (audit 1.0) failed: ValueError: confused"),
        ("raise SystemExit(0)", "failed: "),
        ("return 'yes'", "failed: TypeError: it returned str"),
    ],
)
def test_before(cli: Cli, server: FakeServer, how: str, body: str, words: str) -> None:
    """A hook may refuse a call, change its arguments, or let it pass; its errors refuse the call."""
    cli.install("audit", BEFORE.format(how=how, body=body), "hooks")
    assert (0, "Done.\n") == cli(*RUN, "Look")[:2]
    assert words in tool_result(server)


@pytest.mark.parametrize(("how", "body"), [("", "time.sleep(600)"), ("async ", "await asyncio.sleep(600)")])
def test_a_hook_that_takes_too_long_refuses(cli: Cli, server: FakeServer, how: str, body: str) -> None:
    """A hook that exceeds [plugins] hook_timeout refuses the call, and its thread does not delay the exit."""
    limit(cli, 0.2)
    cli.install("audit", BEFORE.format(how=how, body=body), "hooks")
    assert (0, "Done.\n") == cli(*RUN, "Look")[:2]
    assert "failed: it took more than 0.2 s" in tool_result(server)


@pytest.mark.parametrize("how", ["", "async "])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return AgentToolResult(content=[{'type': 'text', 'text': 'else'}])", "else"),
        ("return ToolCallDecision(is_error=True)", "saw me"),
        (
            "return ToolCallDecision(content=[{'type': 'text', 'text': 'new'}], is_error=True)",
            "new",
        ),
        ("return ToolCallDecision(block='secret')", "secret"),
        ("raise ValueError('confused')", "The result was withheld: 'audit' (audit 1.0) failed: ValueError"),
    ],
)
def test_after(cli: Cli, server: FakeServer, how: str, body: str, words: str) -> None:
    """A hook may replace, mark or withhold the result; its errors withhold it."""
    cli.install("audit", AFTER.format(how=how, body=body), "hooks")
    assert (0, "Done.\n") == cli(*RUN, "Look")[:2]
    assert words in tool_result(server)
    assert (words == "saw me") == ("saw me" in tool_result(server))


def test_hooks_of_several_plugins(cli: Cli, server: FakeServer) -> None:
    """Hooks run in the order of their plugins' names; after a refusal, later hooks are not called."""
    cli.install("a", BEFORE.format(how="", body="return ToolCallDecision(arguments={'at': 'you'})"), "hooks")
    cli.install(
        "b", BEFORE.format(how="", body="return ToolCallDecision(block=str(call.arguments))"), "hooks"
    )
    cli.install("c", BEFORE.format(how="", body="open('asked', 'w')"), "hooks")
    assert 0 == cli(*RUN, "Look").code
    assert "{'at': 'you'}" == tool_result(server)
    assert not (cli.work / "asked").exists()


def test_the_user_is_asked_about_the_arguments_that_will_be_used(cli: Cli, serve: Serve) -> None:
    """The user approves the arguments that the hooks have returned."""
    cli.file("mytools.py", TOOLS)
    serve(FakeReply.tool_calls(("write", {"text": "harmless"})), FakeReply.text("Done."))
    cli.install(
        "audit", BEFORE.format(how="", body="return ToolCallDecision(arguments={'text': 'other'})"), "hooks"
    )
    terminal = cli.on_terminal(*RUN, "Write")
    terminal.expect("Run write?")
    assert b"  text: other\r\n" in terminal.shown
    terminal.type("y\n")
    assert 0 == terminal.end()
    assert "other" == (cli.work / "written").read_text()


# ---- failing closed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source", ["import nothing_of_the_kind", "x = 1", HEAD + "def tinyagent_befor(call): pass"]
)
def test_a_guard_that_cannot_be_loaded_stops_what_may_run_a_tool(cli: Cli, source: str) -> None:
    """A guard that cannot be loaded gives exit code 3 for `run` and `tools call` only."""
    cli.install("audit", source, "hooks", version="1.2")
    cli.file("mytools.py", TOOLS)
    for command in (["run", "-m", "demo", "Hi"], ["tools", "call", "mytools.py:look"]):
        done = cli(*command)
        assert (3, "") == done[:2]
        assert "'audit' (audit 1.2)" in done.err
        assert 'disable = ["NAME"]' in done.err
    for command in (["--help"], ["plugins", "list"], ["models", "list"], ["tools", "show", "mytools.py"]):
        assert 0 == cli(*command).code
    cli.config('[plugins]\ndisable = ["audit"]\n')
    assert 0 == cli("run", "-m", "demo", "Hi").code


def test_all_that_fail_are_named(cli: Cli) -> None:
    """One message names all guards that fail."""
    cli.install("one", "1 / 0", "hooks")
    cli.install("two", "1 / 0", "hooks")
    done = cli("run", "-m", "demo", "Hi")
    assert 3 == done.code
    assert "'one' (one 1.0)" in done.err
    assert "'two' (two 1.0)" in done.err


def test_hooks_hold_for_calls_without_a_model(cli: Cli) -> None:
    """`tools call` uses the same hooks as a run."""
    cli.file("mytools.py", TOOLS)
    cli.install("audit", BEFORE.format(how="", body="return ToolCallDecision(block='not today')"), "hooks")
    done = cli("tools", "call", "mytools.py:look")
    assert (1, "", "Error: not today\n") == done


# ---- sinks ----------------------------------------------------------------------------------------------

SINK = """
from tinyagent import hookimpl

class Sink:
    def __call__(self, event):
        with open("heard", "a") as file:
            file.write(event.type + "\\n")
        {body}
    def close(self):
        with open("heard", "a") as file:
            file.write("closed\\n")

@hookimpl
def tinyagent_register_sinks(register):
    register("log", Sink)
"""


def test_a_sink_gets_every_event(cli: Cli, serve: Serve) -> None:
    """A sink gets the events of the record, in order, and is closed at the end."""
    serve(FakeReply.text("Hel", "lo"))
    cli.install("log", SINK.format(body="pass"), "hooks")
    done = cli("run", "--jsonl", "-m", "local/m", "Hi")
    types = [line["type"] for line in done.lines if line["type"] not in ("session", "result")]
    assert [*types, "closed"] == (cli.work / "heard").read_text().split()


def test_each_item_of_a_batch_has_a_sink(cli: Cli) -> None:
    """In a batch, the factory is called for each item, and its sink is closed with the run of the item."""
    cli.install("log", SINK.format(body="pass"), "hooks")
    cli.file("prompts.txt", "Hello\nHello\n")
    done = cli("batch", "prompts.txt", "--lines", "-m", "demo", "-j", "1", "-o", "answers.jsonl")
    assert 0 == done.code, done.err
    heard = (cli.work / "heard").read_text().split()
    assert ["agent_start", "agent_end", "closed"] * 2 == [
        word for word in heard if word in ("agent_start", "agent_end", "closed")
    ]


def test_a_sink_that_fails_is_removed(cli: Cli, serve: Serve) -> None:
    """A sink that fails is reported once and removed, and the run continues."""
    serve(FakeReply.text("Hel", "lo"))
    cli.install("log", SINK.format(body="raise OSError('no disk')"), "hooks")
    done = cli("run", "-m", "local/m", "Hi")
    assert (0, "Hello\n") == done[:2]
    assert 1 == done.err.count("no disk")
    assert "agent_start\n" == (cli.work / "heard").read_text()


ATTACHED = """
import json
from tinyagent import hookimpl

class Sink:
    def attach(self, agent, session_id):
        {body}
        self.agent, self.session_id = agent, session_id
    def __call__(self, event):
        if event.type == "agent_start":
            with open("attached", "a") as file:
                file.write(f"{{self.agent.state['model'].id}} {{self.session_id()}}\\n")

@hookimpl
def tinyagent_register_sinks(register):
    register("log", Sink)
"""


def test_a_sink_gets_the_agent_and_the_session(cli: Cli, serve: Serve) -> None:
    """Before the first event; the id is that of the session in the record, and None without a session."""
    serve(FakeReply.text("Hello"), FakeReply.text("Hello"))
    cli.install("log", ATTACHED.format(body="pass"), "hooks")
    cli("run", "-m", "local/m", "Hi")
    cli("run", "-m", "local/m", "--no-session", "Hi")
    [session] = cli.sessions()
    saved = json.loads(session.read_text().splitlines()[0])["id"]
    assert [f"m {saved}", "m None"] == (cli.work / "attached").read_text().splitlines()


def test_a_sink_that_cannot_attach_is_removed(cli: Cli, serve: Serve) -> None:
    """It is reported, and gets no events."""
    serve(FakeReply.text("Hello"))
    cli.install("log", ATTACHED.format(body="raise ValueError('no place')"), "hooks")
    done = cli("run", "-m", "local/m", "Hi")
    assert (0, "Hello\n") == done[:2]
    assert 1 == done.err.count("no place")
    assert not (cli.work / "attached").exists()


def test_output_of_sinks_is_not_in_the_record(cli: Cli, serve: Serve) -> None:
    """The output of a sink is not part of standard output."""
    serve(FakeReply.text("Hello"))
    cli.install("log", SINK.format(body="print('noise')"), "hooks")
    done = cli("run", "--jsonl", "-m", "local/m", "Hi")
    assert [] == [line for line in done.out.splitlines() if not json.loads(line)]
    assert "noise" in done.err


CHANGING = """
from tinyagent import hookimpl, tool

@tool
def first() -> str:
    "The first tool."
    state["changed"] = True
    return "changed"

@tool
def second() -> str:
    "The second tool."
    return "ran"

state = {"changed": False, "tools": [first]}

@hookimpl
def tinyagent_register_tools(register):
    for one in state["tools"]:
        register(one)

@hookimpl
HOWdef tinyagent_tools_changed():
    if not state["changed"]:
        return False
    state.update(changed=False, tools=[second])
    return True
"""


@pytest.mark.parametrize("how", ["", "async "])
def test_a_plugin_may_change_its_tools_in_a_run(cli: Cli, serve: Serve, how: str) -> None:
    """The next request has the new tools, and the model can call them."""
    cli.install("changing", CHANGING.replace("HOW", how), "tools")
    server = serve(
        FakeReply.tool_calls(("first", {})), FakeReply.tool_calls(("second", {})), FakeReply.text("Done.")
    )
    assert (0, "Done.\n") == cli("run", "-y", "-m", "local/m", "-t", "changing", "go")[:2]
    offered = [[one["function"]["name"] for one in request.json["tools"]] for request in server.requests]
    assert [["first"], ["second"], ["second"]] == offered
    assert "ran" == tool_result(server)
