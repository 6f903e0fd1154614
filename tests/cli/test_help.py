"""The help of every command: its snapshot, its groups, and docs/cli.md."""

from __future__ import annotations

import json
import re
import runpy

import pytest
from syrupy.assertion import SnapshotAssertion

from tinyagent_cli.commands import COMMAND_GROUPS, COMMANDS
from tinyagent_cli.commands.chat import chat
from tinyagent_cli.commands.rpc import rpc
from tinyagent_cli.commands.run import OPTION_GROUPS, run
from tinyagent_cli.dispatch import dispatch

from .conftest import ROOT, Cli

LIST_COMMANDS = ROOT / "scripts" / "list-commands"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns, and no commands of plugins."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TINYAGENT_PLUGINS", "")


def help_of(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Return what --help prints."""
    assert 0 == dispatch([*args, "--help"])
    return capsys.readouterr().out


def test_the_help_of_every_command(snapshot: SnapshotAssertion, capsys: pytest.CaptureFixture[str]) -> None:
    """The help texts change only on purpose, and no line of a command is cut."""
    paths = list(runpy.run_path(str(LIST_COMMANDS))["all_commands"]())
    assert {(), *((name,) for name in COMMANDS), ("models", "alias", "list")} < set(paths)
    for path in paths:
        text = help_of(capsys, *path)
        assert snapshot(name=" ".join(("tinyagent", *path))) == text
        assert [] == re.findall(r"^  \w.*\.\.\.$", text, re.MULTILINE), "give the command a short_help"


def test_every_list_and_search_prints_json(cli: Cli) -> None:
    """`--json` prints an array, also an empty one, without a home directory full of data."""
    paths = [path for path in runpy.run_path(str(LIST_COMMANDS))["all_commands"]() if path]
    lists = [path for path in paths if path[-1] in ("list", "search")]
    assert {("sessions", "list"), ("sessions", "search"), ("models", "alias", "list")} < set(lists)
    for path in lists:
        done = cli(*path, *(["word"] if path[-1] == "search" else []), "--json")
        assert (0, list) == (done.code, type(json.loads(done.out))), (path, done)


def test_the_texts_of_commands_are_wrapped_in_a_narrow_terminal(cli: Cli) -> None:
    """No sentence is cut."""
    shown = cli("keys", "--help", COLUMNS="50").out.partition("Commands:\n")[2]
    text = "  list    List the providers that have a key, and\n          where each key comes from.\n"
    assert text in shown


def test_the_document_has_the_help_of_every_command() -> None:
    """docs/cli.md has what scripts/list-commands writes."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    written = runpy.run_path(str(LIST_COMMANDS))["reference"]()
    assert written == text, "run .venv/bin/python scripts/list-commands --write"


def test_the_script_prints_the_document(cli: Cli) -> None:
    """Without --write, it writes no file, and the plugins and the terminal of the user do not matter."""
    cli.install("zz-deploy", "", "commands")
    done = cli.shell(f'"$PYTHON" "{LIST_COMMANDS}"', COLUMNS="60")
    assert (0, (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), "") == done


def test_commands_are_in_named_groups(capsys: pytest.CaptureFixture[str]) -> None:
    """Each heading has its commands, and all texts begin in one column."""
    text = help_of(capsys)
    for heading, group in COMMAND_GROUPS.items():
        [section] = re.findall(rf"^{heading}:\n((?:  .*\n)+)", text, re.MULTILINE)
        assert [f"  {name:<12}{line}" for name, line in group.items()] == section.splitlines()


@pytest.mark.parametrize("command", [run, chat, rpc], ids=["run", "chat", "rpc"])
def test_options_are_in_named_groups(
    command: object, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the options that every command has are without a group; a group without options is not shown."""
    text = help_of(capsys, request.node.callspec.id)
    sections = dict(re.findall(r"^(\w[\w ]+):\n((?:(?:  .*)?\n)+)", text, re.MULTILINE))
    others = re.findall(
        r"--[\w-]+", "".join(re.findall(r"^  -.*", sections.pop("Other options"), re.MULTILINE))
    )
    assert ["--verbose", "--quiet", "--no-color", "--help"] == others
    expected = [*OPTION_GROUPS, *(["Clients"] if command is rpc else [])]
    assert [name for name in expected if command is not rpc or name != "Output"] == list(sections)
