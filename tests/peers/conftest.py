"""Functions for tests with servers of other projects: find them, wait for them, stop them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TINYAGENT = Path(sys.executable).with_name("tinyagent")
START_SECONDS = 150

Run = Callable[..., subprocess.CompletedProcess[str]]


def require_peer(program: Path) -> Path:
    """Return a program of a peer's environment. Without it the test is skipped; in CI it fails."""
    if program.exists():
        return program
    absent = f"{program.relative_to(ROOT)} is not installed: run `make environments`"
    if os.environ.get("CI") == "true":
        pytest.fail(absent)
    pytest.skip(absent)


@contextmanager
def running(command: list[Any], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server with its output in `log`, and stop it at the end or when this process ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, **options
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def wait_until_ready(is_ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server is ready; fail with its output if it never is."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if is_ready():
            return
        time.sleep(0.1)
    state = "still starting" if process.poll() is None else f"gone with code {process.returncode}"
    pytest.fail(f"the server is {state}:\n{log.read_text(errors='replace')[-4000:]}")


def answers(url: str) -> bool:
    """Return whether a GET of `url` succeeds."""
    try:
        get(url)
    except OSError:
        return False
    return True


def get(url: str) -> bytes:
    """Return the body at a loopback URL, without a proxy of the environment."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as reply:
        body: bytes = reply.read()
    return body


def json_lines(output: str) -> list[dict[str, Any]]:
    """Return the JSON objects of an output with one object per line."""
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
def configured(isolated_environment: Path) -> Callable[[str], None]:
    """Return a function that writes the user's configuration file."""

    def write(text: str) -> None:
        home = isolated_environment / "tinyagent"
        home.mkdir()
        (home / "config.toml").write_text(text, encoding="utf-8")
        (home / "config.toml").chmod(0o600)

    return write


def run_tinyagent(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `tinyagent run` to its end."""
    return subprocess.run(
        [TINYAGENT, "run", *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
