"""`run_in_process`: call a function where it can be killed.

Python cannot interrupt a thread: a regular expression that backtracks or a slow parser continues after a
time-out or an abort, and holds the interpreter lock. A process can be killed. `_process_child` is the child
process and describes the protocol. A daemon thread reads and writes the pipes, so this works on every event
loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal as signals
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Generic, TypeVar, overload

import msgspec

from . import _process_child as child
from ._cancel import ABORTED, run_until_aborted
from ._process_request import answer_types, encode_request, files_to_see
from .agent_types import JsonDict
from .errors import ToolError
from .supervisor import supervised_command

if TYPE_CHECKING:  # it takes a while to import, and few tools have a sandbox
    from .tool_sandbox import ToolSandbox

__all__ = ["MAX_ANSWER_BYTES", "MEMORY_BYTES", "run_in_process", "run_tool_in_process"]

T = TypeVar("T")
ItemT = TypeVar("ItemT")

MEMORY_BYTES = 2 << 30
"""The default limit of the process's address space, in bytes."""

MAX_ANSWER_BYTES = 64 << 20
"""The limit of everything that one call sends back, in bytes."""

_PASSED_ON = frozenset(
    {
        *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT"),
        *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),  # without them some interpreters do not start
    }
)
_EXIT_SECONDS = 5.0
_ERROR_BYTES = 2_000


@overload
async def run_in_process(
    function: Callable[..., Generator[ItemT, None, T]],
    /,
    *arguments: object,
    signal: asyncio.Event | None = None,
    timeout: float = 60.0,
    memory: int | None = MEMORY_BYTES,
    on_item: Callable[[ItemT], None] | None = None,
    sandbox: ToolSandbox | None = None,
) -> T: ...
@overload
async def run_in_process(
    function: Callable[..., Iterator[ItemT]],
    /,
    *arguments: object,
    signal: asyncio.Event | None = None,
    timeout: float = 60.0,
    memory: int | None = MEMORY_BYTES,
    on_item: Callable[[ItemT], None] | None = None,
    sandbox: ToolSandbox | None = None,
) -> object: ...
@overload
async def run_in_process(
    function: Callable[..., T],
    /,
    *arguments: object,
    signal: asyncio.Event | None = None,
    timeout: float = 60.0,
    memory: int | None = MEMORY_BYTES,
    sandbox: ToolSandbox | None = None,
) -> T: ...
async def run_in_process(
    function: Callable[..., object],
    /,
    *arguments: object,
    signal: asyncio.Event | None = None,
    timeout: float = 60.0,
    memory: int | None = MEMORY_BYTES,
    on_item: Callable[[ItemT], None] | None = None,
    sandbox: ToolSandbox | None = None,
) -> object:
    """Call a function in a separate process, which is killed on a time-out, an abort or a cancellation.

    Use it for work that Python cannot interrupt and that has untrusted input: parsers, decompression, regular
    expressions from a model. The start takes about as long as importing the function's module (at least
    30 ms), so keep this module small.

        from tinyagent.tools import run_in_process, tool

        def count(pattern: str, text: str) -> int:
            return len(re.findall(pattern, text))

        @tool
        async def matches(pattern: str, text: str, signal: asyncio.Event | None) -> int:
            '''Count the matches of a regular expression.'''
            return await run_in_process(count, pattern, text, signal=signal, timeout=10)

    The process starts with an empty standard input, `/` as its working directory, a small part of the
    environment and no state of this process. It and its children have ended when this returns. If this
    process is killed, the child ends, too: at once on Linux, after its timeout on other systems.

    Args:
        function: A function at the top level of a module, which the process imports.
            A generator function sends each item when it yields it; its return value is the result.
        *arguments: Values that MessagePack can encode: text, bytes, numbers, booleans, None, lists and dicts.
            With type hints also dataclasses, msgspec Structs, sets and dates. The same holds for the result
            and for items.
        signal: The abort signal of the tool call.
        timeout: The time limit in seconds, including the start of the process.
        memory: The limit of the process's address space in bytes, where the platform enforces RLIMIT_AS; None
            for no limit.
        on_item: Called in this thread with each item of a generator function as it arrives.
        sandbox: What confines the process, in the working directory of this one; None for no sandbox.

    Raises:
        TimeoutError: The time limit was reached.
        ToolError: The run was aborted; the function raised (a `ToolError` keeps its message); the
            process ended without an answer, ran out of memory, or sent more than `MAX_ANSWER_BYTES`.
        ConfigurationError: A sandbox is required, and this machine has none.
        TypeError: The function is not at the top level of a module, a type hint cannot be resolved, or an
            argument cannot be encoded.
    """
    if sandbox is not None and not await asyncio.to_thread(sandbox.is_active):
        sandbox = None
    request = encode_request(function, arguments, timeout, memory, confined=sandbox is not None)
    types = answer_types(function)
    return await _run(function, request, types, signal, timeout, on_item, sandbox)


async def run_tool_in_process(
    function: Callable[..., object],
    tool_call_id: str,
    arguments: JsonDict,
    signal: asyncio.Event | None,
    on_item: Callable[[object], None],
    sandbox: ToolSandbox,
) -> object:
    """Call the tool of a function in a sandbox. Return its `AgentToolResult` as a dict.

    Args:
        function: The function of the tool, at the top level of a module.
        tool_call_id: The id of the call.
        arguments: Its arguments.
        signal: Its abort signal.
        on_item: Called in this thread with each update, as a dict.
        sandbox: What confines the process. It is active.

    Raises:
        ToolError: As for `run_in_process`.
    """
    request = encode_request(function, (tool_call_id, arguments), None, None, confined=True, is_tool=True)
    return await _run(function, request, (child.UNTYPED, child.UNTYPED), signal, None, on_item, sandbox)


async def _run(
    function: Callable[..., object],
    request: bytes,
    types: tuple[object, object],
    signal: asyncio.Event | None,
    timeout: float | None,
    on_item: Callable[[ItemT], None] | None,
    sandbox: ToolSandbox | None,
) -> object:
    if signal is not None and signal.is_set():
        raise ToolError(ABORTED)
    visible = () if sandbox is None else files_to_see(function)
    call = _Call(function.__qualname__, request, types, on_item, sandbox, visible)
    try:
        await run_until_aborted(asyncio.wait([call.result], timeout=timeout), signal)
    finally:
        call.end()
    if call.result.done():
        return call.answer()
    raise TimeoutError(f"{function.__qualname__} took longer than {timeout:g} s, so it was ended.")


class _Call(Generic[ItemT]):
    """A running process. Call `end` in any case; it kills the process."""

    def __init__(
        self,
        name: str,
        request: bytes,
        types: tuple[object, object],
        on_item: Callable[[ItemT], None] | None,
        sandbox: ToolSandbox | None,
        visible: Sequence[str],
    ) -> None:
        self._name = name
        self._types = dict(zip((child.ITEM, child.RESULT), types, strict=True))
        self._on_item = on_item
        self._ended = self._answered = False
        self._problem = ""
        self._loop = asyncio.get_running_loop()
        self.result: asyncio.Future[object] = self._loop.create_future()
        self._lifeline: int | None = None
        self._process = self._start(sandbox, visible)
        threading.Thread(
            target=self._talk, args=(request,), name=f"tinyagent process {name}", daemon=True
        ).start()

    def _start(self, sandbox: ToolSandbox | None, visible: Sequence[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", child.__file__, str(Path(msgspec.__file__).parent.parent)]
        environment = {name: value for name, value in os.environ.items() if name.upper() in _PASSED_ON}
        folder = os.path.abspath(os.sep)  # noqa: PTH100 - pathlib has no shorter name for the root
        if sandbox is None:
            return self._popen(command, environment, folder, ())
        folder = os.getcwd()  # noqa: PTH109 - a text
        with sandbox.launch(command, cwd=folder, environment=environment, visible=visible) as launch:
            if launch.mechanism == "bubblewrap":  # its processes end with it
                return self._popen(launch.command, launch.environment, folder, launch.descriptors)
            lifeline, self._lifeline = os.pipe()
            try:
                supervised = supervised_command(launch.command, lifeline=lifeline)
                return self._popen(supervised, launch.environment, folder, (lifeline, *launch.descriptors))
            except BaseException:
                os.close(self._lifeline)
                raise
            finally:
                os.close(lifeline)

    def _popen(
        self, command: Sequence[str], environment: Mapping[str, str], folder: str, descriptors: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        # Not awaited, because a cancellation would lose the process. Started in this thread, because the
        # kernel ends the child together with the thread that started it (PR_SET_PDEATHSIG).
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # of the start only: the child then discards its output
            cwd=folder,
            env=environment,
            pass_fds=descriptors,
            start_new_session=True,
        )

    def end(self) -> None:
        """Kill the process and its children. Call it in the event loop, also during a cancellation."""
        self._ended = True
        if self._lifeline is None:
            _kill(self._process)
        else:
            self._process.terminate()  # the supervisor ends everything that the process has started
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_EXIT_SECONDS)
            _kill(self._process)
            os.close(self._lifeline)
        if self.result.done() and not self.result.cancelled():
            self.result.exception()  # retrieved, so asyncio does not log it

    def answer(self) -> object:
        """Return the result, or raise the error of the call. Call it after `end`."""
        result = self.result.result()
        if not self._answered:
            how = _how_it_ended(self._process)
            raise ToolError(f"{self._name} did not answer: its process {how}{self._problem}.")
        return result

    # ---- in the thread --------------------------------------------------------------------------------

    def _talk(self, request: bytes) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        error: Exception | None = None
        result: object = None
        answered = False
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(request)
            with process.stdout as stdout:
                for kind, payload in _frames(stdout):
                    if kind == child.ITEM:
                        self._in_loop(self._take, self._decode(kind, payload))
                        continue
                    answered = True
                    if kind == child.RESULT:
                        result = self._decode(kind, payload)
                    else:
                        error = self._failure(kind, payload)
                    break
                if not answered:
                    self._problem = _first_line(process.stderr)
        except (OSError, ValueError, msgspec.MsgspecError, ToolError) as raised:
            answered = True
            error = ToolError(f"The answer of {self._name} cannot be used: {raised}")
        finally:
            process.stderr.close()
        self._in_loop(self._settle, answered, result, error)

    def _decode(self, kind: bytes, payload: bytes) -> object:
        decoded: object = msgspec.msgpack.decode(payload, type=self._types[kind])
        return decoded

    def _failure(self, kind: bytes, payload: bytes) -> ToolError:
        if kind == child.MEMORY:
            return ToolError(f"{self._name} needs more memory than it may use, so it was ended.")
        if kind == child.FAILED:
            return ToolError(msgspec.msgpack.decode(payload, type=str))
        message, trace = msgspec.msgpack.decode(payload, type=tuple[str, str])
        error = ToolError(f"{self._name} failed: {message}")
        error.add_note(trace)
        return error

    def _in_loop(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call, *arguments)

    # ---- in the loop ----------------------------------------------------------------------------------

    def _take(self, item: ItemT) -> None:
        if self._on_item is None or self._ended or self.result.done():
            return
        try:
            self._on_item(item)
        except Exception as error:  # noqa: BLE001 - the caller of `run_in_process` gets it
            self.result.set_exception(error)

    def _settle(self, answered: bool, result: object, error: Exception | None) -> None:
        if self._ended or self.result.done():
            return
        self._answered = answered
        if error is None:
            self.result.set_result(result)
        else:
            self.result.set_exception(error)


def _first_line(stream: IO[bytes]) -> str:
    """Return a part of a sentence with the first line that was written; empty for none."""
    lines = stream.read(_ERROR_BYTES).decode(errors="replace").split("\n", 1)
    return f": {lines[0].strip().rstrip('.')}" if lines[0].strip() else ""


def _frames(stream: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Read frames until the process ends. A truncated frame is dropped."""
    left = MAX_ANSWER_BYTES
    while len(head := stream.read(5)) == 5:
        size = int.from_bytes(head[:4], "big")
        left -= size
        if left < 0:
            raise ToolError(f"it has more than {MAX_ANSWER_BYTES:,} bytes.")
        payload = stream.read(size)
        if len(payload) < size:
            return
        yield head[4:], payload


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signals.SIGKILL)  # not reaped yet, so the process id is still its own
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        pass  # it has ended
    try:
        process.wait(_EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        pass  # blocked in the kernel, for example by a network file system; Popen reaps it later


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    if code is None:
        return "closed its output and could not be killed"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signals.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    cause = ", as happens when memory runs out" if name in ("SIGABRT", "SIGKILL", "SIGSEGV") else ""
    return f"was ended by {name}{cause}"
