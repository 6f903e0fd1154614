"""Fixtures: the command line in child processes with an empty home, loopback servers and plugins."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

import pyte
import pytest

from tinyagent.testing import FakeServer
from tinyagent.testing.server import FakeReply

from .forks import Fork, ForkServer

ROOT = Path(__file__).resolve().parent.parent.parent
CLIENT = Path(__file__).with_name("fork_client.py")
SECONDS = 60
"""How long anything may take; nothing waits this long unless it hangs."""

Serve = Callable[..., FakeServer]
"""The type of the fixture `serve`."""


class Done(NamedTuple):
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Standard output as JSONL."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def result(self) -> dict[str, Any]:
        """The last line. It must agree with the exit code."""
        lines = self.lines
        assert "session" == lines[0]["type"]
        last = lines[-1]
        assert "result" == last["type"]
        assert (self.code, self.code == 0) == (last["exit_code"], last["ok"])
        if last["error"] is not None:
            assert last["error"]["message"].splitlines()[0] in self.err
        return last


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a JSONL file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def message_text(message: Mapping[str, Any]) -> str:
    """Return the text of a message, in the form of a request or of a record."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())


def sent(server: FakeServer, number: int = -1) -> list[tuple[str, str]]:
    """Return the role and the text of each message of a request, by default of the last one."""
    return [(message["role"], message_text(message)) for message in server.requests[number].json["messages"]]


def tool_result(server: FakeServer, number: int = -1) -> str:
    """Return the result of a tool call that the model got: the text of the last message of a request."""
    return sent(server, number)[-1][1]


def as_openai(server: FakeServer) -> dict[str, str]:
    """Return the environment in which the server is the provider `openai`."""
    return {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "sk-test-CANARY"}


class Terminal:
    """A terminal on which a process runs: its output, and keys that are typed."""

    def __init__(self, process: subprocess.Popen[bytes] | Fork, fd: int) -> None:
        self.process = process
        self.shown = b""
        self._fd = fd

    def expect(self, text: str) -> None:
        """Wait until this text was shown."""
        deadline = time.monotonic() + SECONDS
        while text.encode() not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} was not shown, but: {self.shown!r}"
            assert self._read(0.1) is not False, f"{text!r} was not shown, but: {self.shown!r}"

    def expect_prompt(self, prompt: str = "> ") -> None:
        """Wait until the last prompt on the screen is this one; below it may be a menu."""
        deadline = time.monotonic() + SECONDS
        start = prompt.split(" ")[0]
        while [line for line in self.screen(rows=200) if line.startswith(start)][-1:] != [prompt.rstrip()]:
            assert time.monotonic() < deadline, self.screen(rows=200)
            assert self._read(0.1) is not False, self.screen(rows=200)

    def expect_line(self, line: str, columns: int = 120) -> None:
        """Wait until the last line on the screen is this one."""
        deadline = time.monotonic() + SECONDS
        while self.screen(columns, rows=200)[-1:] != [line]:
            assert time.monotonic() < deadline, self.screen(columns, rows=200)
            assert self._read(0.1) is not False, self.screen(columns, rows=200)

    def resize(self, columns: int, rows: int = 24) -> None:
        """Change the size of the window."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def screen(self, columns: int = 80, rows: int = 24) -> list[str]:
        """Return what a terminal shows now, without blank lines."""
        screen = pyte.Screen(columns, rows)
        pyte.ByteStream(screen).feed(self.shown)
        return [line.rstrip() for line in screen.display if line.strip()]

    def type(self, text: str) -> None:
        """Type these keys."""
        os.write(self._fd, text.encode())

    def end(self) -> int:
        """Read to the end. Return the exit code."""
        while self._read(0.1) is not False:
            pass
        return self.process.wait(SECONDS)

    def _read(self, seconds: float) -> bool | None:
        """Return True after a read, None if nothing has arrived yet, and False at the end."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return None if self.process.poll() is None else False
        try:
            data = os.read(self._fd, 65536)
        except OSError:
            return False
        self.shown += data
        return bool(data)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


class Cli:
    """Runs `tinyagent` in the directory `work`.

    Attributes:
        new_processes: Whether `start`, `on_terminal` and `shell` start Python. By default they fork.
    """

    new_processes = False

    def __init__(self, work: Path, home: Path, fork_server: ForkServer) -> None:
        self.work = work
        self.home = home
        self._fork_server = fork_server
        self.path = [str(ROOT)]
        self._open: list[subprocess.Popen[bytes] | Fork] = []

    def __call__(self, *args: str | Path, stdin: bytes | None = None, **environment: str) -> Done:
        """Run a command to its end, in a fork. Standard input is empty by default."""
        with (
            Path(os.devnull).open() as nothing,
            TemporaryFile() as given,
            TemporaryFile() as out,
            TemporaryFile() as err,
        ):
            given.write(stdin or b"")
            given.seek(0)
            source = nothing if stdin is None else given
            process = self._fork(args, environment, [source.fileno(), out.fileno(), err.fileno()])
            result = Done(process.wait(SECONDS), *(_text(file) for file in (out, err)))
        if "-vv" not in args:
            assert "Traceback" not in result.err, result.err
        return result

    def _fork(
        self, args: Iterable[str | Path], environment: dict[str, str], streams: list[int], **given: Any
    ) -> Fork:
        process = self._fork_server.start(
            list(map(str, args)), self.work, self.environment(environment), streams, **given
        )
        self._open.append(process)
        return process

    def start(
        self,
        *args: str | Path,
        environment: dict[str, str] | None = None,
        stdin: Any = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        **given: Any,
    ) -> Any:
        """Start a command with pipes; with `program`, that one instead."""
        streams = {"stdin": stdin, "stdout": stdout, "stderr": given.pop("stderr", subprocess.PIPE)}
        if not self.new_processes and "program" not in given:
            return self._start_fork(args, environment or {}, streams, **given)
        process = subprocess.Popen(
            given.pop("program", None) or self.command(*args),
            env=self.environment(environment or {}),
            cwd=self.work,
            **streams,
            **given,
        )
        self._open.append(process)
        return process

    def _start_fork(
        self, args: Iterable[str | Path], environment: dict[str, str], streams: dict[str, Any], **given: Any
    ) -> Fork:
        theirs, ours = [], {}
        with ExitStack() as stack:
            for name, stream in streams.items():
                if stream == subprocess.DEVNULL:
                    fd = os.open(os.devnull, os.O_RDWR)
                    stack.callback(os.close, fd)
                elif stream == subprocess.PIPE:
                    reads, writes = os.pipe()
                    fd, mine = (reads, writes) if name == "stdin" else (writes, reads)
                    stack.callback(os.close, fd)
                    ours[name] = os.fdopen(mine, "wb" if name == "stdin" else "rb")
                else:
                    fd = stream if isinstance(stream, int) else stream.fileno()
                theirs.append(fd)
            process = self._fork(args, environment, theirs, **given)
        for name, file in ours.items():
            setattr(process, name, file)
        return process

    def on_terminal(self, *args: str | Path, **given: Any) -> Terminal:
        """Start a command on a new terminal with `columns` and `rows`."""
        outer, inner = pty.openpty()
        size = struct.pack("HHHH", given.pop("rows", 24), given.pop("columns", 80), 0, 0)
        fcntl.ioctl(inner, termios.TIOCSWINSZ, size)
        if self.new_processes or "program" in given:
            own = {
                "start_new_session": True,
                "preexec_fn": lambda: fcntl.ioctl(inner, termios.TIOCSCTTY, 0),
            }
        else:
            own = {"terminal": True}
        process = self.start(
            *args, stdin=given.pop("stdin", inner), stdout=given.pop("stdout", inner), stderr=inner,
            environment={"TERM": "xterm", "PAGER": "cat", **given.pop("environment", {})}, **own, **given,
        )  # fmt: skip
        os.close(inner)
        return Terminal(process, outer)

    def shell(self, line: str, **environment: str) -> Done:
        """Run a line of shell in which $T is the command, and "$PYTHON" the Python."""
        command = self.command() if self.new_processes else self.forking_command()
        words = {"T": self._shell_words(command), "PYTHON": sys.executable}
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], capture_output=True, timeout=SECONDS, check=False,
            env=self.environment({**words, **environment}), cwd=self.work, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def _shell_words(self, command: list[str]) -> str:
        """Return a command for $T, which the shell splits at blanks; the checkout's path may have some."""
        if not any(" " in part for part in command):
            return " ".join(command)
        script = self.work.parent / "command"
        script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        script.chmod(0o700)
        return str(script)

    def forking_command(self) -> list[str]:
        """Return a command that starts quickly, because it forks."""
        return [sys.executable, "-I", "-S", str(CLIENT), self._fork_server.address]

    def command(self, *args: str | Path) -> list[str]:
        """Return the command as a list."""
        return [sys.executable, "-m", "tinyagent_cli", *map(str, args)]

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        """Return the environment of the process."""
        return {
            "COLUMNS": "100", **os.environ, "PYTHONPATH": os.pathsep.join(self.path),
            "TINYAGENT_HOME": str(self.home), **more,
        }  # fmt: skip

    def config(self, text: str) -> None:
        """Write the user's config.toml."""
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "config.toml").write_text(text)

    def server(self, server: FakeServer, name: str = "local", more: str = "") -> None:
        """Make the server the provider `local`."""
        self.config(f'[providers.{name}]\nbase_url = "{server.url}"\n{more}')

    def sessions(self) -> list[Path]:
        """Return the files of all sessions."""
        return sorted((self.home / "sessions").glob("*/*.jsonl"))

    def file(self, name: str, text: str | bytes) -> Path:
        """Write a file into the working directory."""
        path = self.work / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def install(
        self,
        name: str,
        source: str,
        group: str = "tools",
        *,
        entry: str | None = None,
        version: str = "1.0",
        needs: str = "tinyagent-core",
    ) -> None:
        """Put a distribution with one module and one entry point on the path."""
        site = self.work.parent / f"site-{name}-{group}"
        module = f"plugin_{name.replace('-', '_')}"
        metadata = site / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: {needs}\n"
        )
        (metadata / "entry_points.txt").write_text(f"[tinyagent.{group}]\n{entry or name} = {module}\n")
        (site / f"{module}.py").write_text(source)
        self.path.append(str(site))

    def close(self) -> None:
        """End the remaining processes."""
        for process in self._open:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """One process that forks for all tests of a worker."""
    made = ForkServer()
    yield made
    made.close()


@pytest.fixture
def new_processes(cli: Cli) -> None:
    """Let each command of a test start Python. Forks end without `atexit` functions, and do not inherit
    limits, ignored signals, sessions, descriptors above 2 and `PYTHONIOENCODING`.
    """
    cli.new_processes = True


@pytest.fixture
def cli(tmp_path: Path, fork_server: ForkServer) -> Iterator[Cli]:
    """The command line in an empty directory."""
    work = tmp_path / "work"
    work.mkdir()
    made = Cli(work, tmp_path / "home", fork_server)
    yield made
    made.close()


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    """The writing end of a pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.fixture
def record(cli: Cli) -> Path:
    """The record of a run with one tool call."""
    path = cli.work / "run.jsonl"
    done = cli("run", "-m", "demo", "-t", "calc", "-o", path, "What is 6 * 7?")
    assert 0 == done.code, done.err
    return path


@pytest.fixture
def pip(cli: Cli) -> Callable[[str, int], None]:
    """A pip that finds no conflict, or the one of the test; for `doctor`; the real one is slow."""
    site = cli.work.parent / "site-of-pip"
    site.mkdir()
    cli.path.append(str(site))

    def says(text: str, code: int) -> None:
        (site / "pip.py").write_text(f"print({text!r})\nraise SystemExit({code})\n")

    says("No broken requirements found.", 0)
    return says


@pytest.fixture
def serve(cli: Cli) -> Iterator[Serve]:
    """Start a loopback server with these replies; it is `-m local/MODEL`."""
    servers: list[FakeServer] = []

    def start(*replies: FakeReply, more: str = "") -> FakeServer:
        server = FakeServer(*replies)
        server.__enter__()
        servers.append(server)
        cli.server(server, more=more)
        return server

    yield start
    for server in servers:
        server.__exit__(None, None, None)


TOOLS = '''
from tinyagent import tool

@tool(read_only=True)
def look(at: str = "there") -> str:
    """Look at something."""
    return f"saw {at}"

@tool
def write(text: str) -> str:
    """Write a text."""
    with open("written", "a") as file:
        file.write(text)
    return f"wrote {text}"
'''
"""A file for -t: `look` is read-only, `write` leaves a file `written` behind."""

LEAVING = """
import asyncio, sys
from tinyagent import tool

async def leave():
    sys.exit(0)

@tool(read_only=True)
async def work() -> str:
    "Leave, in another task."
    task = asyncio.create_task(leave())
    await asyncio.sleep(600)
    return "done"
"""
"""A file for -t whose tool tries to end the process with exit code 0."""
