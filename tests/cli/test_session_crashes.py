"""Sessions survive `kill -9` and many runs at the same time."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tinyagent import jsonl

from .conftest import TOOLS, Cli, FakeReply, Serve

pytestmark = pytest.mark.timeout(300)

KILLS = 12
PARALLEL = 200
TURNS = 8


def conversation() -> list[FakeReply]:
    """Replies that call a tool in each turn, and then answer."""
    calls = [FakeReply.tool_calls(("look", {"at": "x" * 300 * n}), text=f"Turn {n}.") for n in range(TURNS)]
    return [*calls, FakeReply.text("Done.")]


def finished(data: bytes) -> list[dict[str, Any]]:
    """The events of a record that contain finished messages, without their numbers and times."""
    found = []
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        event = json.loads(line)
        if event["type"] in ("message_end", "tool_execution_end"):
            found.append({key: value for key, value in event.items() if key not in ("seq", "time")})
    return found


def test_a_killed_run_loses_no_finished_message(cli: Cli, serve: Serve) -> None:
    """A session is killed again and again, at any point, and each run continues it.

    What a reader of standard output has seen is in the file, in this order; every line but the last is whole.
    """
    points = random.Random(11)
    path = cli.home / "sessions/named/s.jsonl"
    cli.file("mytools.py", TOOLS)
    serve(*(reply for _ in range(KILLS) for reply in conversation()))
    args = ["run", "-m", "local/m", "-t", "./mytools.py", "--session", "s", "--jsonl"]
    saved: list[dict[str, Any]] = []
    interrupted = 0
    for number in range(KILLS):
        process = cli.start(*args, f"Run {number}")
        seen = b""
        until = points.randrange(1, 16_000)
        while len(seen) < until and (part := process.stdout.read1(points.choice((100, 1000, 5000)))):
            seen += part
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen += process.stdout.read()
        interrupted += b'{"type":"result"' not in seen
        data = path.read_bytes() if path.exists() else b""
        new = finished(data)[len(saved) :]
        assert finished(data)[: len(saved)] == saved
        assert finished(seen) == new[: len(finished(seen))]
        saved += new
    assert KILLS // 2 <= interrupted
    assert KILLS < len(saved)
    serve(FakeReply.text("Still here."))
    done = cli("run", "--session", "s", "Last")
    assert (0, "Still here.\n") == (done.code, done.out), done.err
    assert saved == finished(path.read_bytes())[: len(saved)]
    assert len(saved) + 2 == len(finished(path.read_bytes()))
    assert "Last" == jsonl.messages(path.read_bytes())[-2]["content"][0]["text"]


MANY = """
import os, sys
from importlib import import_module
for name in ["tinyagent.demo_provider", "tinyagent_cli.commands.run", "tinyagent_cli.run.driver",
             "tinyagent_cli.run.session_choice", "tinyagent_cli.sessions.writer"]:
    import_module(name)
from tinyagent_cli.main import main
children = []
for number in range({count}):
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            code = main(["run", "-m", "demo", "-q", "--no-stdin", *{args}, f"This is {{number}}."])
        finally:
            os._exit(code)
    children.append(child)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


def run_many(cli: Cli, count: int, *args: str) -> list[int]:
    """Run the demo in many processes at the same time. Return their exit codes."""
    script = cli.file("many.py", MANY.format(count=count, args=list(args)))
    done = cli.shell(f'"$PYTHON" -P {script}')
    assert 0 == done.code, done.err
    codes: list[int] = json.loads(done.out)
    return codes


def prompts(path: Path) -> list[str]:
    """The prompts in a session file."""
    return [
        message["content"][0]["text"]
        for message in jsonl.messages(path.read_bytes())
        if message["role"] == "user"
    ]


def test_parallel_runs_lose_nothing(cli: Cli) -> None:
    """Each of 200 runs has its own complete session, and the list has all of them."""
    assert [0] * PARALLEL == run_many(cli, PARALLEL)
    files = cli.sessions()
    assert sorted(f"This is {n}." for n in range(PARALLEL)) == sorted(
        text for at in files for text in prompts(at)
    )
    for file in files:
        assert b'{"type":"result"' in file.read_bytes().splitlines()[-1]
    assert PARALLEL == len(json.loads(cli("sessions", "list", "--json").out))


def test_parallel_runs_of_one_session_take_turns(cli: Cli) -> None:
    """Runs that find the session in use wait, or fail without a trace; none overwrites another."""
    codes = run_many(cli, 12, "--session", "s")
    assert set(codes) <= {0, 1}
    assert 0 in codes
    [file] = cli.sessions()
    assert codes.count(0) == len(set(prompts(file))) == len(prompts(file))
    assert codes.count(0) == file.read_bytes().count(b'{"type":"result"')
    assert 1 == file.read_bytes().count(b'{"type":"session"')
