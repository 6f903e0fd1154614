"""The standard streams of a command: plugins do not disturb them, and they may be closed or full."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import Cli, Done

pytestmark = pytest.mark.usefixtures("pip")

READS_STDIN = """
import subprocess, sys
from tinyagent import tool

imported = sys.stdin.read() + subprocess.run(["cat"], capture_output=True, text=True).stdout

@tool(read_only=True)
def read() -> str:
    "Read standard input, here and in a child process."
    child = subprocess.run(["cat"], capture_output=True, text=True).stdout
    return repr(imported + sys.stdin.read() + child)
"""


@pytest.mark.parametrize("command", ["run -q --no-stdin -m demo -t ./reads.py read", "tools call ./reads.py"])
def test_plugins_have_no_standard_input(cli: Cli, command: str) -> None:
    """Plugins and their children do not read standard input of the command."""
    cli.file("reads.py", READS_STDIN)
    done = cli.shell(f"printf 'a\\nb\\n' | while read line; do $T {command} > \"$line\"; done; cat a b")
    assert (0, 2) == (done.code, done.out.count("''"))


def test_a_plugin_that_reads_while_it_is_imported_takes_nothing_of_the_prompt(cli: Cli) -> None:
    """A plugin that reads standard input takes nothing from the prompt."""
    cli.file("reads.py", READS_STDIN)
    done = cli.shell("printf 'from the pipe' | $T run -q -m demo -t ./reads.py 'Say it.'")
    assert "You said: from the pipe Say it." in done.out


PRINTS = """
import atexit, os, subprocess
from tinyagent import tool

def shout(text):
    print(text)
    os.write(1, text.encode() + b"\\n")
    subprocess.run(["echo", text])

shout("at import")
atexit.register(shout, "at exit")

@tool(read_only=True)
def look() -> str:
    "Look."
    shout("in a call")
    return "looked"
"""


@pytest.mark.usefixtures("new_processes")
@pytest.mark.parametrize(
    "command",
    [
        "run --jsonl -m demo -t ./prints.py look",
        "run -m demo -t ./prints.py look",
        "tools call ./prints.py:look",
        "tools call --json ./prints.py:look",
        "tools show ./prints.py",
        "tools show --json ./prints.py",
    ],
)
def test_what_plugins_print_goes_to_standard_error(cli: Cli, command: str) -> None:
    """Output of plugins, by Python, descriptor or child process, goes to standard error."""
    cli.file("prints.py", PRINTS)
    done = cli.shell(f"$T {command}")
    assert (0, 0, 0) == (done.code, done.out.count("at import"), done.out.count("at exit"))
    assert (3, 3) == (done.err.count("at import"), done.err.count("at exit"))
    assert "in a call" not in done.out


# ---- closed and full ---------------------------------------------------------------------------------

LOOK = """
from tinyagent import tool

@tool(read_only=True)
def look() -> str:
    "Look."
    return "looked"
"""
EVERY_COMMAND = [
    "--version",
    "--help",
    "run --help",
    "models list",
    "models list --json",
    "tools list",
    "tools show ./mytools.py",
    "tools show --json ./mytools.py",
    "tools call ./mytools.py:look",
    "plugins list",
    "plugins list --check --json",
    "approvals list --json",
    "doctor",
    "schema events",
    "completion bash",
    "run -q -m demo Hi",
    "run -q --jsonl -m demo Hi",
]

A_COMMAND_OF_EACH_KIND = ["--version", "tools show ./mytools.py", "run -q --jsonl -m demo Hi"]
"""A text, a list and a run, for the streams with which Python starts."""


def run(cli: Cli, line: str) -> Done:
    """Run a line of shell. One plugin is installed, because each is checked in a process of its own."""
    cli.file("mytools.py", LOOK)
    return cli.shell(line, PYTHONUNBUFFERED="1", TINYAGENT_PLUGINS="calc")


def check_full_disk(cli: Cli, command: str) -> None:
    done = run(cli, f"$T {command} > /dev/full")
    assert 1 == done.code, done.err
    assert "annot write to standard output: No space left on device" in done.err
    assert 1 == done.err.count("Error")


def check_closed_streams(cli: Cli, command: str) -> None:
    done = run(cli, f"$T {command} >&-")
    assert (2, "Error: Standard output is closed.") == (done.code, done.err.splitlines()[0])
    alone = ("2>&-", "<&-") if command.startswith("run ") else ()
    for closed in (*alone, "<&- 2>&-"):
        done = run(cli, f"$T {command} {closed}")
        assert done.code in ((0, 1, 3) if command == "doctor" else (0,)), done.err
        assert "Error" not in done.err


def check_reader_that_left(cli: Cli, command: str) -> None:
    # With `exec`, the shell waits for the reader, and then becomes the command.
    done = run(cli, f"exec > >(exec true); wait $!; $T {command}")
    assert (0 if command == "--version" else 141, "") == (done.code, done.err)


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_a_full_disk_is_one_clear_error(cli: Cli, command: str) -> None:
    """A full disk gives one message and exit code 1, also without buffering."""
    check_full_disk(cli, command)


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_closed_standard_streams_cause_no_traceback(cli: Cli, command: str) -> None:
    """Closed standard output is an error; the other streams are not needed."""
    check_closed_streams(cli, command)


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_a_reader_that_left_causes_no_message(cli: Cli, command: str) -> None:
    """A closed pipe causes no message, also without buffering."""
    check_reader_that_left(cli, command)


@pytest.mark.usefixtures("new_processes")
@pytest.mark.parametrize("command", A_COMMAND_OF_EACH_KIND)
@pytest.mark.parametrize("check", [check_full_disk, check_closed_streams, check_reader_that_left])
def test_streams_with_which_python_starts(cli: Cli, check: Callable[[Cli, str], None], command: str) -> None:
    """The streams that Python itself makes have the same faults."""
    check(cli, command)


@pytest.mark.parametrize("command", ["approvals list", "tools", "schema", "models", "run -m demo Hi"])
def test_messages_that_cannot_be_written_change_no_exit_code(cli: Cli, command: str) -> None:
    """A full disk under standard error does not change the exit code."""
    code = cli.shell(f"$T {command} > /dev/null 2> /dev/null").code
    assert code == cli.shell(f"$T {command} > /dev/null 2> /dev/full", PYTHONUNBUFFERED="1").code


CLOSES = """
import sys
from tinyagent import tool

@tool(read_only=True)
def work() -> str:
    "Close the standard streams."
    sys.stdout.close()
    sys.stderr.close()
    return "closed"
"""


def test_a_plugin_that_closes_the_standard_streams_changes_no_exit_code(cli: Cli) -> None:
    """A plugin that closes the standard streams changes neither the reply nor the exit code."""
    cli.file("closes.py", CLOSES)
    done = cli.shell("$T run --jsonl -m demo -t ./closes.py work")
    assert (0, 0, True) == (done.code, done.result["exit_code"], done.result["ok"])
