"""Plugins that do not fit, really installed: `run`, `plugins list` and `doctor` say what to do about each."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Workshop

TOOL = """
from tinyagent import tool

@tool(read_only=True)
def {name}() -> str:
    "Answer."
    return "{name}"
"""
OLD = """
from tinyagent import hookimpl

@hookimpl
def tinyagent_register_tools(registry, toolbox):
    pass
"""
NEWER = "from tinyagent import ANameOfTomorrow\n"
UPGRADE = "Upgrade tinyagent: pip install --upgrade tinyagent-core"


@pytest.fixture(scope="module")
def environment(new_workshop: Callable[..., Workshop], build_plugin: Callable[..., Path]) -> Workshop:
    """An environment with two plugins of one name, an old one, one for a newer tinyagent, and a good one."""
    return new_workshop(
        build_plugin("good", TOOL.format(name="good")),
        build_plugin("first", TOOL.format(name="first"), entry="twins"),
        build_plugin("second", TOOL.format(name="second"), entry="twins"),
        build_plugin("old", OLD),
        build_plugin("newer", NEWER, needs="tinyagent-core>=99"),
    )


@pytest.fixture(scope="module")
def examined(environment: Workshop) -> dict[str, subprocess.CompletedProcess[str]]:
    """The two commands that load each plugin in a process of its own, which takes seconds."""
    return {
        "list": environment.tinyagent("plugins", "list", "--check"),
        "doctor": environment.tinyagent("doctor", "--offline", TINYAGENT_MODEL="demo"),
    }


CASES = {
    "twins": (
        "The name 'twins' is claimed by tinyagent-first 0.3.1 and by tinyagent-second 0.3.1.",
        'Choose one: [plugins] prefer = {twins = "DISTRIBUTION"}',
    ),
    "old": (
        "tinyagent_register_tools has no argument 'registry', 'toolbox'; it has: register",
        "Upgrade the plugin: tinyagent plugins install --upgrade tinyagent-old",
    ),
    "newer": ("eeds tinyagent-core>=99, and this is ", UPGRADE),
}


@pytest.mark.parametrize("name", CASES)
def test_what_to_do(
    environment: Workshop, examined: dict[str, subprocess.CompletedProcess[str]], name: str
) -> None:
    """Each command has the cause and the solution; `doctor` fails, and `plugins list` does not."""
    outputs = {"run": environment.tinyagent("run", "-m", "demo", "-t", name, "Hi"), **examined}
    assert {"run": 3, "list": 0, "doctor": 3} == {key: done.returncode for key, done in outputs.items()}
    for key, done in outputs.items():
        for words in CASES[name]:
            assert words in done.stdout + done.stderr, key
        assert "Traceback" not in done.stderr


def test_everything_else_works(environment: Workshop) -> None:
    """The CLI and the other plugins are not affected, and print no message."""
    for command in (
        ["--help"],
        ["run", "-q", "-m", "demo", "Hi"],
        ["tools", "call", "good"],
        ["models", "list"],
    ):
        done = environment.tinyagent(*command)
        assert (0, "") == (done.returncode, done.stderr), command


def test_the_list_imports_nothing_and_shows_what_the_metadata_shows(environment: Workshop) -> None:
    """Without --check, the names and the versions are reported, and what each plugin adds."""
    done = environment.tinyagent("plugins", "list")
    assert 0 == done.returncode
    assert "good   tinyagent.tools  tinyagent-good 0.3.1    read-only: good\n" in done.stdout
    assert (True, True, True) == tuple(
        words in done.stderr
        for words in (CASES["twins"][0], "expects 'registry', 'toolbox' in its hook", CASES["newer"][0])
    )


def test_doctor_reports_a_version_once(examined: dict[str, subprocess.CompletedProcess[str]]) -> None:
    """The conflict that pip finds is the one that the plugin shows."""
    shown = examined["doctor"].stdout
    assert 1 == shown.count("tinyagent-core>=99")
    assert "has requirement" not in shown


def test_a_choice_ends_the_conflict(environment: Workshop) -> None:
    """`[plugins] prefer` chooses one of the two."""
    home = environment.home / "tinyagent"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text('[plugins]\nprefer = {twins = "tinyagent-second"}\n')
    done = environment.tinyagent("tools", "call", "twins")
    assert ("second\n", "", 0) == (done.stdout, done.stderr, done.returncode)
    (home / "config.toml").unlink()
