"""`-x` and `--json`: what programs take from a run."""

from __future__ import annotations

import json

import pytest

from tinyagent.testing.server import chat_chunk
from tinyagent_cli.terminal.code_blocks import extract_code

from .conftest import TOOLS, Cli, FakeReply, Serve, read_lines

RUN = ("run", "-m", "local/m")
REPLY = "Try this:\n\n```sh\necho one\n```\n\n1. or\n\n   ~~~\n   echo two\n     indented\n   ~~~\n\nDone."

CODE: dict[str, tuple[str, str | None, str | None]] = {
    "none": ("Just `text`.", None, None),
    "one": ("```\na\n```", "a\n", "a\n"),
    "two": (REPLY, "echo one\n", "echo two\n  indented\n"),
    "in a quote": ("> ```py\n> a\n> ```", "a\n", "a\n"),
    "a fence in a fence": ("````md\n```\na\n```\n````", "```\na\n```\n", "```\na\n```\n"),
    "open until the end": ("```\na\nb", "a\nb", "a\nb"),
    "indented code is not fenced": ("Text\n\n    a\n\n``", None, None),
    "empty": ("```\n```", "", ""),
    "inline backticks": ("Use ```a``` here", None, None),
    "a mark at the start of a line": ("```not a fence``` here\n\n```\na\n```", "a\n", "a\n"),
}


@pytest.mark.parametrize("name", CODE)
def test_the_fences_of_commonmark_are_found(name: str) -> None:
    """The first and the last fenced block, also in lists and quotes, without their indentation."""
    text, first, last = CODE[name]
    assert (first, last) == (extract_code(text), extract_code(text, last=True))


def test_a_deep_or_large_reply_does_not_hang() -> None:
    """A megabyte of quotes and brackets before a fence is parsed at once."""
    text = ">" * 1_000_000 + "\n\n" + "[" * 1_000_000 + "\n\n```\na\n```\n"
    assert "a\n" == extract_code(text)


@pytest.mark.parametrize(("flag", "shown"), [("-x", "echo one\n"), ("-xx", "echo two\n  indented\n")])
def test_only_the_code_is_printed(cli: Cli, serve: Serve, flag: str, shown: str) -> None:
    """-x prints the first code block and -xx the last one, byte by byte; the record has the whole reply."""
    serve(FakeReply.text(*REPLY))
    assert (0, shown, "") == cli(*RUN, flag, "-o", "run.jsonl", "Hi")
    assert REPLY == read_lines(cli.work / "run.jsonl")[-1]["text"]


def test_the_code_of_the_last_reply_counts(cli: Cli, serve: Serve) -> None:
    """Code in the replies before a tool call is not the answer."""
    cli.file("mytools.py", TOOLS)
    serve(FakeReply.tool_calls(("look", {}), text="```\nearly\n```"), FakeReply.text("```\nlate\n```"))
    assert "late\n" == cli(*RUN, "-t", "mytools.py", "-x", "Hi").out


def test_a_reply_without_code_is_incomplete(cli: Cli, serve: Serve) -> None:
    """Nothing is printed to standard output, the exit code is 4, and standard error has the reply."""
    serve(FakeReply.text("I would rather not."))
    done = cli(*RUN, "-x", "-o", "run.jsonl", "Hi")
    assert (4, "") == (done.code, done.out)
    assert done.err.startswith("I would rather not.\nError: The reply has no fenced code block.\n")
    last = read_lines(cli.work / "run.jsonl")[-1]
    assert (4, "no_code_block") == (last["exit_code"], last["error"]["kind"])


def test_code_in_a_pipe_is_unchanged_and_on_a_terminal_harmless(cli: Cli, serve: Serve) -> None:
    """Control sequences are removed on a terminal only."""
    reply = FakeReply.text("```\n\x1b]0;title\x07\x1b[31mred\n```")
    serve(reply, reply)
    assert "\x1b]0;title\x07\x1b[31mred\n" == cli(*RUN, "-x", "Hi").out
    terminal = cli.on_terminal(*RUN, "-q", "-x", "Hi")
    assert 0 == terminal.end()
    assert b"red\r\n" == terminal.shown


def test_the_closing_line_is_the_last_one(cli: Cli, serve: Serve) -> None:
    """On a terminal, the code comes before the line with the tokens."""
    serve(FakeReply.text("```\na\n```"))
    terminal = cli.on_terminal(*RUN, "-x", "Hi")
    assert 0 == terminal.end()
    first, second = terminal.screen()
    assert ("a", True) == (first, second.startswith("local/m · "))


def test_a_truncated_reply_prints_no_code(cli: Cli, serve: Serve) -> None:
    """A part of a script is not printed."""
    serve(FakeReply.chunks(chat_chunk("```\nrm -rf ./build"), chat_chunk({}, "length")))
    assert (4, "") == cli(*RUN, "-x", "Hi")[:2]


def test_code_into_a_closed_pipe(cli: Cli, serve: Serve) -> None:
    """A reader that has closed the pipe ends the run as without -x."""
    serve(FakeReply.text("```\na\n```"))
    assert 141 == cli.shell('$T run -m local/m -x "Hi" | true; exit ${PIPESTATUS[0]}').code


def test_code_on_a_full_disk(cli: Cli, serve: Serve) -> None:
    """A failed write is an error."""
    serve(FakeReply.text("```\na\n```"))
    done = cli.shell('$T run -m local/m -x "Hi" > /dev/full')
    assert (1, True) == (done.code, "Cannot write to standard output" in done.err)


# ---- --json ----------------------------------------------------------------------------------------


def test_one_object_at_the_end(cli: Cli, serve: Serve) -> None:
    """--json prints the result line and nothing else; -o still has the whole record."""
    cli.file("mytools.py", TOOLS)
    serve(FakeReply.tool_calls(("look", {}), text="I look."), FakeReply.text("Seen."))
    done = cli(*RUN, "-t", "mytools.py", "--json", "-o", "run.jsonl", "Hi")
    assert (0, 1, "") == (done.code, done.out.count("\n"), done.err)
    result = json.loads(done.out)
    assert ("result", True, "Seen.", 2) == tuple(result[key] for key in ("type", "ok", "text", "turns"))
    assert {"input", "output"} <= result["usage"].keys()
    first, *_, last = read_lines(cli.work / "run.jsonl")
    assert "session" == first["type"]
    assert {**result, "time": 0} == {**last, "time": 0}


@pytest.mark.parametrize(
    ("args", "code", "kind"),
    [
        (("-m", "demo", "--json"), 2, "usage"),
        (("-m", "nowhere/x", "--json", "Hi"), 3, "configuration"),
        (("--json", "--max-turns", "none", "Hi"), 2, "usage"),
        (("--max-turns", "none", "--json", "Hi"), 2, "usage"),
    ],
)
def test_a_failure_is_an_object_too(cli: Cli, args: tuple[str, ...], code: int, kind: str) -> None:
    """Standard output has one object even if the options are wrong."""
    done = cli("run", *args)
    result = json.loads(done.out)
    assert (code, code, kind) == (done.code, result["exit_code"], result["error"]["kind"])


@pytest.mark.parametrize("flags", [("--json", "--jsonl"), ("-x", "--json"), ("-xx", "--jsonl")])
def test_one_form_of_standard_output(cli: Cli, flags: tuple[str, ...]) -> None:
    """Two forms are a usage error, whose result is still an object."""
    done = cli("run", "-m", "demo", *flags, "Hi")
    assert (2, "usage") == (done.code, json.loads(done.out.splitlines()[-1])["error"]["kind"])
    assert "each determines standard output" in done.err
