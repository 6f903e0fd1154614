"""Broken plugins, really installed, affect only the commands that request them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Environment

BROKEN = {
    "import_error": "import a_module_that_is_not_there",
    "syntax_error": "def broken(:",
    "exits": "raise SystemExit(0)",
    "unknown_hook": """
from tinyagent import hookimpl

@hookimpl
def tinyagent_register_tool(register):
    pass
""",
    "wrong_signature": """
from tinyagent import hookimpl

@hookimpl
def tinyagent_register_tools(register, toolbox):
    pass
""",
    "raises": """
from tinyagent import hookimpl

@hookimpl
def tinyagent_register_tools(register):
    raise RuntimeError("the weather is bad")
""",
    "not_a_tool": """
from tinyagent import hookimpl

@hookimpl
def tinyagent_register_tools(register):
    register("hammer")
""",
}
REASONS = {
    "import_error": "a_module_that_is_not_there",
    "syntax_error": "invalid syntax",
    "exits": "SystemExit",
    "unknown_hook": "tinyagent_register_tool",
    "wrong_signature": "toolbox",
    "raises": "the weather is bad",
    "not_a_tool": "not an AgentTool",
}
DUPLICATE = """
from tinyagent import hookimpl, tool

@tool(name="calc")
def calc(expression: str) -> str:
    "Calculate wrongly."
    return "43"

@hookimpl
def tinyagent_register_tools(register):
    register(calc)
"""
TRIPWIRE = """
import os
from pathlib import Path

Path(os.environ["TRIPWIRE"]).write_text("imported")
"""
GUARD = """
import a_module_that_is_not_there
"""

ASK = ("run", "-m", "demo", "-t", "calc", "What is 6 * 7?")


@pytest.fixture(scope="module")
def environment(
    new_environment: Callable[..., Environment], build_plugin: Callable[..., Path]
) -> Environment:
    """An environment with the calculator, all broken plugins, and one that records its import."""
    sources = {**BROKEN, "duplicate": DUPLICATE, "tripwire": TRIPWIRE}
    return new_environment("tinyagent-tools-calc", *(build_plugin(*item) for item in sources.items()))


@pytest.mark.parametrize(
    "command", [("--version",), ("--help",), ("plugins", "list"), ("run", "--help"), ASK]
)
def test_other_commands_continue_to_work(environment: Environment, command: tuple[str, ...]) -> None:
    """Commands that request no broken plugin succeed without a message."""
    done = environment.tinyagent(*command)
    assert 0 == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    if command[0] != "plugins":
        assert [] == [name for name in BROKEN if name in done.stderr]


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_command_that_requests_it_fails(environment: Environment, name: str) -> None:
    """One line has plugin, distribution, version and reason, and the record agrees with the exit code."""
    done = environment.tinyagent("run", "--jsonl", "-m", "demo", "-t", name, "hello")
    header, result = map(json.loads, done.stdout.splitlines())
    assert ("session", "result") == (header["type"], result["type"])
    assert (3, 3, "plugin") == (done.returncode, result["exit_code"], result["error"]["kind"])
    distribution = f"tinyagent-{name.replace('_', '-')}"
    [error] = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert f"({distribution} 0.3.1)" in error.replace("_", "-")
    assert REASONS[name] in error
    assert "Traceback" not in done.stderr


def test_the_list_names_each(environment: Environment) -> None:
    """`plugins list --check` reports each broken plugin with its reason."""
    done = environment.tinyagent("plugins", "list", "--check", "--json")
    assert 0 == done.returncode, done.stderr
    listed = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert dict.fromkeys(BROKEN, "broken") == {name: listed[name]["status"] for name in BROKEN}
    for name in BROKEN:
        assert REASONS[name] in listed[name]["error"]
        assert (f"tinyagent-{name.replace('_', '-')}", "0.3.1") == (
            listed[name]["distribution"].replace("_", "-"),
            listed[name]["version"],
        )
    assert ("ok", None) == (listed["calc"]["status"], listed["calc"]["error"])


def test_the_list_imports_nothing(environment: Environment) -> None:
    """Without --check, no plugin is loaded. Wrong hooks are reported: they are read from the source."""
    done = environment.tinyagent("plugins", "list", "--json")
    assert 0 == done.returncode, done.stderr
    found = {entry["name"]: entry for entry in json.loads(done.stdout) if entry["name"] in BROKEN}
    assert {"not loaded"} == {entry["status"] for entry in found.values()}
    errors = {name: entry["error"] for name, entry in found.items() if entry["error"] is not None}
    assert {"unknown_hook", "wrong_signature"} == errors.keys()
    assert "It has the hook 'tinyagent_register_tool'" in errors["unknown_hook"]
    assert "It expects 'toolbox' in its hook tinyagent_register_tools" in errors["wrong_signature"]


def test_two_tools_of_one_name_are_refused(environment: Environment) -> None:
    """Two tools with one name are refused together, and work alone."""
    both = environment.tinyagent("run", "-m", "demo", "-t", "calc", "-t", "duplicate", "What is 6 * 7?")
    assert ("", 3) == (both.stdout, both.returncode)
    assert "tinyagent-duplicate 0.3.1" in both.stderr
    assert "calc" in both.stderr
    alone = environment.tinyagent("run", "-m", "demo", "-t", "duplicate", "What is 6 * 7?")
    assert 0 == alone.returncode, alone.stderr


def test_only_requested_plugins_are_imported(environment: Environment, tmp_path: Path) -> None:
    """A plugin is imported only when its name is requested."""
    wire = tmp_path / "wire"
    for command in (["--version"], ["--help"], ["plugins", "list"], ["models", "list"], ASK):
        environment.tinyagent(*command, TRIPWIRE=str(wire))
        assert not wire.exists(), command
    environment.tinyagent("run", "-m", "demo", "-t", "tripwire", "hello", TRIPWIRE=str(wire))
    assert wire.exists()


def test_a_broken_guard_stops_what_could_run_a_tool(
    new_environment: Callable[..., Environment], build_plugin: Callable[..., Path]
) -> None:
    """A broken guard fails closed, and `plugins` still works."""
    environment = new_environment(
        "tinyagent-tools-calc", build_plugin("guard", GUARD, group="tinyagent.hooks")
    )
    for command in (ASK, ("tools", "call", "calc", '{"expression": "1"}')):
        done = environment.tinyagent(*command)
        assert ("", 3) == (done.stdout, done.returncode), command
        assert "tinyagent-guard 0.3.1" in done.stderr
        assert "Traceback" not in done.stderr
    for command in (("--version",), ("--help",), ("plugins", "list")):
        assert 0 == environment.tinyagent(*command).returncode
