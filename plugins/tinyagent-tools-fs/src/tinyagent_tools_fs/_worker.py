"""The process in which `glob` and `grep` run, and how it is talked to.

A pattern, or a line of some `.gitignore`, can keep a regular expression busy for longer than anybody wants
to wait, and Python cannot be interrupted there. A process can: it is killed when its time is up, with
ripgrep if that runs, and what it had found by then is kept.
"""

# Paths are compared as text here.
# ruff: noqa: PTH120
from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from tinyagent import ToolError

from ._places import Places
from ._root import Root
from ._search import GlobRequest, GrepRequest, glob, grep

__all__ = ["SECONDS", "Answer", "ask", "main"]

SECONDS = 30.0
"""How long a search may take."""

_BOOT = (
    "import json, sys; line = sys.stdin.readline(); sys.path[:] = json.loads(line)['path'];"
    " from tinyagent_tools_fs._worker import main; main(line)"
)
_LINE = 1 << 20
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")


class Answer:
    """What a search has said so far, and why it ended: `complete` if it was through."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.complete = False
        self.error: str | None = None

    def get(self, name: str, default: Any = None) -> Any:
        """A single fact that was said, such as the engine."""
        return next((item[name] for item in self.items if name in item), default)


async def ask(
    root: Root,
    request: GlobRequest | GrepRequest,
    stop: asyncio.Event | None,
    seconds: float | None = None,
) -> Answer:
    """Search in a process; it is gone when this returns, however that comes about."""
    places = root.places()
    message = {
        "path": _path(root),
        "root": root.path,
        "secret": places.secret,
        "kind": type(request).__name__,
        "request": asdict(request),
    }
    process = subprocess.Popen(  # noqa: ASYNC220 - at once, so that a cancellation cannot lose it
        [sys.executable, "-I", "-c", _BOOT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={name: os.environ[name] for name in _KEPT if name in os.environ},
        start_new_session=True,
    )
    answer = Answer()
    waiting: list[asyncio.Task[Any]] = []
    try:
        waiting.append(asyncio.create_task(_read(process, message, answer)))
        if stop is not None:
            waiting.append(asyncio.create_task(stop.wait()))
        limit = SECONDS if seconds is None else seconds
        await asyncio.wait(waiting, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if waiting[0].done():
            waiting[0].result()
            if not answer.complete and answer.error is None:
                raise ToolError("The search ended before it was through. Try a narrower one.")
    finally:
        _kill(process)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
    if answer.error is not None:
        raise ToolError(answer.error)
    if stop is not None and stop.is_set():
        raise ToolError("Operation aborted")
    return answer


async def _read(process: subprocess.Popen[bytes], message: dict[str, Any], answer: Answer) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LINE)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
    try:
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.close()
        except BrokenPipeError:
            return  # it did not even start: its end is seen by what it did not say
        while line := await reader.readline():
            item = json.loads(line)
            if "error" in item:
                answer.error = item["error"]
            elif "done" in item:
                answer.complete = True
            else:
                answer.items.append(item)
    finally:
        transport.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
    except ProcessLookupError:
        pass  # it is over, and ripgrep with it
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None and not stream.closed:
            try:
                stream.close()
            except BrokenPipeError:
                pass  # there was something left to write


def _path(root: Root) -> list[str]:
    """Where modules come from, but for the working directory: a file there must not become code."""
    ours = os.path.dirname(os.path.dirname(sys.modules["tinyagent"].__file__ or ""))
    kept = []
    for entry in sys.path:
        real = os.path.realpath(entry) if entry else root.path
        if real != root.path or os.path.realpath(ours) == real:
            kept.append(entry or real)
    return kept


def main(line: str) -> None:
    """What the process does: one request, answered line by line."""
    given = json.loads(line)
    secret = tuple(given["secret"])
    root = Root(given["root"], lambda: Places(secret=secret))
    out = sys.stdout

    def say(item: dict[str, Any]) -> None:
        out.write(json.dumps(item) + "\n")
        out.flush()

    fields = given["request"] | {"start": tuple(given["request"]["start"])}
    try:
        if given["kind"] == "GlobRequest":
            glob(root, GlobRequest(**fields), say)
        else:
            grep(root, GrepRequest(**fields), say)
    except ToolError as error:
        say({"error": str(error)})
    except OSError as error:
        say({"error": f"The search failed: {error.strerror or error}."})
    else:
        say({"done": True})
