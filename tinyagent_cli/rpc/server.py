"""Connect the conversation with standard input and output, or with the clients of a Unix socket.

Both are read by a thread that blocks: the event loop cannot read files, and a non-blocking descriptor would
not block for the processes that share it either.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from tinyagent import _json
from tinyagent.errors import TinyAgentError
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.exit_codes import InputError, OutputClosedError, describe
from tinyagent_cli.run.agent import drive, prune_sessions
from tinyagent_cli.run.garbage import collect_from_now_on
from tinyagent_cli.run.lifetime import Lifetime
from tinyagent_cli.run.options import RunOptions
from tinyagent_cli.run.plan import Plan, prepare
from tinyagent_cli.run.process_exit import runner_closed_at_exit
from tinyagent_cli.run.prompt_input import StandardInput
from tinyagent_cli.sinks.plugin import PluginSinks
from tinyagent_cli.terminal.output import Output, take_stdin, take_stdout

from .conversation import Conversation
from .protocol import failure

__all__ = ["MAX_LINE", "execute"]

MAX_LINE = 16 << 20
"""The limit of a command in bytes."""

REFUSAL_S = 5.0
"""Seconds for a second client to read that it is refused."""


def execute(app: AppContext, options: RunOptions, lifetime: Lifetime, path: str | None) -> int:
    """Serve clients until the end of standard input, or on the socket `path` until a signal.

    Return 0, or raise the error that ended the command.
    """
    for option, value in (("--history", options.history), ("-s", options.system)):
        if value in ("-", "@-"):
            raise InputError(f"{option} {value} cannot be used, because standard input has the commands.")
    if options.timeout is not None and options.timeout != options.timeout:
        raise InputError("The time limit is not a number of seconds (--timeout).")
    stdin, stdout = take_stdin(), take_stdout()
    if stdin is None and path is None:
        raise InputError("Standard input, which has the commands, is closed.")
    runner = runner_closed_at_exit()
    lifetime.at_last_resort(lambda cause: app.error(describe(cause).message))
    lifetime.release()
    with _listening(path) as listener:
        try:
            plan = prepare(app, options, StandardInput(None, app.note), lifetime, prompts_follow=True)
            server = _Server(app, plan, lifetime)
        except TinyAgentError as error:
            if listener is None:
                stdout.write_now(_json.encode(failure(None, "start", describe(error))) + b"\n")
            raise
        collect_from_now_on()
        try:
            if listener is not None:
                app.note(f"Listening on {path}")
                drive(runner, server.serve_socket(listener), server.stop)
            else:
                assert stdin is not None
                if os.isatty(stdin):
                    app.note("Type commands, one JSON object on a line. Ctrl-D ends.")
                drive(runner, server.serve(stdin, stdout), server.stop)
        finally:
            server.close()
    prune_sessions(app, plan)
    return 0


class _Server:
    """Reads the commands of a client, one after the other, and ends in order."""

    def __init__(self, app: AppContext, plan: Plan, lifetime: Lifetime) -> None:
        self._app = app
        self._plan = plan
        self._lifetime = lifetime
        self._conversation = Conversation(app, plan)
        self._reading: asyncio.Task[None] | None = None
        self._connected = False
        self._refusals: set[asyncio.Task[None]] = set()
        self._cause: BaseException | None = None
        self._stopped = asyncio.Event()

    def stop(self, cause: BaseException) -> None:
        """End the run under way, and then the command."""
        self._cause = self._cause or cause
        self._conversation.stop(cause)
        self._stop_reading()
        self._stopped.set()

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    def _sinks(self) -> PluginSinks:
        plan = self._plan
        return PluginSinks(plan.sinks, self._conversation.agent, self._app.warn, plan.session_id)

    def close(self) -> None:
        """Close the session."""
        self._conversation.close()

    async def serve(self, stdin: int, stdout: Output) -> None:
        """Serve the client on standard input and output."""
        self._lifetime.attach(asyncio.get_running_loop(), self.stop)
        try:
            with self._sinks():
                await self._serve(stdin, stdout)
        finally:
            self._lifetime.detach()
        cause = self._cause or stdout.error
        if cause is not None:
            raise cause

    async def serve_socket(self, listener: socket.socket) -> None:
        """Serve the clients of a socket, one at a time, until `stop` is called."""
        self._lifetime.attach(asyncio.get_running_loop(), self.stop)
        try:
            with self._sinks():
                async with asyncio.TaskGroup() as group:
                    accepting = group.create_task(self._accept(listener, group))
                    await self._stopped.wait()
                    for task in (accepting, *self._refusals):
                        task.cancel()
        finally:
            self._lifetime.detach()
        if self._cause is not None:
            raise self._cause

    async def _accept(self, listener: socket.socket, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            if self._connected:
                refusal = group.create_task(_refuse(client))
                self._refusals.add(refusal)
                refusal.add_done_callback(self._refusals.discard)
            else:
                self._connected = True
                group.create_task(self._serve_client(client))

    async def _serve_client(self, client: socket.socket) -> None:
        try:
            with client:
                client.setblocking(True)
                output = Output(client.fileno(), "the client")
                await self._serve(client.fileno(), output)
                if output.error is not None:
                    self._app.detail(f"{output.error}")
                with contextlib.suppress(OSError):  # ends the thread that reads; the client may have left
                    client.shutdown(socket.SHUT_RDWR)
        finally:
            self._connected = False

    async def _serve(self, fd: int, output: Output) -> None:
        """Serve one client to the end of its input, and then to the end of the run under way."""
        conversation = self._conversation

        serving = True

        def lose_client(error: BaseException) -> None:
            if serving:
                conversation.stop(error)
                self._stop_reading()

        output.on_error = lose_client
        conversation.connect(output)
        try:
            if self._cause is None:
                self._reading = asyncio.get_running_loop().create_task(self._read(fd))
                await asyncio.wait({self._reading})
                if not self._reading.cancelled():
                    self._reading.result()
            if fd == output.fd:  # standard input may be a socket, too, which says nothing about the output
                _call_on_hangup(fd, lose_client)
            await conversation.end_of_input()
        finally:
            serving = False
            self._reading = None
            conversation.disconnect()
            output.on_error = None

    async def _read(self, fd: int) -> None:
        async for line in _lines(fd):
            if line is None:
                self._conversation.reply_to_long_line(MAX_LINE)
            elif line.strip():
                await self._conversation.handle(line)


async def _lines(fd: int) -> AsyncIterator[bytes | None]:
    """Yield the lines of a descriptor, also a last one without a line feed; None for one that is too long."""
    reader = asyncio.StreamReader(limit=MAX_LINE)
    read_end, write_end = os.pipe()
    threading.Thread(target=_copy, args=(os.dup(fd), write_end), name="tinyagent-rpc", daemon=True).start()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", 0)
    )
    too_long = False
    try:
        while True:
            try:
                line = await reader.readuntil()
            except asyncio.LimitOverrunError as error:
                await reader.readexactly(error.consumed)
                too_long = True
                continue
            except asyncio.IncompleteReadError as error:
                if error.partial or too_long:
                    yield None if too_long else error.partial
                return
            yield None if too_long else line
            too_long = False
    finally:
        transport.close()


def _copy(source: int, target: int) -> None:
    """Copy all bytes to a pipe. If it is full, wait: then the client has to wait, too."""
    try:
        while data := os.read(source, 65536):
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(target, rest) :]
    except OSError:
        pass  # the client has left, or is no longer read
    finally:
        os.close(source)
        os.close(target)


def _call_on_hangup(fd: int, call: Callable[[BaseException], None]) -> None:
    """Call a function in this loop when the peer of a socket has closed it, not only its sending side.

    A run that waits for a model or a tool writes nothing, so no write shows that the client has left.
    """
    loop, own = asyncio.get_running_loop(), os.dup(fd)

    def wait() -> None:
        poll = select.poll()
        poll.register(own, 0)  # reports only that both sides are closed
        poll.poll()
        os.close(own)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(call, OutputClosedError("the client has left."))

    threading.Thread(target=wait, name="tinyagent-rpc-hangup", daemon=True).start()


async def _refuse(client: socket.socket) -> None:
    """Tell a second client that there is one already."""
    loop = asyncio.get_running_loop()
    error = InputError("Another client is connected.", hint="Connect again when it has left.")
    with client, contextlib.suppress(OSError, TimeoutError):
        client.setblocking(False)
        async with asyncio.timeout(REFUSAL_S):
            await loop.sock_sendall(client, _json.encode(failure(None, "connect", describe(error))) + b"\n")
            client.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(client, 65536):
                pass  # a close with unread data would discard the reply


@contextlib.contextmanager
def _listening(path: str | None) -> Iterator[socket.socket | None]:
    """Listen on a Unix socket that only its owner can connect to. It is removed at the end.

    A socket that no process listens on is replaced.

    Raises:
        InputError: The socket cannot be created, or is in use.
    """
    if path is None:
        yield None
        return
    with socket.socket(socket.AF_UNIX) as listener:
        _remove_unused(path)
        mask = os.umask(0o177)
        try:
            listener.bind(path)
            listener.listen()
        except (OSError, ValueError) as error:
            raise _cannot_listen(path, error) from None
        finally:
            os.umask(mask)
        listener.setblocking(False)
        own = os.stat(path)  # noqa: PTH116
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):
                now = os.lstat(path)
                if (now.st_dev, now.st_ino) == (own.st_dev, own.st_ino):
                    Path(path).unlink()


def _remove_unused(path: str) -> None:
    """Remove a socket that a process has left behind.

    Raises:
        InputError: The path is in use.
    """
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return  # binding reports every other problem
    if not stat.S_ISSOCK(mode):
        raise InputError(f"--listen {path}: there is a file that is not a socket.")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(REFUSAL_S)
        try:
            probe.connect(path)
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                with contextlib.suppress(OSError):
                    Path(path).unlink()
                return
            raise _cannot_listen(path, error) from None
    raise InputError(f"--listen {path}: another process listens there.", hint="Choose another path.")


def _cannot_listen(path: str, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(f"--listen {path}: cannot listen there: {reason}.")
