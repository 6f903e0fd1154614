"""The project that `tinyagent plugins new` writes: one template for each kind of plugin.

`@NAME@` is the name that a user types, and `@IDENTIFIER@` the same as a Python name. Each project is
a minimal plugin of its kind with passing tests, as a starting point.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Container
from pathlib import Path

from tinyagent_cli.exit_codes import InputError

__all__ = ["KINDS", "check_name", "files", "write"]

KINDS = {"tool": "tools", "provider": "providers", "command": "commands", "hook": "hooks"}
"""Each kind with its entry-point group."""

_TAKEN = {"call", "click", "hookimpl", "reply", "text", "tinyagent", "tool"}
"""Names that the templates use themselves."""


def check_name(typed: str, kind: str, commands: Container[str]) -> str:
    """Return the name of the plugin, without a `tinyagent-` before it.

    Args:
        typed: The name that the user has typed.
        kind: One of `KINDS`.
        commands: The built-in commands, whose names are taken.

    Raises:
        InputError: It cannot be the name of a plugin of this kind.
    """
    name = typed.removeprefix("tinyagent-")
    why = None
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > 50:
        why = "a name has lower-case letters, digits and single '-', and begins with a letter"
    elif keyword.iskeyword(name.replace("-", "_")) or name in _TAKEN:
        why = "that name is reserved"
    elif kind == "provider":
        from . import builtin as builtin_plugins

        if name in builtin_plugins.NAMES:
            why = "a provider of that name is built in"
    elif kind == "command" and name in commands:
        why = "that command is built in"
    if why is not None:
        raise InputError(f"{typed!r} cannot be the name of the plugin: {why}.", hint="For example: weather")
    return name


def files(name: str, kind: str) -> dict[str, str]:
    """Return the texts of the files, by their paths in the project."""
    identifier = name.replace("-", "_")
    package = f"src/tinyagent_{identifier}"
    texts = {
        "pyproject.toml": _PYPROJECT,
        "README.md": _README,
        ".gitignore": "__pycache__/\n*.egg-info/\n.pytest_cache/\n.venv/\ndist/\n",
        f"{package}/__init__.py": _CODE[kind],
        f"{package}/py.typed": "",
        f"tests/test_{identifier}.py": _TESTS[kind],
    }
    for path, text in texts.items():
        for mark, value in (
            ("@WHAT@", _WHAT[kind]),
            ("@USE@", _USE[kind]),
            ("@GROUP@", KINDS[kind]),
            ("@IDENTIFIER@", identifier),
            ("@NAME@", name),
        ):
            text = text.replace(mark, value)
        texts[path] = text.removeprefix("\n")
    return texts


def write(folder: Path, name: str, kind: str) -> list[str]:
    """Write the project, and return the paths of its files.

    Raises:
        InputError: The folder is not empty, or cannot be written.
    """
    texts = files(name, kind)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is not an empty folder.", hint="Choose another one with --folder.")
        for path, text in texts.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
    except OSError as error:
        raise InputError(f"Cannot write to {folder}: {error.strerror}.") from None
    return list(texts)


_WHAT = {
    "tool": "A tool for tinyagent: it counts the words of a text.",
    "provider": "A provider for tinyagent: it repeats the prompt.",
    "command": "A command for tinyagent: it greets.",
    "hook": "A policy for tinyagent: it refuses tool calls that name .env files.",
}

_USE = {
    "tool": 'tinyagent run -t @NAME@ "How many words are in: to be or not to be?"\n'
    "tinyagent tools call @NAME@ text='to be or not to be'      # without a model",
    "provider": 'tinyagent run -m @NAME@/any "Hello there"',
    "command": "tinyagent @NAME@ Ada",
    "hook": "tinyagent run -t fs ...      # a plugin of the group tinyagent.hooks is loaded for every run",
}

_PYPROJECT = """
[build-system]
requires = ["hatchling>=1.26"]
build-backend = "hatchling.build"

[project]
name = "tinyagent-@NAME@"
version = "0.1.0"
description = "@WHAT@"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["tinyagent-core>=0.1"]

[project.optional-dependencies]
test = ["pytest>=8"]

# Left: the name that users type. Right: the module that is imported for it.
[project.entry-points."tinyagent.@GROUP@"]
@NAME@ = "tinyagent_@IDENTIFIER@"

[tool.hatch.build.targets.wheel]
packages = ["src/tinyagent_@IDENTIFIER@"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["src"]
"""

_README = """
# tinyagent-@NAME@

@WHAT@

```sh
tinyagent plugins install tinyagent-@NAME@      # before it is published: -e FOLDER
@USE@
```

## Development

In an environment with tinyagent and pytest:

```sh
python -m pytest                        # needs no other package
tinyagent plugins install -e .          # your changes take effect at once
tinyagent plugins list --check          # loads the plugin
python -m pip wheel --no-deps -w dist . # builds the wheel that others install
```
"""

_TOOL = '''
"""@WHAT@"""

from collections.abc import Callable

from tinyagent import AgentTool, ToolError, hookimpl, tool

__all__ = ["@IDENTIFIER@"]


@tool(read_only=True)  # it changes nothing, so it needs no approval
def @IDENTIFIER@(text: str) -> int:
    """Count the words of a text.

    Args:
        text: The text to count.
    """
    if not text.strip():
        raise ToolError("The text is empty. Pass the text to count.")
    return len(text.split())


@hookimpl
def tinyagent_register_tools(register: Callable[[AgentTool], None]) -> None:
    """Called for `-t @NAME@`."""
    register(@IDENTIFIER@)
'''

_TOOL_TESTS = '''
"""Test the tool alone and in a run with a scripted model, without a network or a key."""

import asyncio

import pytest
from tinyagent import ToolError
from tinyagent.testing import Reply, call

import tinyagent_@IDENTIFIER@
from tinyagent_@IDENTIFIER@ import @IDENTIFIER@


def execute(**arguments):
    """Return the text of the tool's result."""
    result = asyncio.run(@IDENTIFIER@.execute("call", arguments, None, lambda partial: None))
    return result.content[0]["text"]


def test_it_is_registered():
    """The hook registers the tool."""
    registered = []
    tinyagent_@IDENTIFIER@.tinyagent_register_tools(registered.append)
    assert registered == [@IDENTIFIER@]


def test_it_counts_words():
    """Any white space separates words."""
    assert execute(text="one  two\\nthree") == "3"


def test_an_empty_text_is_an_error():
    """The message tells the model what to do."""
    with pytest.raises(ToolError, match="Pass the text"):
        execute(text=" ")


def test_a_model_uses_it(scripted_provider, run_agent):
    """The tool gets the arguments of the model, and the model gets the result."""
    provider = scripted_provider(Reply(call("@IDENTIFIER@", text="to be or not to be")), "Six.")
    run_agent(provider, "How many?", tools=[@IDENTIFIER@])
    assert provider.calls[1].context.messages[-1]["content"] == [{"type": "text", "text": "6"}]
'''

_PROVIDER = '''
"""@WHAT@"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from tinyagent import (
    AssistantMessage,
    AssistantMessageEvent,
    Context,
    Model,
    Provider,
    SimpleStreamOptions,
    extract_text,
    hookimpl,
)

__all__ = ["provider"]


class Reply:
    """A streamed reply: iterate over its events, or await `result()` for the message."""

    def __init__(self, model: Model, context: Context) -> None:
        prompt = next((m for m in reversed(context.messages) if m["role"] == "user"), None)
        self.pieces = ["You", "wrote:", *extract_text(prompt).split()]
        self.message: AssistantMessage = {
            "role": "assistant",
            "content": [{"type": "text", "text": " ".join(self.pieces)}],
            "stop_reason": "stop",
            "timestamp": time.time_ns() // 1_000_000,
            "api": model.api,
            "provider": model.provider,
            "model": model.id,
            "usage": None,
        }

    async def __aiter__(self) -> AsyncIterator[AssistantMessageEvent]:
        """Yield each event as soon as possible. The last one is always `done` or `error`."""
        yield {"type": "start"}
        yield {"type": "text_start", "content_index": 0}
        for number, piece in enumerate(self.pieces):
            yield {"type": "text_delta", "content_index": 0, "delta": f" {piece}" if number else piece}
        yield {"type": "text_end", "content_index": 0, "content": " ".join(self.pieces)}
        yield {"type": "done", "reason": "stop", "message": self.message}

    async def result(self) -> AssistantMessage:
        """Return the complete message."""
        return self.message


async def stream(model: Model, context: Context, options: SimpleStreamOptions) -> Reply:
    """Send the request. An exception ends the run with an error message."""
    return Reply(model, context)


def make_model(model_id: str, options: Mapping[str, Any]) -> Model:
    """Return the model: `-m @NAME@/small -O key=value` passes `"small"` and `{"key": "value"}`."""
    return Model(provider="@NAME@", id=model_id, api="@NAME@")


provider = Provider(name="@NAME@", stream_fn=stream, make_model=make_model)
# With api_key_env="..." the command line passes the key of that variable in options["api_key"].


@hookimpl
def tinyagent_register_providers(register: Callable[[Provider], None]) -> None:
    """Called for `-m @NAME@/...`."""
    register(provider)
'''

_PROVIDER_TESTS = '''
"""Test the provider, without a network or a key.

For a provider that talks to a server, also inherit `tinyagent.testing.ProviderContract`: a hundred tests.
"""

import tinyagent_@IDENTIFIER@
from tinyagent_@IDENTIFIER@ import provider


def test_it_is_registered():
    """The hook registers the provider, with the name before the slash of -m."""
    registered = []
    tinyagent_@IDENTIFIER@.tinyagent_register_providers(registered.append)
    assert [found.name for found in registered] == ["@NAME@"]


def test_it_answers(run_agent):
    """The reply is streamed word by word, and the message has all of them."""
    events = run_agent(provider.stream_fn, "hello there", model=provider.make_model("any", {}))
    deltas = [e.assistant_message_event for e in events if e.type == "message_update"]
    pieces = [delta["delta"] for delta in deltas if delta["type"] == "text_delta"]
    assert pieces == ["You", " wrote:", " hello", " there"]
    assert events[-1].messages[-1]["content"][0]["text"] == "You wrote: hello there"
'''

_COMMAND = '''
"""@WHAT@"""

import click
from tinyagent import hookimpl

__all__ = ["@IDENTIFIER@"]


@click.command("@NAME@")
@click.argument("name")
@click.option("--loud", is_flag=True, help="Use capital letters.")
def @IDENTIFIER@(name: str, loud: bool) -> None:
    """Greet NAME."""
    greeting = f"Hello, {name}!"
    click.echo(greeting.upper() if loud else greeting)


@hookimpl
def tinyagent_register_commands(group: click.Group) -> None:
    """Called for `tinyagent @NAME@`."""
    group.add_command(@IDENTIFIER@)
'''

_COMMAND_TESTS = '''
"""Test the command."""

import click
from click.testing import CliRunner

import tinyagent_@IDENTIFIER@
from tinyagent_@IDENTIFIER@ import @IDENTIFIER@


def test_it_is_registered():
    """The hook adds the command, with the name of the entry point."""
    group = click.Group()
    tinyagent_@IDENTIFIER@.tinyagent_register_commands(group)
    assert group.commands == {"@NAME@": @IDENTIFIER@}


def test_it_greets():
    """--loud greets in capital letters."""
    assert CliRunner().invoke(@IDENTIFIER@, ["Ada"]).output == "Hello, Ada!\\n"
    assert CliRunner().invoke(@IDENTIFIER@, ["Ada", "--loud"]).output == "HELLO, ADA!\\n"


def test_a_wrong_use_is_exit_code_2():
    """A missing argument is a usage error."""
    assert CliRunner().invoke(@IDENTIFIER@, []).exit_code == 2
'''

_HOOK = '''
"""@WHAT@"""

import json

from tinyagent import ToolCallDecision, ToolCallInfo, hookimpl

__all__ = ["tinyagent_before_tool_call"]


@hookimpl
def tinyagent_before_tool_call(call: ToolCallInfo) -> ToolCallDecision | None:
    """Called before each tool call of every run. If this raises, the call is refused."""
    if ".env" in json.dumps(call.arguments, ensure_ascii=False):
        return ToolCallDecision(block="Refused: .env files contain secrets. Continue without them.")
    return None
'''

_HOOK_TESTS = '''
"""Test the policy in a run with a scripted model."""

import pytest
from tinyagent import tool
from tinyagent.testing import Reply, call

from tinyagent_@IDENTIFIER@ import tinyagent_before_tool_call

opened = []


@tool
def read(path: str) -> str:
    """Read a file."""
    opened.append(path)
    return f"the text of {path}"


@pytest.mark.parametrize(("path", "allowed"), [("notes.txt", True), ("app/.env", False)])
def test_tools_cannot_read_env_files(scripted_provider, run_agent, path, allowed):
    """A call that names an .env file is refused, and the model gets the reason. Other calls run."""
    opened.clear()
    provider = scripted_provider(Reply(call("read", path=path)), "Done.")
    run_agent(provider, "Read it.", tools=[read], before_tool_call=tinyagent_before_tool_call)
    result = provider.calls[1].context.messages[-1]
    assert (not result["is_error"], opened) == (allowed, [path] if allowed else [])
    assert allowed or ".env files contain secrets" in result["content"][0]["text"]
'''

_CODE = {"tool": _TOOL, "provider": _PROVIDER, "command": _COMMAND, "hook": _HOOK}
_TESTS = {"tool": _TOOL_TESTS, "provider": _PROVIDER_TESTS, "command": _COMMAND_TESTS, "hook": _HOOK_TESTS}
