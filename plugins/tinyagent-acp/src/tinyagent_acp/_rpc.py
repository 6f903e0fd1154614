"""A process `tinyagent rpc`: one conversation in one folder. Its protocol is described in docs/rpc.md."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from tinyagent import PluginError, TinyAgentError
from tinyagent.agent_types import JsonDict

__all__ = ["COMMAND", "Block", "Line", "Rpc", "StreamEvent", "ToolResult", "failure"]

COMMAND = (sys.executable, "-m", "tinyagent_cli")
"""The command line of tinyagent, with this Python. It does not import from the working directory."""

_MAX_LINE = 128 << 20
_GRACE_S = 10.0
"""Seconds for a run to end in order, before its process gets a signal."""


class Block(msgspec.Struct, frozen=True):
    """A block of a message or of a result."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    url: str = ""
    data: str = ""
    mime_type: str = ""
    id: str = ""
    name: str = ""
    arguments: JsonDict = {}


class Message(msgspec.Struct, frozen=True):
    """A message of the conversation."""

    role: str = ""
    content: list[Block] | str = []
    tool_call_id: str = ""
    is_error: bool = False
    usage: JsonDict | None = None

    @property
    def blocks(self) -> list[Block]:
        """The content as blocks."""
        return [Block("text", self.content)] if isinstance(self.content, str) else self.content


class StreamEvent(msgspec.Struct, frozen=True):
    """An event of a reply."""

    type: str = ""
    delta: str = ""
    tool_call: Block | None = None


class ToolResult(msgspec.Struct, frozen=True):
    """The result of a tool, or a part of it."""

    content: list[Block] = []


class Failure(msgspec.Struct, frozen=True):
    """Why a run failed."""

    kind: str = ""
    message: str = ""
    hint: str | None = None


class Line(msgspec.Struct, frozen=True):
    """A line of `tinyagent rpc`. Only fields that are used here are read."""

    type: str = ""
    id: str | int | None = None
    # response
    command: str = ""
    success: bool = False
    data: msgspec.Raw = msgspec.Raw(b"{}")
    error: Failure | str | None = None
    kind: str = ""  # of the error, or of an input_request
    hint: str | None = None
    # session
    model: msgspec.Raw = msgspec.Raw(b"null")
    # approval_request
    request: str = ""
    answers: list[str] = []
    sandbox: str = ""
    # input_request, which also has `request`, and a text as its `message`
    source: str = ""
    url: str = ""
    schema: JsonDict = {}
    # events
    tool_call_id: str = ""
    tool_name: str = ""
    args: JsonDict = {}
    assistant_message_event: StreamEvent | None = None
    message: Message | str | None = None
    partial_result: ToolResult | None = None
    result: ToolResult | None = None
    is_error: bool = False
    # result
    ok: bool = False
    usage: JsonDict | None = None
    session: str | None = None


_DECODER = msgspec.json.Decoder(Line)


def failure(message: str, kind: str, hint: str | None) -> TinyAgentError:
    """Return the error that a line describes."""
    error = TinyAgentError(message, hint=hint)
    error.kind = kind or TinyAgentError.kind
    return error


class Rpc:
    """A running `tinyagent rpc`.

    Attributes:
        id: The id of its session.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, on_line: Callable[[Line], Awaitable[None]]
    ) -> None:
        self.id = ""
        self._process = process
        self._on_line = on_line
        self._numbers = itertools.count(1)
        self._replies: dict[str, asyncio.Future[Line]] = {}
        self._gone: TinyAgentError | None = None
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        arguments: Sequence[str],
        cwd: str,
        environment: Mapping[str, str],
        on_line: Callable[[Line], Awaitable[None]],
    ) -> Rpc:
        """Start a process and wait until its session is ready.

        Args:
            arguments: The options of `tinyagent rpc`.
            cwd: Its working directory.
            environment: Additional variables.
            on_line: Called with each line that is not a reply, in order.

        Raises:
            TinyAgentError: It cannot start. The error is the one of the process.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *COMMAND, "rpc", *arguments,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                cwd=cwd, env={**os.environ, **environment}, limit=_MAX_LINE,
                start_new_session=True,  # a Ctrl-C for this process must not end the runs in another way
            )  # fmt: skip
        except OSError as error:
            raise PluginError(f"A session cannot be started in {cwd}: {error.strerror}.") from None
        rpc = cls(process, on_line)
        try:
            first = await rpc._read()
        except BaseException:
            await rpc.close()
            raise
        if first is None or first.type != "session":
            await rpc.close()
            if first is not None and isinstance(first.error, str):
                raise failure(first.error, first.kind, first.hint)
            raise rpc._ended()
        rpc.id = str(first.id)
        rpc._reading = asyncio.create_task(rpc._read_all())
        return rpc

    @property
    def is_running(self) -> bool:
        """Whether the process takes commands."""
        return self._gone is None

    async def call(self, type: str, **fields: object) -> msgspec.Raw:
        """Send a command, and return the data of its reply.

        Raises:
            TinyAgentError: The command was refused, or the process has ended.
        """
        if self._gone is not None:
            raise self._gone
        id = f"{type}-{next(self._numbers)}"
        reply: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
        self._replies[id] = reply
        try:
            await self._send({"id": id, "type": type, **fields})
            line = await reply
        finally:
            del self._replies[id]
        if not line.success:
            raise failure(str(line.error), line.kind, line.hint)
        return line.data

    async def notify(self, type: str, **fields: object) -> None:
        """Send a command without waiting for its reply."""
        await self._send({"type": type, **fields})

    async def close(self) -> None:
        """End the run under way, and then the process."""
        assert self._process.stdin is not None
        if self._process.returncode is None:
            await self.notify("abort")
            self._process.stdin.close()
            for number in (None, signal.SIGTERM, signal.SIGKILL):
                if number is not None:
                    with contextlib.suppress(ProcessLookupError):
                        self._process.send_signal(number)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._drained(), _GRACE_S)
                    break
        if self._reading is not None:
            self._reading.cancel()

    async def _drained(self) -> None:
        """Wait for the end of the process. What it still writes is read, so that it does not wait for us."""
        if self._reading is not None:
            await asyncio.wait({self._reading})
        else:
            assert self._process.stdout is not None
            while await self._process.stdout.read(65536):
                pass
        await self._process.wait()

    async def _send(self, command: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):  # it has ended, which the reader reports
            self._process.stdin.write(msgspec.json.encode(command) + b"\n")
            await self._process.stdin.drain()

    async def _read(self) -> Line | None:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        return _DECODER.decode(line) if line else None

    async def _read_all(self) -> None:
        try:
            while (line := await self._read()) is not None:
                if line.type != "response":
                    await self._on_line(line)
                elif (reply := self._replies.get(str(line.id))) is not None and not reply.done():
                    reply.set_result(line)
        except (msgspec.MsgspecError, ValueError) as error:
            self._gone = PluginError(
                f"The process of the session has written a line that cannot be read: {error}"
            )
            self._process.terminate()
        await self._process.wait()
        self._gone = self._gone or self._ended()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(self._gone)
        await self._on_line(Line(type="end", error=Failure("plugin", str(self._gone), self._gone.hint)))

    def _ended(self) -> TinyAgentError:
        code = self._process.returncode
        return PluginError(
            f"The process of the session has ended with exit code {code}.",
            hint="Its last messages are in the log of the agent. The next prompt starts it again.",
        )
