"""The root command: its imports, its commands, and the reporting of errors."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from tinyagent import errors
from tinyagent_cli import exit_codes as failures
from tinyagent_cli.app import ELSEWHERE
from tinyagent_cli.commands import COMMANDS
from tinyagent_cli.terminal.signals import Interrupted

from .conftest import Cli

MODULES = """
import sys
from tinyagent_cli.main import main
code = main({args!r})
sys.stderr.write(" ".join(sys.modules))
sys.exit(code)
"""


def imported_by(cli: Cli, *args: str) -> set[str]:
    """Return the modules that a command has imported at its end."""
    script = cli.file("modules.py", MODULES.format(args=list(args)))
    done = cli.shell(f'"$PYTHON" -P {script}')
    assert 0 == done.code, done.err
    return set(done.err.splitlines()[-1].split(" "))


def test_version_imports_next_to_nothing(cli: Cli) -> None:
    """`--version` imports neither click, the library nor the metadata of distributions."""
    assert set() == imported_by(cli, "--version") & {
        "click", "tinyagent", "msgspec", "importlib.metadata", "typing", "pathlib", "re",
    }  # fmt: skip


def test_help_imports_no_command(cli: Cli) -> None:
    """`--help` imports neither commands nor the library."""
    modules = imported_by(cli, "--help")
    assert set() == {name for name in modules if name.startswith("tinyagent.")}
    assert set() == modules & {f"tinyagent_cli.commands.{name}" for name in COMMANDS}
    assert set() == modules & {"tinyagent", "msgspec", "asyncio", "pluggy", "importlib.metadata"}


def test_help_of_a_command_imports_only_that_command(cli: Cli) -> None:
    """`run --help` imports neither the library nor another command."""
    modules = imported_by(cli, "run", "--help")
    assert {"tinyagent_cli.commands.run"} == modules & {f"tinyagent_cli.commands.{name}" for name in COMMANDS}
    assert set() == modules & {"tinyagent", "msgspec", "asyncio", "pluggy", "importlib.metadata"}


def test_version_is_the_distributions(cli: Cli) -> None:
    """`--version` and the library report the same version."""
    import tinyagent

    expected = f"tinyagent {tinyagent.__version__}\n"
    assert (0, expected, "") == cli("--version")
    assert (0, expected, "") == cli("-v", "--version")


def test_no_command_shows_the_help_as_an_error(cli: Cli) -> None:
    """`tinyagent` or a group alone shows its help on standard error, with exit code 2."""
    for args in ([], ["tools"]):
        done = cli(*args)
        assert (2, "") == (done.code, done.out)
        assert "Usage: tinyagent" in done.err


def test_an_unknown_command_names_the_nearest(cli: Cli) -> None:
    """A misspelt command gets a suggestion; a prompt without `run` gets the right command."""
    hint = "Try 'tinyagent --help' for help."
    assert (2, "", f"Error: No such command 'rum'. Did you mean 'run'?\n{hint}\n") == cli("rum")
    assert f"Error: No such command 'hi'. To ask a model: tinyagent run \"hi\"\n{hint}\n" == cli("hi").err
    assert 'tinyagent run "What is new?"' in cli("What is new?").err
    assert "tinyagent run 'What is $HOME?'" in cli("What is $HOME?").err


def test_several_tools_in_one_option(cli: Cli) -> None:
    """For `-t calc,fs`, as pi has it, the message shows how to name several tools."""
    done = cli("run", "-m", "demo", "-t", "calc, fs", "Hi")
    assert (3, "") == (done.code, done.out)
    assert "Error: Unknown tool 'calc, fs'.\nName each tool by itself: -t calc -t fs\n" == done.err


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_command_of_a_similar_program_names_ours(cli: Cli, name: str) -> None:
    """For `tinyagent logs`, as in llm, the message names the command with this purpose, which exists."""
    ours = ELSEWHERE[name]
    assert f"Error: No such command {name!r}. Did you mean {ours!r}?\n" in cli(name, "x").err
    assert 0 == cli(*ours.split(), "--help").code


def test_a_misspelt_command_of_a_group_names_the_nearest(cli: Cli) -> None:
    """A misspelt command of a group gets a suggestion, also for one that is not imported yet."""
    assert "Did you mean 'list'?" in cli("tools", "lst").err
    assert cli("run", "--modle", "demo", "Hi").err.startswith(
        "Error: No such option '--modle'. Did you mean '--model'?\n"
    )
    assert "Did you mean 'doctor'?" in cli("plugins", "docter").err


@pytest.mark.parametrize("prompt", ["- buy milk", "-5 + 3", "--- a/x", "--foo", "-n what is it?"])
def test_a_prompt_that_begins_with_a_dash(cli: Cli, prompt: str) -> None:
    """The message shows how to write a prompt that starts with a dash, and that works."""
    for args in (["run", prompt], ["run", "-q", "-m", "demo", prompt]):
        done = cli(*args)
        assert (2, True) == (done.code, f'tinyagent run -- "{prompt}"' in done.err or prompt == "--foo")
        assert "tinyagent run -- " in done.err
    assert prompt in cli("run", "-q", "-m", "demo", "--", prompt).out


def test_options_of_a_run_without_run(cli: Cli) -> None:
    """`tinyagent -m demo "Hi"` gets the command with `run`."""
    assert 'To ask a model: tinyagent run -m "demo" "Hi"' in cli("-m", "demo", "Hi").err
    assert 'To ask a model: tinyagent run -- "- item"' in cli("- item").err
    for option in ("-p", "--print"):  # as in Claude Code and pi
        expected = f"Error: No such option '{option}'.\nTo ask a model: tinyagent run \"What is new?\"\n"
        assert cli(option, "What is new?").err.startswith(expected)
    for args in (("-x", "run", "Hi"), ("-x", "-c", "chat", "Hi"), ("-m", "demo", "run", "Hi")):
        assert "Options of a command come after it: tinyagent " in cli(*args).err
    assert 'come after it: tinyagent run -m "demo" "Hi"' in cli("-m", "demo", "run", "Hi").err
    misspelt = cli("--verison").err
    assert ("--version" in misspelt, "To ask a model" in misspelt) == (True, False)


def test_words_without_quotes(cli: Cli) -> None:
    """A prompt of several arguments is an error that shows the quotes."""
    done = cli("run", "-m", "demo", "what", "is", "new")
    assert (2, True) == (done.code, 'quotes: tinyagent run "' in done.err)


EXIT_CODES = {
    errors.TinyAgentError: 1,
    errors.ConfigurationError: 3,
    errors.AuthenticationError: 3,
    errors.MissingKeyError: 3,
    errors.NotConfiguredError: 3,
    errors.AgentStateError: 1,
    errors.ProviderError: 1,
    errors.RateLimitError: 1,
    errors.ContextOverflowError: 1,
    errors.ConnectionFailedError: 1,
    errors.ProviderTimeoutError: 1,
    errors.StreamInterruptedError: 1,
    errors.InvalidReplyError: 1,
    errors.ContentFilterError: 1,
    errors.IncompleteAnswerError: 4,
    errors.OutputTruncatedError: 4,
    errors.EmptyReplyError: 4,
    errors.InvalidAnswerError: 4,
    errors.RunLimitError: 4,
    errors.RunAbortedError: 1,
    errors.InvalidMessageError: 2,
    errors.InputError: 2,
    errors.ToolError: 1,
    errors.ToolArgumentsError: 1,
    errors.ToolRefusedError: 1,
    errors.ToolSchemaError: 3,
    errors.PluginError: 3,
    errors.WorkerLostError: 1,
    errors.RecordError: 2,
}


def test_every_error_has_its_exit_code() -> None:
    """Every error class has an exit code in the table."""
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    tree = {kind for kind in kinds if issubclass(kind, errors.TinyAgentError)}
    assert tree == set(EXIT_CODES)
    assert EXIT_CODES == {kind: failures.describe(kind("words")).exit_code for kind in tree}


def test_a_foreign_error_with_a_kind() -> None:
    """A plugin's own error class is reported by its kind and status; without them it is a defect."""

    class ForeignError(Exception):
        kind = "acme_down"
        status = 503
        retry_after = 3

    failure = failures.describe(ForeignError("cold"))
    assert ("acme_down", "ForeignError: cold", 1, 503, 3) == (
        failure.kind,
        failure.message,
        failure.exit_code,
        failure.status,
        failure.retry_after,
    )
    ForeignError.kind = "authentication"
    assert 3 == failures.describe(ForeignError("who")).exit_code
    assert "internal" == failures.describe(ValueError("x")).kind


def test_signals_and_limits_have_theirs() -> None:
    """2 usage, 4 incomplete, 124 time-out, 130 SIGINT, 143 SIGTERM, 141 closed pipe."""
    given = [
        failures.InputError("x"),
        failures.ToolsRefusedError("x"),
        failures.RunTimeoutError("x"),
        Interrupted(2),
        Interrupted(15),
        failures.OutputClosedError("x"),
        KeyboardInterrupt(),
        ValueError("x"),
    ]
    assert [2, 4, 124, 130, 143, 141, 130, 1] == [failures.describe(error).exit_code for error in given]


BROKEN_COMMAND = """
import click
from tinyagent import hookimpl

@hookimpl
def tinyagent_register_commands(group):
    @group.command()
    def deploy():
        "Deploy it."
        raise ZeroDivisionError("by zero")
"""


def test_an_unknown_exception_is_one_line(cli: Cli) -> None:
    """Any exception gives one line and exit code 1; -vv adds the traceback."""
    cli.install("deploy", BROKEN_COMMAND, "commands")
    done = cli("deploy")
    assert (1, "") == (done.code, done.out)
    assert done.err.startswith("Error: Internal error: ZeroDivisionError: by zero\n")
    assert "Traceback (most recent call last)" in cli.shell("$T -vv deploy").err


def test_commands_of_plugins_are_listed_by_their_metadata(cli: Cli) -> None:
    """--help lists commands of plugins with their distributions, without an import."""
    cli.install("deploy", "raise RuntimeError('imported')", "commands", version="2.1")
    done = cli("--help")
    assert 0 == done.code
    assert "From deploy 2.1." in done.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(cli: Cli, shell: str) -> None:
    """`completion SHELL` prints the script for the shell."""
    done = cli("completion", shell)
    assert 0 == done.code
    assert "_TINYAGENT_COMPLETE" in done.out


@pytest.mark.usefixtures("new_processes")
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_no_encoding_makes_a_command_fail(cli: Cli, encoding: str) -> None:
    """Characters that standard output cannot encode are written as escapes."""
    cli.file(
        "tools.py",
        'from tinyagent import tool\n@tool(read_only=True, description="漢 \\udcff")\ndef f(): pass\n',
    )
    done = cli.start("tools", "show", "./tools.py", environment={"PYTHONIOENCODING": encoding})
    out, err = done.communicate(timeout=60)
    assert (0, b"") == (done.returncode, err)
    assert b"f\n" == out[:2]


def test_on_windows(tmp_path: Path) -> None:
    """There the command line says in a sentence that it needs another system."""
    script = (
        "import sys\nsys.platform, sys.modules['fcntl'] = 'win32', None\n"
        "from tinyagent_cli.main import main\nsys.exit(main(['run', '-m', 'demo', 'Hi']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert 3 == done.returncode
    assert "Error: The command line of tinyagent does not run on Windows.\n" in done.stderr
