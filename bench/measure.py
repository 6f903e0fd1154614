"""Measure figures: pinned processes, rounds in which the clients alternate, and medians."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def pin(cpu: int) -> None:
    """Pin this process to one processor, if the system supports it."""
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {cpu})


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a child process: ours, with this checkout on the path and no proxy."""
    inherited = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return inherited | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""} | more


def say(text: str) -> None:
    """Show the progress on a terminal; a text with a line feed in any case."""
    if sys.stderr.isatty() or text.endswith("\n"):
        print(f"\r\033[K{text}" if sys.stderr.isatty() else text.strip(), end="", file=sys.stderr, flush=True)


# ---- the other clients ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Peers:
    """The installed clients: in this environment, and in a separate one (`--peers`)."""

    path: Path | None = None

    def python(self, *modules: str) -> str | None:
        """Return an interpreter that has these modules."""
        if all(importlib.util.find_spec(module) for module in modules):
            return sys.executable
        if self.path is None:
            return None
        found = all(list(self.path.glob(f"lib/python*/site-packages/{module}/")) for module in modules)
        return str(self.path / "bin" / "python") if found else None

    def node(self, package: str) -> str | None:
        """Return Node.js if this npm package is installed beside the Python packages."""
        if self.path is None or not (self.path / "node_modules" / package).is_dir():
            return None
        return shutil.which("node")

    def program(self, name: str) -> str | None:
        """Return a console script; that of this environment takes precedence."""
        own = [str(Path(sys.executable).parent)]
        own += [str(self.path / "bin")] if self.path else []
        return shutil.which(name, path=os.pathsep.join(own)) or shutil.which(name)

    @functools.cache  # noqa: B019 - there is one of these in a process
    def version(self, distribution: str, module: str | None = None) -> str | None:
        """Return the version that is measured."""
        python = self.python(module or distribution)
        if python is None:
            return None
        code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        return done.stdout.strip() or None


# ---- rounds ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A median, and the lowest and the highest round."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Figure:
        return cls(statistics.median(values), min(values), max(values))


def rounds(
    count: int, measures: dict[str, Callable[[], dict[str, float]]], say: Callable[[str], None]
) -> dict[str, dict[str, Figure]]:
    """Run every measure `count` times, alternately, and return a figure for each of its keys.

    A measure that fails is reported on standard error and omitted.
    """
    seen: dict[str, dict[str, list[float]]] = {name: {} for name in measures}
    for n in range(count):
        for name in list(seen):
            say(f"round {n + 1}/{count}: {name}")
            try:
                values = measures[name]()
            except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                print(f"\n{name} is omitted: {error}", file=sys.stderr)
                del seen[name]
                continue
            for key, value in values.items():
                seen[name].setdefault(key, []).append(value)
    return {name: {key: Figure.of(values) for key, values in keys.items()} for name, keys in seen.items()}


# ---- processes ------------------------------------------------------------------------------------


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Run the loopback server in a separate process, and yield its base URL."""
    command = [sys.executable, "-m", "bench.server", str(CPUS[0])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.stdin.close()  # the server ends when its input ends


def _last_lines(errors: str) -> str:
    return " / ".join(errors.strip().splitlines()[-2:]) or "no reason given"


def worker(module: str, python: str, *arguments: object) -> dict[str, Any]:
    """Return the JSON output of `python -m bench.MODULE ARGUMENTS`, on another processor than the server."""
    return printed([python, "-m", f"bench.{module}", *map(str, arguments)])


def printed(command: list[str]) -> dict[str, Any]:
    """Return the JSON in the last line of a command's output."""
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False, timeout=900
    )
    if done.returncode:
        raise RuntimeError(_last_lines(done.stderr))
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def program(command: list[str], **more: str) -> dict[str, float]:
    """Return wall time, time to the first byte and CPU (ms), memory (MiB) and output (bytes) of a process."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(**more),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    size, first = 0, 0.0
    while data := os.read(process.stdout.fileno(), 65536):
        first = first or time.perf_counter()
        size += len(data)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    end = time.perf_counter()
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    process.stderr.close()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {_last_lines(errors.decode())}")
    return {
        "wall ms": (end - begin) * 1e3,
        "first ms": ((first or end) - begin) * 1e3,
        "CPU ms": (usage.ru_utime + usage.ru_stime) * 1e3,
        "MiB": usage.ru_maxrss / 1024,
        "bytes": float(size),
    }


# ---- memory of this process -----------------------------------------------------------------------


def _status(key: str) -> float:
    """Return a line of /proc/self/status in MiB; 0 on systems without it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(key)), 0.0)


class Memory:
    """The peak memory of this process above its start: `with Memory() as m: …; m.mib`."""

    mib = 0.0

    def __enter__(self) -> Memory:
        with contextlib.suppress(OSError):  # "5" resets the high-water mark
            Path("/proc/self/clear_refs").write_text("5")
        self._start = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.mib = max(_status("VmHWM") - self._start, 0.0)
