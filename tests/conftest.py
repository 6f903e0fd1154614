"""Fixtures of every test: no network, no key, no terminal, an empty home, and no remaining task."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tinyagent._net import request as _http
from tinyagent._net.retry import RetryPolicy

# nohup and a shell's background jobs ignore signals. Children inherit that, and do not end as tests expect.
for _name in ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"):
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) is signal.SIG_IGN:
        signal.signal(
            getattr(signal, _name), signal.default_int_handler if _name == "SIGINT" else signal.SIG_DFL
        )


def _leave_terminal() -> None:
    """Give up the controlling terminal: commands would ask on it, and wait for answers.

    A session leader would end its session. macOS sends Ctrl-C only to processes that have the terminal, so
    there only the workers of xdist leave it.
    """
    if sys.platform == "win32" or os.getsid(0) == os.getpid():
        return
    if sys.platform != "linux" and "PYTEST_XDIST_WORKER" not in os.environ:
        return
    import fcntl
    import termios

    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
    except OSError:
        return
    fcntl.ioctl(terminal, termios.TIOCNOTTY)
    os.close(terminal)


_leave_terminal()

# These start many processes, or wait for the real end of one. `make test-fast` leaves them out.
SLOW = (
    *("plugins", "tests/bindings", "tests/peers", "tests/plugins", "tests/sandbox"),
    *(f"tests/cli/test_{name}" for name in ("approvals", "bad_input", "batch", "compact", "doctor")),
    *(f"tests/cli/test_{name}" for name in ("events", "keys", "record_file")),
    *(f"tests/cli/test_{name}" for name in ("new_plugin", "page_browser", "pipes", "plugins", "process")),
    *(f"tests/cli/test_{name}" for name in ("rpc", "secrets", "session", "shell_completion")),
    *(f"tests/cli/test_{name}" for name in ("standard_streams", "start")),
    *(f"tests/contract/test_{name}" for name in ("contract_itself", "secrets")),
    *(f"tests/test_{name}" for name in ("bench", "process", "pytest_plugin", "transports")),
)


ROOT = Path(__file__).resolve().parent.parent


def _is_slow(path: Path) -> bool:
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).as_posix().startswith(SLOW)


def _without_slow(config: pytest.Config) -> bool:
    return config.option.markexpr == "not slow"


def pytest_configure(config: pytest.Config) -> None:
    """Disable hypothesis deadlines, and use fewer examples without the slow tests."""
    settings.register_profile(
        "tests",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        max_examples=30 if _without_slow(config) else 100,
    )
    settings.load_profile("tests")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the slow tests without importing them, because the imports are slow."""
    return True if _without_slow(config) and _is_slow(collection_path) else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the many objects of modules and tests out of garbage collections, which look at all objects."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests, and run them first, so that no worker gets a long file at the end."""
    for item in items:
        if _is_slow(item.path):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


KEEP = {"PATH", "LANG", "LC_ALL", "TMPDIR", "CI", "SYSTEMROOT", "PYTHONPATH", "VIRTUAL_ENV"}
"""Of the environment that the tests were started in, this much is left."""


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the homes of all tests. `mktemp` would look at all of them for each new one."""
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(autouse=True)
def isolated_environment(homes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty home and TINYAGENT_HOME, and remove keys; child processes inherit this."""
    home = Path(tempfile.mkdtemp(dir=homes))
    for name in os.environ.keys() - KEEP:
        # A pytest that a test starts is not a worker of ours.
        ours = name.startswith(("PYTEST_", "PIP_", "COVERAGE_", "HYPOTHESIS_"))
        if not ours or name.startswith("PYTEST_XDIST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setenv("TINYAGENT_HOME", str(home / "tinyagent"))
    return home


class NetworkUsedError(AssertionError):
    """A test tried to connect to another machine."""


def _refuse_unless_loopback(address: Any) -> None:
    host = address[0] if isinstance(address, tuple) else None  # AF_UNIX addresses are paths
    if host is None or host in ("localhost", ""):
        return
    try:
        loopback = ipaddress.ip_address(str(host).split("%")[0]).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise NetworkUsedError(f"a test tried to reach {host!r}: only loopback is allowed")


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail on connections and look-ups of this process that leave the machine."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _refuse_unless_loopback(address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _refuse_unless_loopback(address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_unless_loopback((host.decode() if isinstance(host, bytes) else host, 0))
        return getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let no retry wait. Return the seconds that they would have waited, without their random part."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(_http, "RETRY", RetryPolicy(sleep=sleep, random=lambda: 0.0))
    return waited


@pytest.fixture
async def _task_check() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    # Tasks that are ending may end, such as one that closes a stream that was dropped.
    while left := asyncio.all_tasks() - before - {asyncio.current_task()}:
        done, _ = await asyncio.wait(left, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert done, f"the test left tasks behind: {left}"


@pytest.fixture(autouse=True)
def no_task_left(request: pytest.FixtureRequest) -> None:
    """Check that an asynchronous test leaves no task."""
    if request.node.get_closest_marker("asyncio"):
        request.getfixturevalue("_task_check")
