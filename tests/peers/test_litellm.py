"""`tinyagent run` against a server that is not ours: LiteLLM's proxy with mocked upstreams."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LITELLM = ROOT / ".venv-peers" / "bin" / "litellm"
TINYAGENT = Path(sys.executable).with_name("tinyagent")
START_SECONDS = 150

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(START_SECONDS + 60)]


@dataclass
class Proxy:
    """A running proxy and the key that it wants."""

    url: str
    key: str


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """LiteLLM's proxy on a loopback port, without any setting that makes it call home."""
    if not LITELLM.exists():
        absent = "LiteLLM is not installed in .venv-peers: run `make peers`"
        if os.environ.get("CI") == "true":
            pytest.fail(absent)
        pytest.skip(absent)
    home = tmp_path_factory.mktemp("litellm")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = Proxy(url=f"http://127.0.0.1:{port}", key=f"sk-{secrets.token_hex(8)}")
    log = home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [LITELLM, "--config", HERE / "litellm_config.yaml", "--host", "127.0.0.1", "--port", str(port)],
            cwd=home,
            env={
                "PATH": f"{LITELLM.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
                "HOME": str(home),
                "LITELLM_MASTER_KEY": running.key,
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LITELLM_LOCAL_BLOG_POSTS": "True",
                "LITELLM_MODE": "PRODUCTION",
                "LITELLM_TELEMETRY": "False",
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_alive(running, process, log)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_alive(proxy: Proxy, process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with opener.open(f"{proxy.url}/health/liveliness", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    state = "still starting" if process.poll() is None else f"gone with code {process.returncode}"
    pytest.fail(f"LiteLLM's proxy is {state}:\n{log.read_text(errors='replace')[-4000:]}")


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(proxy: Proxy, isolated_environment: Path) -> Run:
    """`tinyagent run` as a user who put the proxy into the configuration would type it."""
    home = isolated_environment / "tinyagent"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[providers.litellm]\nbase_url = "{proxy.url}/v1"\napi_key_env = "LITELLM_KEY"\n', encoding="utf-8"
    )

    def run(*arguments: str, key: str = proxy.key) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [TINYAGENT, "run", *arguments],
            env={**os.environ, "LITELLM_KEY": key},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def _lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_text(run: Run) -> None:
    """The reply, whole, and nothing else on standard output."""
    done = run("-m", "litellm/mocked", "What is the capital of France?")
    assert ("The capital of France is Paris, says the mock.\n", 0) == (done.stdout, done.returncode), (
        done.stderr
    )


def test_text_streams(run: Run) -> None:
    """LiteLLM sends three characters at a time, and each piece is a delta of ours."""
    done = run("--jsonl", "-m", "litellm/mocked", "What is the capital of France?")
    lines = _lines(done.stdout)
    updates = [line["assistant_message_event"] for line in lines if line["type"] == "message_update"]
    deltas = [update["delta"] for update in updates if update["type"] == "text_delta"]
    assert "The capital of France is Paris, says the mock." == "".join(deltas)
    assert len(deltas) >= 10
    assert {"type": "result", "ok": True, "exit_code": 0} == {
        name: lines[-1][name] for name in ("type", "ok", "exit_code")
    }


def test_tool_call(run: Run) -> None:
    """A call that arrives in pieces runs the real tool, and its result reaches the upstream."""
    done = run("--jsonl", "-m", "litellm/scripted", "-t", "calc", "What is 6 * 7?")
    lines = _lines(done.stdout)
    [start] = [line for line in lines if line["type"] == "tool_execution_start"]
    assert ("calc", {"expression": "6 * 7"}) == (start["tool_name"], start["args"])
    [end] = [line for line in lines if line["type"] == "tool_execution_end"]
    assert ([{"type": "text", "text": "42"}], False) == (end["result"]["content"], end["is_error"])
    assert ("The tool says 42.", 2, 0) == tuple(lines[-1][name] for name in ("text", "turns", "exit_code"))


def test_tool_call_as_text(run: Run) -> None:
    """The same as a person sees it: standard output ends in the answer."""
    done = run("-m", "litellm/scripted", "-t", "calc", "What is 6 * 7?")
    assert 0 == done.returncode, done.stderr
    assert done.stdout.endswith("The tool says 42.\n")


def test_a_run_goes_on_through_a_pipe(run: Run, tmp_path: Path) -> None:
    """A recorded run with a tool call is a history that LiteLLM accepts."""
    record = tmp_path / "run.jsonl"
    first = run("-o", str(record), "-m", "litellm/scripted", "-t", "calc", "What is 6 * 7?")
    assert 0 == first.returncode, first.stderr
    second = run("--history", str(record), "-m", "litellm/mocked", "And of France?")
    assert ("The capital of France is Paris, says the mock.\n", 0) == (second.stdout, second.returncode)


def test_a_rate_limit_fails_in_the_proxys_words(run: Run) -> None:
    """HTTP 429 ends in exit code 1 and says what the server said, without a traceback."""
    done = run("-m", "litellm/rate-limited", "hi")
    assert ("", 1) == (done.stdout, done.returncode)
    assert "mock rate limit error" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_key_is_ever_shown(run: Run, proxy: Proxy) -> None:
    """A key that the server refuses is not in any output."""
    done = run("--jsonl", "-m", "litellm/mocked", "hi", key="sk-test-CANARY-0123456789")
    assert 0 != done.returncode
    assert "sk-test-CANARY" not in done.stdout + done.stderr
