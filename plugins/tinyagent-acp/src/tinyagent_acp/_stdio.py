"""JSON-RPC messages on standard input and output, for the SDK's connection.

The SDK has a transport for stdio, too. This one also answers lines that are no messages, leaves the
descriptors in blocking mode, because other processes may share them, and lets no other code write to standard
output.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import queue
import sys
import threading
from collections.abc import Callable

from tinyagent import ConfigurationError
from tinyagent.agent_types import JsonDict

__all__ = ["MAX_LINE", "StdioTransport", "take_streams"]

MAX_LINE = 64 << 20
"""The limit of a message in bytes. Prompts may contain images."""

_PARSE_ERROR = -32700
_INVALID_REQUEST = -32600


def take_streams() -> tuple[int, int]:
    """Reserve standard input and output, and return their new descriptors.

    From now on, what prints to standard output prints to standard error.

    Raises:
        ConfigurationError: One of them is closed.
    """
    try:
        if sys.stdin is None or sys.stdout is None:
            raise OSError
        stdin, stdout = os.dup(0), os.dup(1)
    except OSError:
        raise ConfigurationError(
            "Standard input or output is closed.", hint="'tinyagent acp' is started by an editor."
        ) from None
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # standard error is closed
        os.dup2(null, 1)
    os.close(null)
    return stdin, stdout


class StdioTransport:
    """Sends and receives messages. Two threads do the work that blocks.

    Args:
        stdin: The descriptor to read from.
        stdout: The descriptor to write to.
        on_sent: Called after each message was written.
    """

    def __init__(self, stdin: int, stdout: int, on_sent: Callable[[JsonDict], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_sent = on_sent
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue(64)
        self._writes: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]]] = queue.SimpleQueue()
        self._stopped = asyncio.Event()
        self._broken = False
        threading.Thread(target=self._read, args=(stdin,), name="tinyagent-acp-read", daemon=True).start()
        threading.Thread(target=self._write, args=(stdout,), name="tinyagent-acp-write", daemon=True).start()

    def stop(self) -> None:
        """End the input, as if the editor had closed it."""
        self._stopped.set()

    async def receive(self) -> JsonDict | None:
        """Return the next message; None at the end of the input. Other lines get an error as their reply."""
        while (line := await self._next_line()) is not None:
            if not line.strip():
                continue
            message, problem = _decode(line)
            if problem is None:
                return message
            await self.send({"jsonrpc": "2.0", "id": message.get("id"), "error": problem})
        return None

    async def send(self, message: JsonDict) -> None:
        """Write a message.

        Raises:
            ConnectionError: The editor does not read any more.
        """
        if self._broken:
            if "method" not in message:
                return  # a reply that is not read any more
            raise ConnectionError("The editor has closed the output.")
        data = json.dumps(message, separators=(",", ":"), default=str).encode("utf-8", "replace")
        written = self._loop.create_future()
        self._writes.put((data + b"\n", written))
        await written
        self._on_sent(message)

    async def close(self) -> None:
        """End the input."""
        self.stop()

    async def _next_line(self) -> bytes | None:
        getting = asyncio.ensure_future(self._lines.get())
        stopping = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({getting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return getting.result() if getting.done() else None
        finally:
            getting.cancel()
            stopping.cancel()

    def _read(self, descriptor: int) -> None:
        """Read lines. A full queue makes the editor wait."""
        try:
            with os.fdopen(descriptor, "rb") as file:
                while line := file.readline(MAX_LINE + 1):
                    if len(line) > MAX_LINE:
                        while line and not line.endswith(b"\n"):
                            line = file.readline(MAX_LINE)
                        line = b"too long"
                    asyncio.run_coroutine_threadsafe(self._lines.put(line), self._loop).result()
            asyncio.run_coroutine_threadsafe(self._lines.put(None), self._loop).result()
        except (OSError, RuntimeError, asyncio.CancelledError, concurrent.futures.CancelledError):
            _call(self._loop, self.stop)  # the descriptor cannot be read, or the loop has ended

    def _write(self, descriptor: int) -> None:
        while True:
            data, written = self._writes.get()
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            except OSError:
                self._broken = True
                _call(self._loop, self._fail, written)
            else:
                _call(self._loop, _finish, written)

    def _fail(self, written: asyncio.Future[None]) -> None:
        if not written.done():
            written.set_exception(ConnectionError("The editor has closed the output."))
        self.stop()


def _finish(written: asyncio.Future[None]) -> None:
    if not written.done():
        written.set_result(None)


def _call(
    loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: asyncio.Future[None]
) -> None:
    """Call a function in the loop, if it still runs."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        pass  # the loop has ended


def _decode(line: bytes) -> tuple[JsonDict, JsonDict | None]:
    """Return the message of a line, or the error to reply with."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        text = f"This line is not JSON, or has more than {MAX_LINE >> 20} MiB."
        return {}, {"code": _PARSE_ERROR, "message": text}
    if not isinstance(message, dict):
        return {}, {"code": _INVALID_REQUEST, "message": "A message is a JSON object."}
    method, id = message.get("method"), message.get("id")
    if id is not None and (isinstance(id, bool) or not isinstance(id, str | int | float)):
        return {}, {"code": _INVALID_REQUEST, "message": 'The "id" is neither a string nor a number.'}
    if isinstance(method, str) or (
        "method" not in message and {"result", "error"} & message.keys() and id is not None
    ):
        return message, None
    text = 'The message has no "method" that is a string, and is no reply.'
    return {"id": id}, {"code": _INVALID_REQUEST, "message": text}
