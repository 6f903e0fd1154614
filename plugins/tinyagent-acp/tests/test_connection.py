"""Standard input and output: garbage, the end of the editor, and signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import tinyagent_acp

from .conftest import COMMAND, PATIENCE, command_line, processes_with

pytestmark = pytest.mark.slow

Message = dict[str, Any]
Process = subprocess.Popen[bytes]


@pytest.fixture
def begin(home: Path, project: Path) -> Iterator[Callable[..., Process]]:
    """Start `tinyagent acp` with pipes."""
    processes: list[Process] = []

    def start(*options: str) -> Process:
        process = subprocess.Popen(
            [*COMMAND, "-m", "demo", "-t", "fs", "-t", "shell", *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=project,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def send(process: Process, *lines: bytes | Message) -> None:
    """Send lines."""
    assert process.stdin is not None
    for line in lines:
        process.stdin.write((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n")
    process.stdin.flush()


def read(process: Process) -> Message:
    """Return the next message."""
    assert process.stdout is not None
    message: Message = json.loads(process.stdout.readline())
    assert "2.0" == message["jsonrpc"]
    return message


def request(id: object, method: str, **params: object) -> Message:
    """Return a request."""
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def reply(process: Process, id: object, method: str, **params: object) -> Message:
    """Send a request, and return its reply."""
    send(process, request(id, method, **params))
    while (message := read(process)).get("id") != id or "method" in message:
        pass
    return message


def eventually(condition: Callable[[], bool]) -> bool:
    """Poll a condition, and return whether it became true."""
    end = time.monotonic() + PATIENCE
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return met


def test_the_entry_point() -> None:
    """`tinyagent acp` is found by metadata."""
    [point] = metadata.entry_points(group="tinyagent.commands", name="acp")
    assert tinyagent_acp is point.load()


@pytest.mark.parametrize(
    ("line", "code", "id"),
    [
        (b"nonsense", -32700, None),
        (b'{"jsonrpc": "2.0", "id": 1, ', -32700, None),
        (b"\xff\xfe{}", -32700, None),
        (b"[" * 100_000, -32700, None),
        (b"[]", -32600, None),
        (b"7", -32600, None),
        (b"{}", -32600, None),
        (b'{"jsonrpc": "2.0", "id": 5}', -32600, 5),
        (b'{"jsonrpc": "2.0", "id": 5, "method": 7}', -32600, 5),
        (b'{"jsonrpc": "2.0", "id": [], "result": 7}', -32600, None),
        (b'{"jsonrpc": "2.0", "id": "x", "method": "no/such"}', -32601, "x"),
        (b'{"jsonrpc": "2.0", "id": 6, "method": "session/new"}', -32602, 6),
        (b'{"jsonrpc": "2.0", "id": 6, "method": "session/new", "params": {"cwd": 7}}', -32602, 6),
        (b'{"id": 6, "method": "session/delete", "params": {"sessionId": "x"}}', -32601, 6),
        (b'{"jsonrpc": "2.0", "id": 6, "method": "_x/y", "params": {}}', -32601, 6),
    ],
)
def test_a_wrong_line_gets_an_error(
    begin: Callable[..., Process], line: bytes, code: int, id: object
) -> None:
    """The connection goes on: the next request gets its reply."""
    process = begin()
    send(process, line, b"", request(99, "initialize", protocolVersion=1))
    wrong, next_one = read(process), read(process)
    assert (code, id) == (wrong["error"]["code"], wrong["id"])
    assert (99, 1) == (next_one["id"], next_one["result"]["protocolVersion"])


def test_notifications_and_replies_that_fit_nothing(begin: Callable[..., Process]) -> None:
    """They are ignored, as JSON-RPC asks for, and nothing is written to standard output."""
    process = begin()
    send(
        process,
        {"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": "x"}},
        {"jsonrpc": "2.0", "method": "no/such"},
        {"jsonrpc": "2.0", "id": 12, "result": {}},
        {"jsonrpc": "2.0", "id": "y", "error": None},
    )
    assert 99 == reply(process, 99, "initialize", protocolVersion=1)["id"]


def test_another_version_of_the_protocol(begin: Callable[..., Process]) -> None:
    """The agent answers with its own version, and the editor decides."""
    assert 1 == reply(begin(), 1, "initialize", protocolVersion=99)["result"]["protocolVersion"]


def test_the_end_of_input(begin: Callable[..., Process], project: Path) -> None:
    """It ends the run under way and the process, with 0; the session is saved."""
    process = begin("-O", "delay=0.2")
    assert process.stdin is not None
    assert process.stdout is not None
    session = reply(process, 1, "session/new", cwd=str(project), mcpServers=[])["result"]["sessionId"]
    prompt = [{"type": "text", "text": "Hello"}]
    send(process, request(2, "session/prompt", sessionId=session, prompt=prompt))
    while "agent_message_chunk" not in str(read(process)):
        pass
    process.stdin.close()
    rest = [json.loads(line) for line in process.stdout]
    assert 0 == process.wait(PATIENCE)
    assert {"stopReason": "cancelled"} == {"stopReason": rest[-1]["result"]["stopReason"]}
    saved = subprocess.run(
        [*COMMAND[:-1], "sessions", "list", "--json"],
        capture_output=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert [session] == [entry["id"] for entry in json.loads(saved.stdout)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal(begin: Callable[..., Process], project: Path, number: int) -> None:
    """It ends the sessions and then the process."""
    process = begin()
    reply(process, 1, "session/new", cwd=str(project), mcpServers=[])
    process.send_signal(number)
    assert 128 + number == process.wait(PATIENCE)


@pytest.mark.parametrize("killed", [False, True])
def test_the_editor_is_gone(begin: Callable[..., Process], project: Path, killed: bool) -> None:
    """Its pipes are closed: the command of a tool is ended. So it is if this process is killed."""
    process = begin("--allow", "bash")
    assert process.stdin is not None
    assert process.stdout is not None
    session = reply(process, 1, "session/new", cwd=str(project), mcpServers=[])["result"]["sessionId"]
    mark = f"3600.{os.getpid()}{time.monotonic_ns()}"
    prompt = [{"type": "text", "text": f'bash command="sleep {mark} & while sleep 0.1; do echo on; done"'}]
    send(process, request(2, "session/prompt", sessionId=session, prompt=prompt))
    assert eventually(lambda: f"sleep\0{mark}" in "".join(map(command_line, processes_with(mark))))
    if killed:
        process.kill()
    process.stdin.close()
    process.stdout.close()
    assert eventually(lambda: processes_with(mark) == [])
    assert (-9 if killed else 0) == process.wait(PATIENCE)


def test_a_closed_standard_input(home: Path) -> None:
    """It is an error that says what the command is for."""
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" <&-', "sh", *COMMAND], capture_output=True, check=False, text=True
    )
    assert (3, "") == (done.returncode, done.stdout)
    assert "is started by an editor" in done.stderr


def test_what_a_tool_prints_is_not_in_the_protocol(begin: Callable[..., Process], project: Path) -> None:
    """A tool file may print at its import and in its calls."""
    (project / "noisy.py").write_text(
        "from tinyagent import tool\nprint('import')\n\n"
        "@tool(read_only=True)\ndef noisy() -> str:\n    '''Print.'''\n"
        "    print('call')\n    return 'quiet'\n"
    )
    process = begin("-t", "./noisy.py")
    session = reply(process, 1, "session/new", cwd=str(project), mcpServers=[])["result"]["sessionId"]
    prompt = [{"type": "text", "text": "noisy"}]
    done = reply(process, 2, "session/prompt", sessionId=session, prompt=prompt)  # each line was JSON
    assert "end_turn" == done["result"]["stopReason"]
