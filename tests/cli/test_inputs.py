"""Plugins of the group `tinyagent.inputs`: prompt templates and inputs for `-f`."""

from __future__ import annotations

import json

import pytest

from tinyagent.testing import FakeReply, FakeServer

from .conftest import Cli, Serve
from .test_shell_completion import offered

NOTES = """
from tinyagent import PromptTemplate, PromptVariable, hookimpl

ASKED = []

@hookimpl
def tinyagent_register_templates(register, requested):
    ASKED.append(requested)
    variables = (PromptVariable("topic", "What about"), PromptVariable("style", required=False))
    def fill_in(values):
        if values["topic"] == "nothing":
            raise ValueError("no such topic")
        return f"About {values['topic']} {{{{ topic }}}} ({requested})"
    register(PromptTemplate("notes/ask", fill_in, "Ask about it", variables))

@hookimpl
def tinyagent_read_input(argument):
    return [argument.upper().encode(), b"\\x89PNG\\r\\n\\x1a\\n"]
"""


@pytest.fixture
def model(cli: Cli, serve: Serve) -> FakeServer:
    """Start a model server, and install the plugin."""
    cli.install("notes", NOTES, "inputs")
    return serve(*[FakeReply.text("Done.")] * 4)


def test_a_template_of_a_plugin(cli: Cli, model: FakeServer) -> None:
    """Its prompt is sent as it is; standard input comes before it, and the prompt of the user after it."""
    done = cli("run", "-m", "local/m", "-p", "notes/ask", "-P", "topic=tea", "Go on.", stdin=b"Text")
    assert (0, "Done.\n") == (done.code, done.out), done.err
    [message] = model.requests[0].json["messages"]
    assert "Text\n\nAbout tea {{ topic }} (notes/ask)\n\nGo on." == message["content"]


def test_a_template_of_a_plugin_in_rpc(cli: Cli, model: FakeServer) -> None:
    """A client names it like any other template."""
    command = {"type": "prompt", "template": "notes/ask", "parameters": {"topic": "tea"}}
    done = cli("rpc", "-m", "local/m", stdin=json.dumps(command).encode() + b"\n")
    assert 0 == done.code, done.err
    [message] = model.requests[0].json["messages"]
    assert "About tea {{ topic }} (notes/ask)" == message["content"]


def test_an_input_of_a_plugin(cli: Cli, model: FakeServer) -> None:
    """`-f NAME:ARGUMENT` reads texts and images; a file of that name takes precedence."""
    assert 0 == cli("run", "-m", "local/m", "-f", "notes:x://one", "Sum up").code
    image, text = model.requests[0].json["messages"][0]["content"]
    assert ("image_url", "<file name='notes:x://one'>\nX://ONE\n</file>\n\nSum up") == (
        image["type"],
        text["text"],
    )
    cli.file("notes:two", "mine")
    assert 0 == cli("run", "-m", "local/m", "-f", "notes:two", "Sum up").code
    assert "mine" in model.requests[1].json["messages"][0]["content"]


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["-p", "notes/ask"], "needs a value for topic: -P topic=…", 2),
        (["-p", "notes/ask", "-P", "topik=x"], "Its variables: topic, style.", 2),
        (["-p", "notes/ask", "-P", "topic=nothing"], "ValueError: no such topic", 3),
        (["-p", "notes/nope"], "There is no template 'notes/nope'", 2),
        (["-f", "nobody:x"], "nobody:x", 2),
    ],
)
def test_what_a_plugin_does_not_have(cli: Cli, arguments: list[str], words: str, code: int) -> None:
    """Each error says what is wrong; a defect of the plugin names the plugin."""
    cli.install("notes", NOTES, "inputs")
    done = cli("run", "-m", "demo", *arguments)
    assert (code, True) == (done.code, words in done.err), done.err


def test_templates_of_plugins_are_listed_and_completed(cli: Cli) -> None:
    """`templates list` stores the names for completion, which loads no plugin."""
    cli.install("notes", NOTES, "inputs")
    assert "notes/ask" not in offered(cli, "tinyagent run -p no")
    [row] = json.loads(cli("templates", "list", "--json").out)
    assert ("notes/ask", "notes", ["topic", "style"]) == (row["name"], row["source"], row["variables"])
    shown = cli("templates", "show", "notes/ask").out
    assert "Ask about it\n  -P topic=…  What about\n  -P style=…  (optional)\n" in shown
    (cli.work.parent / "site-notes-inputs" / "plugin_notes.py").write_text("raise RuntimeError('imported')")
    assert ["notes/ask"] == offered(cli, "tinyagent run -p no")
    assert ["topic="] == offered(cli, "tinyagent run -p notes/ask -P to")
    done = cli("templates", "list")
    assert (0, True) == (done.code, "RuntimeError: imported" in done.err)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("register(5)", "register() got 5, not a PromptTemplate"),
        ("register(PromptTemplate('plain', str))", "the name of a template is SOURCE/NAME"),
        ("[register(PromptTemplate('a/b', str)) for _ in (1, 2)]", "registers two templates named 'a/b'"),
        ("register(PromptTemplate('a/b', lambda values: 5))", "returned 5 for 'a/b', not a text"),
    ],
)
def test_faults_of_plugins(cli: Cli, source: str, words: str) -> None:
    """A plugin that registers something else is a clear error."""
    head = "from tinyagent import PromptTemplate, hookimpl\n@hookimpl\n"
    cli.install("faulty", f"{head}def tinyagent_register_templates(register): {source}\n", "inputs")
    done = cli("run", "-m", "demo", "-p", "a/b")
    assert (3, True) == (done.code, words in done.err), done.err


def test_a_plugin_without_a_hook_for_inputs(cli: Cli) -> None:
    """`plugins list --check` reports it."""
    cli.install("empty", "", "inputs")
    [row] = json.loads(cli("plugins", "list", "--json", "--check", TINYAGENT_PLUGINS="empty").out)
    assert ("broken", True) == (row["status"], "tinyagent_read_input" in row["error"])
