"""`tinyagent.tools.run_in_process`: values, failures, limits, and the end of the process."""

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
    """A dataclass with several types."""

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
    """Yield one item, then wait forever."""
    yield "first"
    Path(file).write_text(str(os.getpid()))
    time.sleep(600)


def backtrack(pid_file: str) -> bool:
    """Hold the interpreter lock almost endlessly."""
    Path(pid_file).write_text(str(os.getpid()))
    return re.match(r"(a+)+$", "a" * 60 + "b") is not None


def sleep_beside_a_child(pid_file: str) -> None:
    """Start another process, and wait."""
    started = subprocess.Popen(["sleep", "600"])
    Path(pid_file).write_text(str(started.pid))
    time.sleep(600)


def refuse() -> None:
    """Raise a ToolError."""
    raise ToolError("This cannot be done. Try something else.")


def stumble() -> None:
    """Raise another exception."""
    raise KeyError("lost\ud800")


def take_memory(size: int) -> int:
    """Allocate memory."""
    return len(bytearray(size))


def die() -> None:
    """End the process at once."""
    os.kill(os.getpid(), signals.SIGKILL)


def leave() -> None:
    """Exit the interpreter."""
    raise SystemExit(3)


def surroundings() -> dict[str, object]:
    """Return the environment of the function."""
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
    """Type hints convert dataclasses, bytes and tuples; defaults apply."""
    assert Box("aa", b"\0\0") == await run_in_process(double, Box("a", b"\0"))
    assert Box("aaa", b"\0\0\0", (3, 4)) == await run_in_process(double, Box("a", b"\0", (3, 4)), 3)


async def test_large_values_pass() -> None:
    """Megabytes in both directions do not block each other."""
    box = Box("x", b"\xff" * 8_000_000)
    assert Box("xx", b"\xff" * 16_000_000) == await run_in_process(double, box)


async def test_a_generator_sends_its_items() -> None:
    """The callback gets each item in order."""
    items: list[int] = []
    assert await run_in_process(count_up, 1_000, on_item=items.append) is None
    assert list(range(1_000)) == items


async def test_a_callback_that_fails_ends_the_call() -> None:
    """The call raises the callback's exception."""

    def fail(item: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_in_process(count_up, 5, on_item=fail)


async def test_the_process_has_a_clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It has no input, no keys and another working directory; its output is discarded."""
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
    """A function of `__main__` is loaded from its file; the script does not run again."""
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


async def test_errors_of_the_function() -> None:
    """A `ToolError` keeps its message; another exception has its type and its traceback as a note."""
    with pytest.raises(ToolError, match=r"^This cannot be done\. Try something else\.$"):
        await run_in_process(refuse)
    with pytest.raises(ToolError, match=r"^stumble failed: KeyError: 'lost\\ud800'") as failed:
        await run_in_process(stumble)
    assert "in stumble" in failed.value.__notes__[0]


async def test_a_process_that_ends_without_an_answer() -> None:
    """The error shows how the process ended."""
    with pytest.raises(ToolError, match="die did not answer: its process was ended by SIGKILL"):
        await run_in_process(die)
    with pytest.raises(ToolError, match="leave did not answer: its process ended with exit code 0"):
        await run_in_process(leave)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not enforce RLIMIT_AS")
async def test_memory_is_limited() -> None:
    """A function that exceeds the limit fails; this process is not affected."""
    with pytest.raises(ToolError, match="take_memory needs more memory than it may use"):
        await run_in_process(take_memory, 4 << 30, memory=1 << 30)
    assert 1 << 20 == await run_in_process(take_memory, 1 << 20, memory=1 << 30)


async def test_an_answer_is_limited() -> None:
    """A result that is too large is refused while it is read."""
    with pytest.raises(
        ToolError, match="The answer of fill cannot be used: it has more than 67,108,864 bytes"
    ):
        await run_in_process(fill, 70_000_000)


@pytest.mark.parametrize(
    ("function", "argument"), [(lambda: 1, ()), (len, ("abc",)), (double, ("\ud800",)), (double, (object(),))]
)
async def test_invalid_functions_are_refused(function: object, argument: tuple[object, ...]) -> None:
    """Functions without a module-level name and values without a MessagePack form raise TypeError."""
    with pytest.raises(TypeError, match=r"top level of a module|cannot be sent"):
        await run_in_process(function, *argument)  # type: ignore[arg-type]


def vague(value: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Have a type hint that cannot be resolved."""


async def test_a_type_hint_that_cannot_be_resolved() -> None:
    """The error is raised before a process starts."""
    with pytest.raises(TypeError, match="A type hint of vague cannot be resolved: name 'Missing'"):
        await run_in_process(vague, 1)


# ---- the end ------------------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # The second if it ends while it is read.
        return False


async def written(file: Path) -> int:
    """Wait for the process id that a function writes."""
    async with asyncio.timeout(60):
        while not (file.exists() and file.read_text()):
            await asyncio.sleep(0.01)
    return int(file.read_text())


async def ended(pid: int) -> None:
    """Wait until a killed process has ended and was reaped."""
    async with asyncio.timeout(60):
        while alive(pid):
            await asyncio.sleep(0.01)


async def test_a_time_out_kills_the_process(tmp_path: Path) -> None:
    """An endless regular expression has ended when the error is raised."""
    file = tmp_path / "pid"
    call = asyncio.create_task(run_in_process(backtrack, str(file), timeout=1_000))
    pid = await written(file)
    advance_clock(1_000)
    with pytest.raises(TimeoutError, match=r"backtrack took longer than 1000 s, so it was ended\."):
        await call
    assert not alive(pid)


async def test_an_abort_kills_the_process(tmp_path: Path) -> None:
    """An abort signal that is already set starts no process."""
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
    """Items that were sent before the time-out reach the callback."""
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


async def test_a_cancellation_kills_all_processes(tmp_path: Path) -> None:
    """Child processes of the process are killed, too."""
    file = tmp_path / "pid"
    call = asyncio.create_task(run_in_process(sleep_beside_a_child, str(file)))
    pid = await written(file)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await ended(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
async def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    """It ends when its parent is killed, even if it holds the interpreter lock."""
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
