"""Pipes, terminals and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Any

import pytest

from tinyagent.testing.server import Hold, Wait, chat_chunk, sse

from .conftest import SECONDS, TOOLS, Cli, FakeReply, Serve, read_lines


def slow(*pieces: str) -> FakeReply:
    """Pieces of a reply; each but the first waits until the test releases it."""
    steps: list[Any] = []
    for piece in pieces:
        steps += [sse(chat_chunk(piece)), Wait()]
    return FakeReply([*steps[:-1], Hold()])


def last_line(data: bytes) -> dict[str, Any]:
    """Return the result of a record."""
    line: dict[str, Any] = json.loads(data.splitlines()[-1])
    return line


# ---- standard output --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [[], ["--jsonl"]], ids=["text", "jsonl"])
def test_deltas_are_written_at_once(cli: Cli, serve: Serve, mode: list[str]) -> None:
    """Text and lines are written to a pipe as they arrive."""
    server = serve(slow("one ", "two ", "three"))
    process = cli.start("run", *mode, "-m", "local/m", "Hi")
    seen = b""
    for piece in (b"one ", b"two ", b"three"):
        while piece not in seen:
            more = os.read(process.stdout.fileno(), 4096)
            assert more, process.stderr.read()
            seen += more
        server.release()


@pytest.mark.parametrize("mode", ["", "--jsonl"])
def test_a_closed_pipe_ends_the_run_silently(cli: Cli, serve: Serve, mode: str) -> None:
    """`| head -1` ends the run without a message, and closes the connection to the provider."""
    many = [chat_chunk(f"line {n}\n" * 50) for n in range(2000)]
    serve(FakeReply.chunks(*many))
    done = cli.shell(f"$T run {mode} -m local/m Hi | head -1")
    assert 1 == len(done.out.splitlines())
    assert (141, "") == (done.code, done.err)


def test_the_record_of_a_closed_pipe_is_complete(cli: Cli, serve: Serve) -> None:
    """-o FILE is complete and agrees with the exit code, even if standard output is closed."""
    serve(FakeReply.chunks(*[chat_chunk(f"line {n}\n" * 50) for n in range(2000)]))
    done = cli.shell("$T run -o run.jsonl -m local/m Hi | head -1")
    result = read_lines(cli.work / "run.jsonl")[-1]
    assert (141, 141, "broken_pipe") == (done.code, result["exit_code"], result["error"]["kind"])


@pytest.mark.parametrize("mode", ["", "--jsonl"])
def test_a_full_disk_is_a_failure(cli: Cli, serve: Serve, mode: str) -> None:
    """Output that cannot be written is a failure with a message."""
    serve(FakeReply.text("Hello"))
    done = cli.shell(f"$T run {mode} -m local/m Hi > /dev/full")
    assert 1 == done.code
    assert "Cannot write to standard output: No space left on device" in done.err


def test_a_full_disk_under_the_output_file(cli: Cli, serve: Serve) -> None:
    """A full disk under -o FILE is a failure that names the file."""
    serve(FakeReply.text("Hello"))
    done = cli("run", "-m", "local/m", "-o", "/dev/full", "Hi")
    assert 1 == done.code
    assert "Cannot write to /dev/full: No space left on device" in done.err


@pytest.mark.usefixtures("new_processes")
def test_closed_standard_streams(cli: Cli, serve: Serve) -> None:
    """Closed standard output is an error before any request; closed standard error has no effect."""
    server = serve(FakeReply.text("Hello"))
    done = cli.shell("$T run -m local/m Hi >&-")
    assert (2, 0) == (done.code, len(server.requests))
    assert "Standard output is closed" in done.err
    assert (0, "Hello\n") == cli.shell("$T run -m local/m Hi 2>&-")[:2]
    assert 0 == cli.shell("$T run -m demo Hi <&-").code


def test_three_in_a_pipe(cli: Cli, serve: Serve) -> None:
    """In run | run | run, the third run has the whole conversation."""
    server = serve(*[FakeReply.text(f"reply {n}") for n in range(3)])
    run = "$T run -m local/m"
    done = cli.shell(f"{run} --jsonl one | {run} --jsonl --history - two | {run} --history - three")
    assert (0, "reply 2\n", "") == done
    assert ["one", "reply 0", "two", "reply 1", "three"] == [
        message["content"] for message in server.requests[-1].json["messages"]
    ]


def test_the_working_directory_may_be_gone(cli: Cli) -> None:
    """A removed working directory has no effect."""
    done = cli.shell("mkdir gone; cd gone; rmdir ../gone; $T --help && $T run -m demo Hi")
    assert (0, True) == (done.code, "You said: Hi" in done.out)


# ---- standard input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["printf 'some text\\n' | $T", "$T < text"], ids=["pipe", "file"])
def test_standard_input_comes_before_the_prompt(cli: Cli, serve: Serve, line: str) -> None:
    """Text from a pipe or a file comes before the prompt."""
    server = serve(FakeReply.text("ok"))
    cli.file("text", "some text\n")
    command = line.replace("$T", "$T run -m local/m 'Say it.'")
    assert 0 == cli.shell(command).code
    assert "some text\n\nSay it." == server.requests[0].json["messages"][0]["content"]


def test_standard_input_alone_is_a_prompt(cli: Cli, serve: Serve) -> None:
    """Piped text is a prompt without an argument; without either there is no prompt."""
    server = serve(FakeReply.text("ok"), FakeReply.text("ok"))
    for args in ([], ["-"]):
        assert 0 == cli("run", "-m", "local/m", *args, stdin=b"Say it.").code
        assert "Say it." == server.requests[-1].json["messages"][0]["content"]
    assert "There is no prompt" in cli("run", "-m", "local/m", stdin=b" \n").err


def test_standard_input_that_is_not_text(cli: Cli) -> None:
    """Binary input is refused, and the hint shows how to send an image."""
    done = cli("run", "-m", "demo", "What?", stdin=b"\x89PNG\r\n\x1a\n\0\0")
    assert 2 == done.code
    assert "standard input is not UTF-8 text: byte 0x89 at offset 0" in done.err
    assert "-f -" in done.err


def test_standard_input_as_a_file(cli: Cli, serve: Serve) -> None:
    """-f - sends standard input as a file, images included."""
    server = serve(FakeReply.text("ok"))
    assert 0 == cli("run", "-m", "local/m", "-f", "-", "What?", stdin=b"\x89PNG\r\n\x1a\n\0\0").code
    assert "image_url" == server.requests[0].json["messages"][0]["content"][0]["type"]


def test_waiting_for_standard_input_is_reported_once(cli: Cli, serve: Serve) -> None:
    """After a second without input, one note names --no-stdin, and the run waits on."""
    server = serve(FakeReply.text("ok"))
    process = cli.start("run", "-m", "local/m", "Hi", stdin=subprocess.PIPE)
    assert b"--no-stdin" in process.stderr.readline()
    process.stdin.write(b"late")
    process.stdin.close()
    assert 0 == process.wait(SECONDS)
    assert "late\n\nHi" == server.requests[0].json["messages"][0]["content"]
    assert b"" == process.stderr.read()


def test_no_stdin_does_not_wait(cli: Cli, serve: Serve) -> None:
    """--no-stdin does not read an open pipe."""
    serve(FakeReply.text("ok"))
    process = cli.start("run", "--no-stdin", "-m", "local/m", "Hi", stdin=subprocess.PIPE)
    assert 0 == process.wait(SECONDS)
    assert b"ok\n" == process.stdout.read()


# ---- signals ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("new_processes")
@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_run_cleanly(cli: Cli, serve: Serve, signum: int, code: int) -> None:
    """A signal completes the record with the text so far, and the exit code is 128 plus its number."""
    serve(slow("one ", "two"))
    process = cli.start("run", "--jsonl", "-m", "local/m", "Hi")
    seen = b""
    while b"one " not in seen:
        seen += os.read(process.stdout.fileno(), 4096)
    process.send_signal(signum)
    out, err = process.communicate(timeout=SECONDS)
    assert code == process.returncode
    types = [json.loads(line)["type"] for line in (seen + out).splitlines()]
    assert ["message_end", "turn_end", "agent_end", "result"] == types[-4:]
    result = last_line(out)
    assert (code, False, "one ", "aborted") == tuple(
        result[name] for name in ("exit_code", "ok", "text", "stop_reason")
    )
    assert b"Traceback" not in err


@pytest.mark.usefixtures("new_processes")
def test_an_ignored_hangup_stays_ignored(cli: Cli, serve: Serve) -> None:
    """`nohup tinyagent run` continues when the terminal closes."""
    serve(slow("one ", "two"))
    process = cli.start(
        *("run", "-m", "local/m", "Hi"), preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    assert b"one " == os.read(process.stdout.fileno(), 4)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SECONDS)
    assert 143 == process.returncode


def test_a_signal_while_waiting_for_input(cli: Cli) -> None:
    """A signal before the run has started completes the record."""
    process = cli.start("run", "--jsonl", "-m", "demo", "Hi", stdin=subprocess.PIPE)
    assert b"--no-stdin" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=SECONDS)
    assert (130, 130, b"Interrupted.\n") == (process.returncode, last_line(out)["exit_code"], err)


STUBBORN = """
import time
from tinyagent import tool

@tool(read_only=True)
async def stubborn() -> str:
    "Block the event loop."
    open("started", "w").close()
    time.sleep(600)
    return ""
"""


@pytest.mark.usefixtures("new_processes")
def test_the_second_signal_kills(cli: Cli, serve: Serve) -> None:
    """A second signal kills the process, even if a tool blocks everything."""
    cli.file("stubborn.py", STUBBORN)
    serve(FakeReply.tool_calls(("stubborn", {})))
    process = cli.start("run", "-v", "-m", "local/m", "-t", "stubborn.py", "Hi")
    assert b"stubborn" in process.stderr.readline()
    while not (cli.work / "started").exists():
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    assert process.poll() is None
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        os.sched_yield()
    assert -signal.SIGINT == process.wait(SECONDS)


# ---- the terminal -----------------------------------------------------------------------------------


def test_control_sequences_do_not_reach_a_terminal(cli: Cli, serve: Serve) -> None:
    """Control sequences of models, tools and errors are removed, also across deltas."""
    cli.file("mytools.py", TOOLS)
    serve(
        FakeReply.tool_calls(("look", {"at": "\x1b]0;owned\x07it"})),
        FakeReply.chunks(
            chat_chunk("safe \x1b[3"),
            chat_chunk("1mred\x1b"),
            chat_chunk("[0m \u202eend"),
            chat_chunk({}, "stop"),
        ),
        FakeReply.error(400, "bad \x1b[2Jrequest"),
    )
    terminal = cli.on_terminal("run", "-m", "local/m", "-t", "mytools.py", "Hi")
    assert 0 == terminal.end()
    assert b"safe red end\r\n" in terminal.shown
    assert b"\x1b]0;owned" not in terminal.shown
    assert b"\x1b[31m" not in terminal.shown
    assert b"look it" in terminal.shown
    failed = cli.on_terminal("run", "-m", "local/m", "Hi")
    assert 1 == failed.end()
    assert b"bad request" in failed.shown
    assert b"\x1b[2J" not in failed.shown


@pytest.mark.parametrize(("flag", "variable"), [("--no-color", {}), ("-v", {"NO_COLOR": "1"})])
def test_no_colours_when_not_wanted(cli: Cli, flag: str, variable: dict[str, str]) -> None:
    """--no-color and NO_COLOR disable colours; otherwise errors are red on a terminal."""
    red = cli.on_terminal("run", "-m", "demo")
    assert 2 == red.end()
    assert b"\x1b[31mError:" in red.shown
    plain = cli.on_terminal("run", "-m", "demo", flag, environment=variable)
    assert 2 == plain.end()
    assert b"\x1b" not in plain.shown
