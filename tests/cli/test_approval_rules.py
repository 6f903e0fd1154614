"""Rules of `--allow` and `--deny` for commands: `bash(git status*)`."""

from __future__ import annotations

import shlex
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagent.errors import ConfigurationError
from tinyagent_cli.run.approval_rules import parse_rule

from .conftest import Cli, FakeReply, Serve, tool_result

TOOL = """
from tinyagent import tool

@tool
def bash(command: str) -> str:
    "Run a command."
    with open("ran", "a") as file:
        file.write(command + "\\n")
    return "ran"

@tool
def other(text: str) -> str:
    "Do something else."
    return text
"""


def allows(rule: str, command: str) -> bool:
    """Return whether a rule allows a command."""
    return parse_rule(rule).allows("bash", {"command": command})


def denies(rule: str, command: str) -> bool:
    """Return whether a rule denies a command."""
    return parse_rule(rule).denies("bash", {"command": command})


@pytest.mark.parametrize(
    "command",
    [
        "git status",
        "git  status --short",
        "'git' \"status\" -- 'a;b'",
        "git status 'x > y'",
        'git status "a | b"',
        "git status \\; x",
        "git status 'it'\\''s'",
        'git status "it\'s"',
        "git status *.py",
    ],
)
def test_a_simple_command_is_allowed(command: str) -> None:
    """With any further arguments, however they are quoted."""
    assert allows("bash(git status*)", command)


@pytest.mark.parametrize(
    "command",
    [
        "git status; rm x",
        "git status && rm x",
        "git status & rm x",
        "git status | sh",
        "git status || rm x",
        "git status\nrm x",
        "git status\rrm x",
        "git status > x",
        "git status < x",
        "git status >> x",
        "git status 2>x",
        "git status $(rm x)",
        "git status `rm x`",
        'git status "$(rm x)"',
        'git status "`rm x`"',
        "git status ${x:=$(rm)}",
        "git status $x",
        "git status <(rm x)",
        "git status \\\n; rm x",
        "git status $'a\\';rm x'",
        "git status 'a",
        'git status "a',
        "git status \"it's\" $(rm x) 'y'",
        'git status "\'" ; rm x "\'"',
        'git status "a\\" ; rm x',
        "git status \\' ; rm x \\'",
        'git status "\\$(rm x)"',
        "(git status)",
        "{ git status; }",
    ],
)
def test_a_command_that_may_do_more_is_not_allowed(command: str) -> None:
    """Operators, redirections, substitutions, variables, further lines and open quotes."""
    assert not allows("bash(git status*)", command)


@pytest.mark.parametrize(
    "command",
    [
        "git statusx",
        "git stat",
        "git -c x=y status",
        "X=y git status",
        "/tmp/git status",
        "sudo git status",
        "",
    ],
)
def test_another_command_is_not_allowed(command: str) -> None:
    """Words are compared as a whole, from the first one."""
    assert not allows("bash(git status*)", command)


def test_an_exact_command_has_no_further_arguments() -> None:
    """Without a star at its end, a rule is for one command."""
    assert allows("bash(git status)", "git   'status'")
    assert not allows("bash(git status)", "git status -s")


@given(st.text(alphabet="ab '\"\\;&|$`<>()\n*{}#~=-", max_size=24))
def test_bash_runs_what_is_allowed_as_one_command(text: str) -> None:
    """Whatever follows the words of a rule, bash runs one program, whose first arguments are these words."""
    command = f"echo status {text}"
    if not allows("bash(echo status*)", command):
        return
    # `echo` is a function here, so that each of its calls can be seen.
    script = "set -f; echo() { builtin printf '%s\\0' CALL \"$@\"; }; "
    done = subprocess.run(
        [shutil.which("bash") or "bash", "--norc", "-c", script + command],
        capture_output=True,
        check=False,
        cwd="/",
        env={"PATH": "", "HOME": "/"},
    )
    words = done.stdout.decode().split("\0")[:-1]
    assert ["CALL", "status"] == words[:2]
    assert 1 == words.count("CALL")
    assert b"" == done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "git push",
        "git push origin",
        "cd x && git push",
        "true; git push",
        "true | git push",
        "x=1 git push",
        "sudo git push",
        "env A=b git push",
        "/usr/bin/git push",
        "echo $(git push)",
        "echo `git push`",
        "(git push)",
        "true\ngit push",
        "{ git push; }",
        "'git' push",
        "git push 'open",
    ],
)
def test_a_denied_command_is_found_in_a_line(command: str) -> None:
    """At the start of every command."""
    assert denies("bash(git push*)", command)


@pytest.mark.parametrize("command", ["git status", "echo git push", "git 'push x'", "grep push"])
def test_other_commands_are_not_denied(command: str) -> None:
    """Words in the place of arguments do not count."""
    assert not denies("bash(git push*)", command)


@pytest.mark.parametrize(
    "rule",
    [
        "bash(",
        "bash()",
        "bash(*)",
        "bash(git",
        "(git)",
        "bash(git; rm)",
        "bash(git * x)",
        "bash('git)",
        "bash(a $b)",
    ],
)
def test_a_malformed_rule_is_an_error(rule: str) -> None:
    """A rule is never wider than it looks."""
    with pytest.raises(ConfigurationError, match="is not a rule"):
        parse_rule(rule)


def test_names_match_as_before() -> None:
    """With `*` and `?`, and for every call."""
    assert parse_rule("b*").allows("bash", {})
    assert not parse_rule("bash(x)").allows("bash", {"text": "x"})
    assert not parse_rule("bash(x)").allows("other", {"command": "x"})


def test_with_the_command_line(cli: Cli, serve: Serve) -> None:
    """Allowed commands run, denied ones are refused even with `-y`, and the record names the rule."""
    cli.file("mytools.py", TOOL)
    commands = ["git status -s", "git status; rm x", "git push"]
    server = serve(
        *(FakeReply.tool_calls(("bash", {"command": one})) for one in commands), FakeReply.text("Done.")
    )
    run = ("run", "-m", "local/m", "-t", "mytools.py")
    done = cli(*run, "--allow", "bash(git status*)", "-v", "Go")
    assert 0 == done.code, done.err
    assert ["git status -s"] == (cli.work / "ran").read_text().splitlines()
    assert "bash: allowed by --allow bash(git status*)" in " ".join(done.err.split())
    server.add(
        *(FakeReply.tool_calls(("bash", {"command": one})) for one in commands), FakeReply.text("Done.")
    )
    assert 0 == cli(*run, "-y", "--deny", "bash(git push*)", "Go").code
    assert ["git status -s", *commands[:2]] == (cli.work / "ran").read_text().splitlines()
    assert "does not allow 'bash(git push*)'" in tool_result(server)


def test_wrong_rules_are_reported(cli: Cli, serve: Serve) -> None:
    """A malformed rule, a tool without commands, and a rule in the configuration."""
    cli.file("mytools.py", TOOL)
    serve(FakeReply.text("Done."))
    run = ("run", "-m", "local/m", "-t", "mytools.py", "Go")
    done = cli(*run, "--allow", "bash(git; rm)")
    assert 3 == done.code
    assert "is not a rule" in done.err
    done = cli(*run, "--allow", "other(x)")
    assert (2, True) == (done.code, "has no argument 'command'" in done.err)
    config = (cli.home / "config.toml").read_text()
    cli.config(f'[run]\nallow = ["bash(git status*)"]\ndeny = ["bash("]\n{config}')
    assert (3, True) == ((done := cli(*run)).code, "'bash(' is not a rule" in done.err)


def test_the_words_of_a_shell() -> None:
    """The parser of the rules agrees with `shlex` on what it accepts."""
    assert ["git", "commit", "-m", "it's; fine"] == shlex.split('git commit -m "it\'s; fine"')
    assert allows('bash(git commit -m "it\'s; fine")', 'git commit -m "it\'s; fine"')
