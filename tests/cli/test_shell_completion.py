"""Shell completion through click's own protocol, without imports of plugins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tinyagent_cli.commands import COMMANDS

from .conftest import SECONDS, TOOLS, Cli, FakeReply, Serve
from .test_main import MODULES

BROKEN = "raise RuntimeError('imported')"


def complete(cli: Cli, line: str, shell: str = "bash") -> list[str]:
    """Return what the shell offers at the end of the line."""
    words = line.split(" ")
    given = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    if shell == "fish":
        given["COMP_CWORD"] = words[-1]
    done = cli(_TINYAGENT_COMPLETE=f"{shell}_complete", **given)
    assert (0, "") == (done.code, done.err)
    return [line for line in done.out.splitlines() if line]


def offered(cli: Cli, line: str) -> list[str]:
    """Return the offered values."""
    return [text.partition(",")[2] for text in complete(cli, line)]


def test_commands(cli: Cli) -> None:
    """Built-in commands and those of plugins are completed."""
    cli.install("zz-deploy", BROKEN, "commands")
    assert ["plugins"] == offered(cli, "tinyagent pl")
    assert ["zz-deploy"] == offered(cli, "tinyagent zz")
    assert ["doctor"] == offered(cli, "tinyagent plugins do")


@pytest.mark.parametrize("before", ["run -t", "tools show", "tools call"])
def test_tools(cli: Cli, before: str) -> None:
    """Installed tool plugins are completed; the shell completes paths."""
    cli.install("zz-weather", BROKEN)
    assert ["zz-weather"] == offered(cli, f"tinyagent {before} zz")
    assert ["file,./my"] == complete(cli, f"tinyagent {before} ./my")


def test_single_tools(cli: Cli) -> None:
    """`--allow` and `--deny` offer the tools of `-t`, or of all plugins; their source is read, not run."""
    source = (
        f"{BROKEN}\nimport tinyagent as t\nbad = t.AgentTool('zz_fog', execute=print)\n"
        "x = t.AgentTool(name=f'zz_{1}', execute=print)\nform = t.AgentTool('zz_form')\n"
    )
    cli.install("zz-sky", source + "@t.tool(name='zz_rain')\ndef rain(): pass\n@other\ndef zz_no(): pass\n")
    cli.install("zz-odd", "def tool(:")
    cli.file("zz.py", f"{BROKEN}\n{TOOLS}")
    assert ["zz_fog", "zz_rain"] == offered(cli, "tinyagent run --allow zz_")
    assert ["zz_rain"] == offered(cli, "tinyagent chat -t zz-sky.zz_rain --deny zz")
    assert ["look", "write"] == offered(cli, "tinyagent rpc -t ./zz.py --allow ")
    assert ["look"] == offered(cli, "tinyagent run -t zz.py:look -t zz-odd -t zz-none --allow ")
    assert ["zz-sky.zz_fog"] == offered(cli, "tinyagent run -t zz-sky.zz_f")
    done = cli("run", "-m", "demo", "-t", "zz_fog", "Hi")
    assert "a tool of the plugin 'zz-sky'.\nWrite zz-sky.zz_fog, or zz-sky for all" in done.err
    cli.config('[run]\ntools = ["zz-sky"]\n')
    assert ["zz_fog", "zz_rain"] == offered(cli, "tinyagent run --deny ")
    assert ["bash,zz_fog"] == offered(cli, "tinyagent config set run.allow bash,zz_f")


def test_schemas(cli: Cli) -> None:
    """A schema may be a file, so the shell completes paths."""
    assert ["file,per"] == complete(cli, "tinyagent run --schema per")
    assert ["file,per"] == complete(cli, "tinyagent run --schema-multi per")


def test_plugins(cli: Cli) -> None:
    """Distributions and the names of their plugins are completed."""
    cli.install("zz-weather", BROKEN, entry="zz-sun")
    assert ["zz-weather", "zz-sun"] == offered(cli, "tinyagent plugins uninstall zz")


def test_providers(cli: Cli) -> None:
    """Built-in, configured and installed providers are completed with their slash."""
    cli.install("ooo", BROKEN, "providers")
    cli.config('[providers.oak]\nbase_url = "http://127.0.0.1:1"\n')
    assert ["oak/", "ollama/", "ooo/", "openai/", "openrouter/"] == offered(cli, "tinyagent run -m o")
    assert ["replay:"] == offered(cli, "tinyagent run -m rep")
    assert ["oak", "ollama", "ooo", "openai", "openrouter"] == offered(cli, "tinyagent models list o")


def test_models(cli: Cli, serve: Serve) -> None:
    """Listed ids, defaults and the configured model are completed without a request."""
    server = serve(FakeReply.json({"data": [{"id": "big"}, {"id": "small"}]}))
    assert [] == offered(cli, "tinyagent run -m local/")
    assert 0 == cli("models", "list", "local").code
    assert ["local/big", "local/small"] == offered(cli, "tinyagent run -m local/")
    assert ["local/small"] == offered(cli, "tinyagent run -m local/s")
    assert 1 == len(server.requests)
    cli.config('[run]\nmodel = "openai/mine"\n')
    assert ["openai/gpt-4.1-mini", "openai/mine"] == offered(cli, "tinyagent run -m openai/")


def test_a_broken_configuration_completes_all_the_same(cli: Cli) -> None:
    """With a broken configuration, the built-in names are completed."""
    cli.config("[run")
    assert ["openai/", "openrouter/"] == offered(cli, "tinyagent run -m open")


@pytest.mark.parametrize(
    ("shell", "expected"),
    [
        ("bash", ["plain,zz-weather"]),
        ("zsh", ["plain", "zz-weather", "zz-weather 1.0"]),
        ("fish", ["plain,zz-weather\tzz-weather 1.0"]),
    ],
)
def test_every_shell(cli: Cli, shell: str, expected: list[str]) -> None:
    """Each shell gets the format of its script; zsh and fish also show the source of a tool."""
    cli.install("zz-weather", BROKEN)
    assert expected == complete(cli, "tinyagent run -t zz", shell)


def test_files_after_a_prefix(cli: Cli) -> None:
    """The shell does not know that the rest is a path. Folders end with a slash."""
    cli.file("run.jsonl", "")
    cli.file("tools.py", "")
    cli.file("text.txt", "")
    cli.file(".hidden", "")
    (cli.work / "sub").mkdir()
    cli.file("sub/notes.md", "")
    assert ["replay:run.jsonl"] == offered(cli, "tinyagent run -m replay:r")
    assert ["@sub/notes.md"] == offered(cli, "tinyagent run @sub/")
    assert ["@run.jsonl", "@sub/", "@text.txt", "@tools.py"] == offered(cli, "tinyagent chat -s @")
    assert ["@.hidden"] == offered(cli, "tinyagent run -s @.")
    assert [] == offered(cli, "tinyagent run @nix/")
    assert [] == offered(cli, "tinyagent run sub")
    assert ["tools.py"] == offered(cli, "tinyagent run -t too")


def test_sessions_and_records(cli: Cli) -> None:
    """A name of a session, or a file."""
    assert 0 == cli("run", "-m", "demo", "--session", "trip", "Hi").code
    cli.file("trip.jsonl", "")
    cli.file("other.jsonl", "")
    for before in ("run --session", "chat --session", "sessions show", "sessions export"):
        assert ["trip"] == offered(cli, f"tinyagent {before} t")
    for before in ("replay", "events text", "events validate"):
        assert ["trip", "trip.jsonl"] == offered(cli, f"tinyagent {before} t")
        assert ["file,o"] == complete(cli, f"tinyagent {before} o")


def test_values_of_settings(cli: Cli) -> None:
    """They depend on the key: models, tools, choices, true and false."""
    cli.install("zz-weather", BROKEN)
    cli.config('[aliases]\nquick = "openai/gpt-5"\n')
    assert ["quick"] == offered(cli, "tinyagent config set run.model qui")
    assert ["quick"] == offered(cli, "tinyagent config set aliases.new qui")
    assert ["calc,zz-weather"] == offered(cli, "tinyagent config set run.tools calc,zz")
    assert ["minimal", "medium"] == offered(cli, "tinyagent config set run.thinking m")
    assert ["true", "false"] == offered(cli, "tinyagent config set sessions.keep ")
    assert ["openai-completions", "openai-responses"] == offered(
        cli, "tinyagent config set providers.local.api openai"
    )
    assert [] == offered(cli, "tinyagent config set run.max_turns ")
    assert [] == offered(cli, "tinyagent config set nix.nix ")


def test_approvals(cli: Cli) -> None:
    """The ids of stored approvals, with what they approve."""
    assert [] == offered(cli, "tinyagent approvals revoke ")
    cli.file("tools.py", TOOLS)
    prompt = b'{"type": "prompt", "message": "write text=x"}\n'
    process = cli.start("rpc", "-m", "demo", "-t", "tools.py", stdin=subprocess.PIPE)
    process.stdin.write(prompt)
    process.stdin.flush()
    while b"approval_request" not in process.stdout.readline():
        pass
    process.communicate(b'{"type": "approve", "request": "approval-1", "answer": "project"}\n', SECONDS)
    [shown] = complete(cli, "tinyagent approvals revoke ", "fish")
    value, _, text = shown.partition("\t")
    assert 'write {"text": "x"}' == text
    assert 0 == cli("approvals", "revoke", value.removeprefix("plain,")).code


@pytest.mark.parametrize("line", ["tinyagent pl", "tinyagent run -t c", "tinyagent sessions show x"])
def test_a_completion_imports_little(cli: Cli, line: str) -> None:
    """Commands, tools and sessions are completed without the library and without other commands."""
    script = cli.file("modules.py", MODULES.format(args=[]))
    shell = {"COMP_LINE": line, "COMP_WORDBREAKS": ":=", "_TINYAGENT_COMPLETE": "bash_complete"}
    done = cli.shell(f'"$PYTHON" -P {script}', **shell)
    modules = set(done.err.split(" "))
    assert set() == modules & {"tinyagent", "msgspec", "asyncio", "pluggy", "importlib.metadata"}
    commands = modules & {f"tinyagent_cli.commands.{name}" for name in COMMANDS}
    assert len(commands) <= 1


def test_hostile_names_reach_no_terminal(cli: Cli, serve: Serve) -> None:
    """A model with control characters in its name is not offered."""
    serve(FakeReply.json({"data": [{"id": "a\x1b[31m"}, {"id": "b"}]}))
    assert 0 == cli("models", "list", "local").code
    assert ["local/b"] == offered(cli, "tinyagent run -m local/")


SHELLS = {
    "bash --norc --noprofile -i": "PS1='$ '; HISTFILE=; . <(tinyagent completion bash)",
    "zsh -f -i": "PS1='$ '; autoload -U compinit; compinit -u -D; . <(tinyagent completion zsh)",
    "fish --no-config --private -i": (
        "function fish_prompt; echo -n '$ '; end; tinyagent completion fish | source"
    ),
}
"""Shell -> the commands that set it up."""


@pytest.mark.parametrize("shell", SHELLS, ids=["bash", "zsh", "fish"])
def test_a_real_shell(cli: Cli, serve: Serve, shell: str) -> None:
    """Words with colons, `=` and blanks are completed, and a space follows only a complete word.

    A shell that is not installed is skipped; in CI that is a failure.
    """
    program = shell.split()
    if shutil.which(program[0]) is None:
        absent = f"{program[0]} is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(absent)
        pytest.skip(absent)
    serve(FakeReply.json({"data": [{"id": "big:free"}, {"id": "big:paid"}]}))
    assert 0 == cli("models", "list", "local").code
    assert 0 == cli("run", "-m", "demo", "--session", "my trip", "Hi").code
    cli.file("run.jsonl", "")
    (cli.home / "templates").mkdir()
    (cli.home / "templates" / "review.md").write_text(
        '+++\n[defaults]\nlanguage = "French, or so"\n+++\n{{ language }}'
    )
    terminal = cli.on_terminal(
        program=program, columns=120,
        environment={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(cli.work)},
    )  # fmt: skip
    terminal.type(f"{SHELLS[shell]}; echo rea\\dy\n")
    terminal.expect("ready\r\n")
    terminal.expect_line("$")
    for typed, shown in (
        ("compl", "completion X"),
        ("run -m local/big:f", "run -m local/big:free X"),
        ("run --model=local/big:p", "run --model=local/big:paid X"),
        ("run -m replay:ru", "run -m replay:run.jsonl X"),
        ("run -p review -P la", "run -p review -P language=X"),
        ("run --schema ru", "run --schema run.jsonl X"),
        ("sessions show my", "sessions show my\\ trip X"),
    ):
        terminal.type(f"tinyagent {typed}\tX")
        terminal.expect_line(f"$ tinyagent {shown}")
        terminal.type("\x15")
        terminal.expect_line("$")
    terminal.type("exit\n")
    terminal.end()
