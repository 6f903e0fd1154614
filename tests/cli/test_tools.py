"""`tinyagent tools`: lists, and calls without a model."""

from __future__ import annotations

import json

import pytest

from .conftest import LEAVING, TOOLS, Cli

MORE = (
    TOOLS
    + '''
@tool(read_only=True)
def add(a: float, b: float, note: str = "") -> str:
    """Add two numbers."""
    return f"{a + b} {note}"

@tool(read_only=True)
def fail() -> str:
    """Fail."""
    raise OSError("no disk")
'''
)


@pytest.fixture(autouse=True)
def tools(cli: Cli) -> None:
    """Write the file mytools.py."""
    cli.file("mytools.py", MORE)


def test_list_shows_what_is_installed(cli: Cli) -> None:
    """The list is made from metadata, without an import."""
    cli.install("weather", "raise RuntimeError('imported')", version="2.0")
    rows = json.loads(cli("tools", "list", "--json").out)
    assert {"name": "weather", "distribution": "weather", "version": "2.0"} in rows
    assert "weather  weather 2.0" in cli("tools", "list", TINYAGENT_PLUGINS="weather").out


def test_show(cli: Cli) -> None:
    """`tools show` prints descriptions, arguments, and whether a tool needs approval."""
    done = cli("tools", "show", "mytools.py")
    assert 0 == done.code
    assert "write  (needs approval)\n  Write a text.\n  text (required): " in done.out
    shown = json.loads(cli("tools", "show", "mytools.py:add", "--json").out)
    assert [("add", True, ["a", "b"])] == [
        (t["name"], t["read_only"], t["parameters"]["required"]) for t in shown
    ]


def test_show_is_for_people(cli: Cli) -> None:
    """A parameter has its type, its description and the rest of its schema; a terminal wraps at words."""
    cli.file(
        "wide.py",
        "from typing import Annotated\nfrom tinyagent import tool\n"
        "@tool\ndef wide(count: Annotated[int, 'How many there should be, at most.'] = 3):\n"
        "    'Do it.\\n\\nThen do it again, and again, until it is done.'\n",
    )
    shown = cli("tools", "show", "wide.py").out
    parameter = '  count: integer. How many there should be, at most. {"default":3}\n'
    assert shown.endswith(f"\n\n  Then do it again, and again, until it is done.\n{parameter}")
    terminal = cli.on_terminal("tools", "show", "wide.py", columns=40)
    assert 0 == terminal.end()
    assert [
        "  Then do it again, and again, until it", "  is done.",
        "  count: integer. How many there", '    should be, at most. {"default":3}',
    ] == terminal.screen(40)[2:6]  # fmt: skip


def test_show_hides_nothing(cli: Cli) -> None:
    """`tools show` prints invisible characters as escapes, because the model reads them."""
    hidden = "".join(chr(0xE0000 + ord(letter)) for letter in "send")
    cli.file(
        "odd.py",
        "from tinyagent import AgentTool\nasync def run(*call): ...\n"
        f"text = AgentTool(name='odd', label='', description='Add.\\x1b[8m\\u3164{hidden}', execute=run,\n"
        "    parameters={'type': 'object', 'properties': {'a\\u202e': {'description': 'b\\u200b'}}})\n",
    )
    out = cli("tools", "show", "odd.py").out
    assert ("Add.\\x1b[8m\\u3164\\U000e0073\\U000e0065\\U000e006e\\U000e0064\n" in out) is True
    assert ("a\\u202e: " in out, "b\\u200b" in out) == (True, True)


@pytest.mark.parametrize(
    "arguments", [['{"a": 1.5, "b": 2, "note": "7"}'], ["a=1.5", "b=2", "note=7"]], ids=["object", "pairs"]
)
def test_call(cli: Cli, arguments: list[str]) -> None:
    """Arguments are one JSON object or KEY=VALUE pairs; a value for a string is not decoded."""
    assert (0, "3.5 7\n", "") == cli("tools", "call", "mytools.py:add", *arguments)


def test_call_needs_no_approval(cli: Cli) -> None:
    """`tools call` needs no approval."""
    assert (0, "wrote x\n", "") == cli("tools", "call", "mytools.py:write", "text=x")


def test_call_prints_the_complete_result(cli: Cli) -> None:
    """--json prints content, details and is_error, also for a failure."""
    done = cli("tools", "call", "mytools.py:fail", "--json")
    assert 1 == done.code
    assert {
        "content": [{"type": "text", "text": "OSError: no disk"}],
        "details": {},
        "is_error": True,
    } == json.loads(done.out)
    assert "Error: OSError: no disk\n" == done.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["a=x", "b=1"], 1, "at $.a"),
        (["a=1"], 1, '"b" is a required property'),
        (["a"], 2, "write arguments as KEY=VALUE"),
        (["a"], 2, "add takes: a, b, note\n"),
        (["{'a': 1}"], 2, "not a JSON object"),
    ],
)
def test_arguments_that_do_not_fit(cli: Cli, arguments: list[str], code: int, words: str) -> None:
    """Arguments are validated as in a run, and the message has the path."""
    done = cli("tools", "call", "mytools.py:add", *arguments)
    assert (code, "") == done[:2]
    assert words in done.err


def test_a_denied_tool_is_not_called(cli: Cli) -> None:
    """`[run] deny` applies to `tools call`."""
    cli.config('[run]\ndeny = ["add"]\n')
    done = cli("tools", "call", "mytools.py:add", "a=1", "b=2")
    assert (1, "") == done[:2]
    assert "does not allow" in done.err


def test_a_tool_that_ends_the_process_is_a_failure(cli: Cli) -> None:
    """`sys.exit(0)` in a task of a tool is a failure."""
    cli.file("leaving.py", LEAVING)
    done = cli("tools", "call", "./leaving.py:work")
    assert (3, "") == done[:2]
    assert "A plugin tried to exit the process: SystemExit: 0." in done.err
