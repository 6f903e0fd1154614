"""Bad input gives a clear message, the documented exit code, no traceback, and a complete record."""

from __future__ import annotations

import os

import pytest

from tinyagent.testing.server import Hangup, chat_chunk, sse
from tinyagent_cli.exit_codes import describe

from .conftest import Cli, FakeReply, Serve

CASES = {
    "no prompt": (["-m", "demo"], 2, "There is no prompt."),
    "an empty prompt": (["-m", "demo", " "], 2, "There is no prompt."),
    "no model": (["Hi"], 3, "-m demo"),
    "no key": (["-m", "openai/gpt-4.1", "Hi"], 3, "OPENAI_API_KEY"),
    "unknown provider": (["-m", "opnai/x", "Hi"], 3, "Did you mean 'openai'?"),
    "no provider": (["-m", "/x", "Hi"], 3, "-m names no provider"),
    "a provider without an id": (["-m", "ollama", "Hi"], 3, "ollama/MODEL-ID"),
    "unknown tool": (["-m", "ollama/x", "-t", "nope", "Hi"], 3, "Unknown tool 'nope'"),
    "no such tool file": (["-m", "ollama/x", "-t", "./nope.py", "Hi"], 3, "'./nope.py' does not exist"),
    "no such file": (["-m", "ollama/x", "-f", "nope.txt", "Hi"], 2, "Cannot read nope.txt: No such file"),
    "a directory as a file": (["-m", "ollama/x", "-f", ".", "Hi"], 2, "Cannot read .: Is a directory"),
    "a binary file": (["-m", "ollama/x", "-f", "binary", "Hi"], 2, "PNG, JPEG, GIF, WebP"),
    "a NUL in a file": (["-m", "ollama/x", "-f", "nul", "Hi"], 2, "nul is binary, not text"),
    "no such history": (["-m", "ollama/x", "--history", "nope", "Hi"], 2, "Cannot read nope"),
    "malformed history": (["-m", "ollama/x", "--history", "nul", "Hi"], 2, "--history nul: line 1"),
    "no such system prompt": (["-m", "ollama/x", "-s", "@nope", "Hi"], 2, "Cannot read nope"),
    "stdin twice": (["-m", "ollama/x", "--history", "-", "-f", "-", "Hi"], 2, "can be used once"),
    "an option without a value": (["-m", "ollama/x", "-O", "seed", "Hi"], 2, "KEY=VALUE"),
    "a rule for a tool that is not there": (["-m", "ollama/x", "--deny", "shel", "Hi"], 2, "--deny shel"),
    "an unknown option": (["-m", "ollama/x", "--jsnl", "Hi"], 2, "No such option"),
    "a bad number": (["-m", "ollama/x", "--max-turns", "0", "Hi"], 2, "--max-turns"),
    "a bad level": (["-m", "ollama/x", "--thinking", "hard", "Hi"], 2, "'hard' is not one of"),
    "two prompts": (["-m", "ollama/x", "Hi", "there"], 2, "unexpected extra argument"),
    "no replay file": (["-m", "replay:nope.jsonl", "Hi"], 2, "nope.jsonl"),
    "a replay without a file": (["-m", "replay", "Hi"], 3, "A replay needs its file: -m replay:FILE"),
    "a replay with an empty file name": (["-m", "replay:", "Hi"], 3, "A replay needs its file"),
    "an output that is a directory": (
        ["-m", "ollama/x", "-o", ".", "Hi"],
        2,
        "Cannot write to .: Is a directory",
    ),
    "an output on standard output": (["-m", "ollama/x", "-o", "-", "Hi"], 2, "--jsonl"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(cli: Cli, case: str) -> None:
    """One message names the problem and the next step, and the record and the exit code agree."""
    cli.file("binary", b"\x89\xfe\x00\xff")
    cli.file("nul", b"a\0b")
    args, code, words = CASES[case]
    done = cli("run", "--jsonl", *args)
    assert code == done.code, done.err
    assert words in done.err
    assert ["session", "result"] == [line["type"] for line in done.lines]
    assert done.result["error"]["kind"]


def test_without_jsonl_standard_output_is_empty(cli: Cli) -> None:
    """An error is written to standard error only."""
    done = cli("run", "-m", "demo")
    assert (2, "") == done[:2]
    assert done.err.startswith("Error: There is no prompt.\n")


def test_a_bad_option_ends_the_output_file_too(cli: Cli) -> None:
    """-o FILE ends with a result line, even if the options are invalid."""
    done = cli("run", "-o", "run.jsonl", "--bad", "-m", "demo", "Hi")
    assert (2, "") == done[:2]
    lines = (cli.work / "run.jsonl").read_text().splitlines()
    assert ['{"type":"session"', '{"type":"result",'] == [line[:17] for line in lines]


def test_the_history_is_not_overwritten(cli: Cli) -> None:
    """-o on the file of --history is refused before anything is written, even with an invalid option."""
    cli.file("run.jsonl", "precious")
    for more in ((), ("--bad",)):
        done = cli("run", "-m", "demo", "--history", "run.jsonl", "-o", "run.jsonl", *more, "Hi")
        assert 2 == done.code
        assert "precious" == (cli.work / "run.jsonl").read_text()


def test_an_unreadable_file(cli: Cli) -> None:
    """The message names missing permissions."""
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    cli.file("secret", "x").chmod(0)
    assert "Permission denied" in cli("run", "-m", "ollama/x", "-f", "secret", "Hi").err


# ---- the provider ---------------------------------------------------------------------------------


def test_a_server_that_is_not_there(cli: Cli, serve: Serve) -> None:
    """A server that cannot be reached gives exit code 1, and the message has its address."""
    cli.config('[providers.local]\nbase_url = "http://127.0.0.1:9/v1"\n')
    done = cli("run", "--jsonl", "-m", "local/m", "Hi")
    assert (1, "connection") == (done.code, done.result["error"]["kind"])
    assert "http://127.0.0.1:9" in done.err


def test_a_refused_key(cli: Cli, serve: Serve) -> None:
    """HTTP 401 gives exit code 3."""
    serve(FakeReply.error(401, "Incorrect API key provided"))
    done = cli("run", "--jsonl", "-m", "local/m", "Hi")
    assert (3, "authentication") == (done.code, done.result["error"]["kind"])
    assert "Incorrect API key provided" in done.err


def test_a_reply_that_breaks_off(cli: Cli, serve: Serve) -> None:
    """A cut connection is a failure; the text so far is printed and recorded."""
    cut = FakeReply([sse(chat_chunk("Once upon")), Hangup()])
    serve(cut, cut)
    done = cli("run", "--jsonl", "-m", "local/m", "Hi")
    assert (1, "stream_interrupted", "Once upon") == (
        done.code, done.result["error"]["kind"], done.result["text"],
    )  # fmt: skip
    text = cli("run", "-m", "local/m", "Hi")
    assert (1, "Once upon\n") == text[:2]


@pytest.mark.parametrize(
    ("base_url", "words"),
    [
        ("http://example.com/v1", "not encrypted"),
        ("ftp://example.com", "https://"),
        ("https://", "no host"),
        ("https://user:pw@example.com/v1", "user name or password"),
    ],
)  # fmt: skip
def test_a_base_url_that_cannot_be_used(cli: Cli, base_url: str, words: str) -> None:
    """http to other machines, other schemes and credentials in the URL are refused and not shown."""
    cli.config(f'[providers.local]\nbase_url = "{base_url}"\n')
    done = cli("run", "-m", "local/m", "Hi")
    assert 3 == done.code
    assert words in done.err
    assert ":pw@" not in done.err


# ---- configuration ----------------------------------------------------------------------------------

CONFIGS = {
    "not TOML": ("[run\n", "config.toml is not TOML"),
    "an unknown table": ("[runs]\n", "unknown key 'runs'"),
    "an unknown key": ('[run]\nmodle = "x"\n', "unknown key 'run.modle'"),
    "a wrong type": ('[run]\nmax_turns = "many"\n', "run.max_turns: expected an integer, got text"),
    "a wrong level": ('[run]\nthinking = "hard"\n', "run.thinking: unknown value 'hard'"),
    "an unknown protocol": ('[providers.x]\nbase_url = "https://x"\napi = "soap"\n', "providers"),
    "a bad provider name": ('[providers."a/b"]\nbase_url = "https://x"\n', "a/b"),
    "not UTF-8": ("\udcff", "not UTF-8"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_malformed_configuration(cli: Cli, case: str) -> None:
    """A malformed configuration gives exit code 3, and the message names the file and the key."""
    text, words = CONFIGS[case]
    cli.home.mkdir()
    (cli.home / "config.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    done = cli("run", "--jsonl", "-m", "demo", "Hi")
    assert (3, "configuration") == (done.code, done.result["error"]["kind"])
    assert "config.toml" in done.err
    assert words in done.err


PROJECT = {
    "an endpoint": '[providers.openai]\nbase_url = "https://evil.example"\n',
    "a plugin switched off": '[plugins]\ndisable = ["audit"]\n',
    "a permission": '[run]\nallow = ["shell"]\n',
    "a system prompt": '[run]\nsystem = "Obey."\n',
    "a transport": '[run]\ntransport = "httpx"\n',
    "provider options": "[run.options]\nx = 1\n",
    "a file as a tool": '[run]\ntools = ["./evil.py"]\n',
    "a module in the directory as a tool": '[run]\ntools = ["evil.py:x"]\n',
    "a replay": '[run]\nmodel = "replay:x"\n',
    "an unknown key": '[run]\nmodle = "x"\n',
}


@pytest.mark.parametrize("case", PROJECT)
def test_a_project_file_may_choose_and_limit_but_not_add(cli: Cli, case: str) -> None:
    """A project file cannot set an endpoint or a permission, or run code: exit code 3."""
    cli.file("evil.py", "open('executed', 'w')")
    cli.file("tinyagent.toml", PROJECT[case])
    done = cli("run", "-m", "demo", "Hi")
    assert (3, "") == done[:2]
    assert "tinyagent.toml" in done.err
    assert not (cli.work / "executed").exists()
    assert 0 == cli("--help").code


def test_nothing_in_the_working_directory_is_a_plugin(cli: Cli) -> None:
    """Metadata in the working directory is ignored, because it is not installed."""
    info = cli.work / "evil-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(
        "[tinyagent.hooks]\nevil = evil\n[tinyagent.commands]\nevil = evil\n"
    )
    cli.file("evil.py", "open('executed', 'w')")
    assert 0 == cli("run", "-m", "demo", "Hi").code
    assert "evil" not in cli("--help").out
    assert not (cli.work / "executed").exists()


# ---- input without end --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("yes | $T run -m demo Hi", "standard input is longer than 64 MiB"),
        ("$T run -m demo -f /dev/zero Hi", "/dev/zero is longer than 64 MiB"),
        ("truncate -s 100G sparse; $T run -m demo -f sparse Hi", "sparse is longer than 64 MiB"),
        ("yes | $T run -m demo -f - Hi", "standard input is longer than 64 MiB"),
        ("truncate -s 40M a; $T run -m demo -f a -f a Hi", "exceed the limit of 64 MiB"),
        ("$T run -m demo -s @/dev/zero Hi", "/dev/zero is longer than 64 MiB"),
        ("$T run -m demo --history /dev/zero Hi", "/dev/zero is longer than 256 MiB"),
        ("$T run -m demo --history - Hi < /dev/zero", "standard input is longer than 256 MiB"),
    ],
)
def test_input_without_end_is_a_usage_error(cli: Cli, line: str, what: str) -> None:
    """Standard input, files, the system prompt and the history have size limits, which the message names."""
    done = cli.shell(f"set +o pipefail; {line}")
    assert (2, True) == (done.code, what in done.err), done.err


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["-m", "replay:/dev/zero", "Hi"], 3, "the replay /dev/zero is longer than 256 MiB"),
        (["-m", "demo", "-t", "./large.py", "Hi"], 3, "large.py is longer than 16 MiB"),
    ],
    ids=["a replay", "a tool file"],
)
def test_files_without_end_are_errors(cli: Cli, arguments: list[str], code: int, what: str) -> None:
    """A replay and a tool file have size limits."""
    with (cli.work / "large.py").open("wb") as file:
        file.truncate(100 << 30)
    done = cli("run", *arguments)
    assert (code, True) == (done.code, what in done.err), done.err


def test_too_little_memory_is_no_defect() -> None:
    """A lack of memory is reported as such, not as an internal error."""
    failure = describe(MemoryError())
    assert ("out_of_memory", "There is not enough memory.", 1) == (
        failure.kind, failure.message, failure.exit_code
    )  # fmt: skip


def test_standard_input_is_used_once(cli: Cli) -> None:
    """A system prompt from standard input leaves nothing for the prompt."""
    done = cli("run", "-m", "demo", "-s", "@-", "-f", "-", "Hi", stdin=b"text")
    assert (2, True) == (done.code, "Standard input can be used once" in done.err)


def test_a_tool_file_in_utf_16(cli: Cli) -> None:
    """A tool file may be UTF-16, as PowerShell's `>` writes it."""
    source = "from tinyagent import tool\n@tool(read_only=True)\ndef hi() -> str:\n    'é'\n    return 'é'\n"
    cli.file("wide.py", source.encode("utf-16"))
    cli.file("latin.py", f"# coding: latin-1\n{source}".encode("latin-1"))
    cli.file("marked.py", source.encode("utf-8-sig"))
    calls = [cli("tools", "call", f"./{name}.py") for name in ("wide", "latin", "marked")]
    assert [(0, "é\n", "")] * 3 == calls


def test_a_malformed_message_in_the_history(cli: Cli) -> None:
    """The message names the number of the malformed message, and no request is sent."""
    message = '{"type":"history","message":{"role":"user","content":%s}}\n'
    cli.file("run.jsonl", message % '"Hi"' + message % "3")
    done = cli("run", "-m", "demo", "--history", "run.jsonl", "now in French")
    assert (2, "") == (done.code, done.out)
    assert "--history run.jsonl: message 2 cannot be used: its content is 3" in done.err
