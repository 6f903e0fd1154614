"""Plugins that pip has installed from wheels, used with the installed command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import tinyagent

from .conftest import ROOT, Environment


@pytest.fixture(scope="module")
def environment(new_environment: Callable[..., Environment]) -> Environment:
    """An environment with tinyagent, the calculator and a third-party plugin."""
    return new_environment("tinyagent-tools-calc", "tinyagent-dice")


@pytest.fixture(scope="module")
def bare(new_environment: Callable[..., Environment]) -> Environment:
    """An environment with tinyagent only."""
    return new_environment()


def test_what_is_used_comes_from_the_wheels(environment: Environment) -> None:
    """The environment uses neither the checkout nor the environment of the tests."""
    done = environment.run(
        "python",
        "-c",
        "import tinyagent, tinyagent_cli, tinyagent_dice as d; print(tinyagent.__file__, d.__file__)",
    )
    assert [True, True] == [str(environment.folder) in place for place in done.stdout.split()], done.stderr


def test_the_calculator_answers(environment: Environment) -> None:
    """`-t calc` runs the installed tool, and standard output is the answer."""
    done = environment.tinyagent("run", "-m", "demo", "-t", "calc", "What is 6 * 7?")
    assert 0 == done.returncode, done.stderr
    assert "42" in done.stdout


def test_the_tool_call_is_in_the_record(environment: Environment) -> None:
    """The run calls the plugin's tool and succeeds."""
    done = environment.tinyagent("run", "--jsonl", "-m", "demo", "-t", "calc", "What is 6 * 7?")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    [end] = [line for line in lines if line["type"] == "tool_execution_end"]
    assert ("calc", [{"type": "text", "text": "42"}]) == (end["tool_name"], end["result"]["content"])
    assert (True, 0) == (lines[-1]["ok"], lines[-1]["exit_code"])


def test_tools_can_be_called_without_a_model(environment: Environment) -> None:
    """`tools call` accepts PLUGIN.TOOL."""
    done = environment.tinyagent("tools", "call", "calc", '{"expression": "2 ** 100"}')
    assert (f"{2**100}\n", 0) == (done.stdout, done.returncode), done.stderr
    first, second = (
        environment.tinyagent("tools", "call", "dice.roll", '{"dice": "3d6", "seed": 7}') for _ in range(2)
    )
    assert 0 == first.returncode, first.stderr
    assert first.stdout == second.stdout


def test_a_plugin_can_be_a_provider(environment: Environment) -> None:
    """`-m dice/2d6` uses the third-party provider with -O."""
    first, second = (environment.tinyagent("run", "-m", "dice/2d6", "-O", "seed=7", "roll") for _ in range(2))
    assert 0 == first.returncode, first.stderr
    assert first.stdout.startswith("[")
    assert first.stdout == second.stdout


def test_plugins_list_names_them(environment: Environment) -> None:
    """The list has each plugin with its distribution and version."""
    done = environment.tinyagent("plugins", "list", "--json")
    assert 0 == done.returncode, done.stderr
    listed = {
        (entry["name"], entry["group"].removeprefix("tinyagent."), entry["distribution"], entry["version"])
        for entry in json.loads(done.stdout)
    }
    assert {
        ("calc", "tools", "tinyagent-tools-calc", tinyagent.__version__),
        ("dice", "tools", "tinyagent-dice", "1.2.0"),
        ("dice", "providers", "tinyagent-dice", "1.2.0"),
    } <= listed


@pytest.mark.parametrize(("allowed", "code"), [("calc", 0), ("dice", 3), ("", 3)])
def test_the_environment_limits_what_may_load(environment: Environment, allowed: str, code: int) -> None:
    """TINYAGENT_PLUGINS names the plugins that may load; empty allows the built-in ones only."""
    done = environment.tinyagent(
        "run", "-m", "demo", "-t", "calc", "What is 6 * 7?", TINYAGENT_PLUGINS=allowed
    )
    assert code == done.returncode, done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_is_a_plugin(environment: Environment) -> None:
    """`-t ./mytools.py` needs no packaging."""
    shutil.copy(ROOT / "examples" / "mytools.py", environment.home)
    done = environment.tinyagent("tools", "call", "./mytools.py:reverse", '{"text": "stressed"}')
    assert ("desserts\n", 0) == (done.stdout, done.returncode), done.stderr
    done = environment.tinyagent("run", "-m", "demo", "-t", "./mytools.py", "hello")
    assert 0 == done.returncode, done.stderr


def test_without_the_plugin_its_tool_is_unknown(bare: Environment) -> None:
    """An unknown tool gives exit code 3 and the list of installed tools."""
    done = bare.tinyagent("run", "-m", "demo", "-t", "calc", "What is 6 * 7?")
    assert ("", 3) == (done.stdout, done.returncode)
    assert "calc" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_runtime_dependencies_are_enough(bare: Environment) -> None:
    """tinyagent runs with its declared dependencies only."""
    for command in (
        ["--version"],
        ["--help"],
        ["run", "-m", "demo", "hello"],
        ["models", "list"],
        ["schema", "events"],
    ):
        done = bare.tinyagent(*command)
        assert 0 == done.returncode, f"{command}: {done.stderr}"


def test_the_example_passes_its_own_tests(environment: Environment, tmp_path: Path) -> None:
    """The tests of the third-party plugin pass with the wheels."""
    environment.link(["pytest", "pytest-asyncio"])
    project = tmp_path / "tinyagent-dice"
    shutil.copytree(ROOT / "examples" / "tinyagent-dice", project, ignore=shutil.ignore_patterns("src"))
    done = environment.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", project)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert " passed" in done.stdout
