"""`tinyagent.tools.run_in_process`: work that can be killed, and what happens to what it gives."""

from __future__ import annotations

import asyncio
import os
import re
import signal as signals
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tinyagent import ToolError
from tinyagent.testing.contract import advance_clock
from tinyagent.tools import run_in_process

# ---- functions that run in a process ------------------------------------------------------------------


@dataclass
class Box:
    """Something with types."""

    name: str
    content: bytes
    size: tuple[int, int] = (1, 2)


def double(box: Box, times: int = 2) -> Box:
    """Take and return a dataclass."""
    assert isinstance(box, Box)
    return Box(box.name * times, box.content * times, box.size)


def count_up(limit: int) -> Iterator[int]:
    """Yield items."""
    yield from range(limit)


def count_and_wait(file: str) -> Iterator[str]:
    """Yield one item, then wait without end."""
    yield "first"
    Path(file).write_text(str(os.getpid()))
    time.sleep(600)


def backtrack(pid_file: str) -> bool:
    """Hold the interpreter lock for longer than anyone waits."""
    Path(pid_file).write_text(str(os.getpid()))
    return re.match(r"(a+)+$", "a" * 60 + "b") is not None


def sleep_beside_a_child(pid_file: str) -> None:
    """Start another process, and wait."""
    started = subprocess.Popen(["sleep", "600"])
    Path(pid_file).write_text(str(started.pid))
    time.sleep(600)


def refuse() -> None:
    """Fail on purpose."""
    raise ToolError("This cannot be done. Try something else.")


def stumble() -> None:
    """Fail by mistake."""
    raise KeyError("lost\ud800")


def take_memory(size: int) -> int:
    """Ask for memory."""
    return len(bytearray(size))


def die() -> None:
    """End at once."""
    os.kill(os.getpid(), signals.SIGKILL)


def leave() -> None:
    """End the interpreter."""
    raise SystemExit(3)


def surroundings() -> dict[str, object]:
    """What a function finds around it."""
    sys.stdout.write("this is not an answer")
    return {
        "input": sys.stdin.read() + os.read(0, 10).decode(),
        "folder": str(Path.cwd()),
        "key": os.environ.get("OPENROUTER_API_KEY"),
        "path": sys.path,
    }


def fill(size: int) -> str:
    """Return a long text."""
    return "x" * size


# ---- values -------------------------------------------------------------------------------------------


async def test_arguments_and_results_keep_their_types() -> None:
    """Type hints decide: dataclasses arrive as such, bytes as bytes, tuples as tuples; defaults hold."""
    assert Box("aa", b"\0\0") == await run_in_process(double, Box("a", b"\0"))
    assert Box("aaa", b"\0\0\0", (3, 4)) == await run_in_process(double, Box("a", b"\0", (3, 4)), 3)


async def test_large_values_pass() -> None:
    """Megabytes in both directions do not block each other."""
    box = Box("x", b"\xff" * 8_000_000)
    assert Box("xx", b"\xff" * 16_000_000) == await run_in_process(double, box)


async def test_a_generator_sends_its_items() -> None:
    """In order, each to the callback."""
    items: list[int] = []
    assert await run_in_process(count_up, 1_000, on_item=items.append) is None
    assert list(range(1_000)) == items


async def test_a_callback_that_fails_ends_the_call() -> None:
    """Its own error comes out."""

    def fail(item: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_in_process(count_up, 5, on_item=fail)


async def test_the_process_gets_none_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No input, no keys, not the working directory; what it prints is not taken for an answer."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-test-canary")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    found = await run_in_process(surroundings)
    path = found.pop("path")
    assert isinstance(path, list)
    assert {"input": "", "folder": "/", "key": None} == found
    assert not {"", str(tmp_path)} & set(path)


@pytest.mark.parametrize("where", ["script", "module"])
def test_a_script_may_use_its_own_functions(where: str, tmp_path: Path) -> None:
    """A function of `__main__` is found by its file, with the modules beside it; the script runs once."""
    (tmp_path / "helper_of_script.py").write_text("def add(a: int, b: int) -> int:\n    return a + b\n")
    (tmp_path / "script.py").write_text(
        "import asyncio, helper_of_script\n"
        "from tinyagent.tools import run_in_process\n"
        "def work(a: int) -> int:\n    return helper_of_script.add(a, 1)\n"
        "if __name__ == '__main__':\n    print(asyncio.run(run_in_process(work, 41)))\n"
    )
    command = [sys.executable, *(["script.py"] if where == "script" else ["-m", "script"])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ("42\n", "") == (done.stdout, done.stderr)


# ---- failures -----------------------------------------------------------------------------------------


async def test_the_functions_own_errors() -> None:
    """A `ToolError` keeps its message; another exception is named, with its traceback as a note."""
    with pytest.raises(ToolError, match=r"^This cannot be done\. Try something else\.$"):
        await run_in_process(refuse)
    with pytest.raises(ToolError, match=r"^stumble failed: KeyError: 'lost\\ud800'") as failed:
        await run_in_process(stumble)
    assert "in stumble" in failed.value.__notes__[0]


async def test_a_process_that_ends_without_an_answer() -> None:
    """The error says how it ended."""
    with pytest.raises(ToolError, match="die did not answer: its process was ended by SIGKILL"):
        await run_in_process(die)
    with pytest.raises(ToolError, match="leave did not answer: its process ended with exit code 0"):
        await run_in_process(leave)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not enforce RLIMIT_AS")
async def test_memory_is_bounded() -> None:
    """What needs more than it may use fails; this process is not concerned."""
    with pytest.raises(ToolError, match="take_memory needs more memory than it may use"):
        await run_in_process(take_memory, 4 << 30, memory=1 << 30)
    assert 1 << 20 == await run_in_process(take_memory, 1 << 20, memory=1 << 30)


async def test_an_answer_is_bounded() -> None:
    """A result that would fill this process is refused while it is read."""
    with pytest.raises(
        ToolError, match="The answer of fill cannot be used: it has more than 67,108,864 bytes"
    ):
        await run_in_process(fill, 70_000_000)


@pytest.mark.parametrize(
    ("function", "argument"), [(lambda: 1, ()), (len, ("abc",)), (double, ("\ud800",)), (double, (object(),))]
)
async def test_what_cannot_be_sent(function: object, argument: tuple[object, ...]) -> None:
    """Functions without a name in a module, and values that MessagePack does not hold."""
    with pytest.raises(TypeError, match=r"top level of a module|cannot be sent"):
        await run_in_process(function, *argument)  # type: ignore[arg-type]


def vague(value: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Name a type that does not exist."""


async def test_a_type_hint_that_cannot_be_resolved() -> None:
    """It is named before a process is started."""
    with pytest.raises(TypeError, match="A type hint of vague cannot be resolved: name 'Missing'"):
        await run_in_process(vague, 1)


# ---- the end ------------------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def written(file: Path) -> int:
    """Wait for the process id that a function writes."""
    async with asyncio.timeout(60):
        while not (file.exists() and file.read_text()):
            await asyncio.sleep(0.01)
    return int(file.read_text())


async def ended(pid: int) -> None:
    """Wait until a process that was killed is gone: its new parent may not have reaped it yet."""
    async with asyncio.timeout(60):
        while alive(pid):
            await asyncio.sleep(0.01)


async def test_a_time_out_ends_what_holds_the_interpreter(tmp_path: Path) -> None:
    """A regular expression without end is gone when the error is raised."""
    file = tmp_path / "pid"
    call = asyncio.create_task(run_in_process(backtrack, str(file), timeout=1_000))
    pid = await written(file)
    advance_clock(1_000)
    with pytest.raises(TimeoutError, match=r"backtrack took longer than 1000 s, so it was ended\."):
        await call
    assert not alive(pid)


async def test_an_abort_ends_it(tmp_path: Path) -> None:
    """The signal of the run; one that is set before starts nothing."""
    file, signal = tmp_path / "pid", asyncio.Event()
    call = asyncio.create_task(run_in_process(backtrack, str(file), signal=signal))
    pid = await written(file)
    signal.set()
    with pytest.raises(ToolError, match="Operation aborted"):
        await call
    assert not alive(pid)
    file.unlink()
    with pytest.raises(ToolError, match="Operation aborted"):
        await run_in_process(backtrack, str(file), signal=signal)
    assert not file.exists()


async def test_items_before_a_time_out_have_arrived(tmp_path: Path) -> None:
    """What was found is not lost with the rest."""
    items: list[str] = []
    arrived = asyncio.Event()

    def on_item(item: str) -> None:
        items.append(item)
        arrived.set()

    call = asyncio.create_task(
        run_in_process(count_and_wait, str(tmp_path / "pid"), timeout=1_000, on_item=on_item)
    )
    await arrived.wait()
    advance_clock(1_000)
    with pytest.raises(TimeoutError):
        await call
    assert ["first"] == items


async def test_a_cancellation_ends_it_and_what_it_started(tmp_path: Path) -> None:
    """Its own processes included."""
    file = tmp_path / "pid"
    call = asyncio.create_task(run_in_process(sleep_beside_a_child, str(file)))
    pid = await written(file)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await ended(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
async def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """Also if the parent is killed and the function holds the interpreter lock."""
    file, script = tmp_path / "pid", tmp_path / "script.py"
    script.write_text(
        "import asyncio, re, os, pathlib\nfrom tinyagent.tools import run_in_process\n"
        "def work(file: str) -> None:\n    pathlib.Path(file).write_text(str(os.getpid()))\n"
        "    re.match(r'(a+)+$', 'a' * 60 + 'b')\n"
        f"if __name__ == '__main__':\n    asyncio.run(run_in_process(work, {str(file)!r}))\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    try:
        pid = await written(file)
        assert alive(pid)
    finally:
        parent.kill()
        parent.wait()
    await ended(pid)
