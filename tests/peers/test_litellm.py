"""`tinyagent run` with a server of another project: LiteLLM's proxy with mocked upstreams."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import (
    ROOT,
    START_SECONDS,
    Run,
    answers,
    json_lines,
    require_peer,
    run_tinyagent,
    running,
    wait_until_ready,
)

HERE = Path(__file__).resolve().parent
LITELLM = ROOT / ".venv-peers" / "bin" / "litellm"

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(START_SECONDS + 60)]


@dataclass
class Proxy:
    """A running proxy and its key."""

    url: str
    key: str


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Run LiteLLM's proxy on a loopback port, without telemetry."""
    require_peer(LITELLM)
    home = tmp_path_factory.mktemp("litellm")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = Proxy(url=f"http://127.0.0.1:{port}", key=f"sk-{secrets.token_hex(8)}")
    command = [LITELLM, "--config", HERE / "litellm_config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "PATH": f"{LITELLM.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "HOME": str(home),
        "LITELLM_MASTER_KEY": started.key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOCAL_BLOG_POSTS": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_TELEMETRY": "False",
    }
    with running(command, home / "log", cwd=home, env=environment) as process:
        alive = f"{started.url}/health/liveliness"
        wait_until_ready(lambda: answers(alive), process, home / "log")
        yield started


@pytest.fixture
def run(proxy: Proxy, configured: Callable[[str], None]) -> Run:
    """Run `tinyagent run` with the proxy in the configuration."""
    configured(f'[providers.litellm]\nbase_url = "{proxy.url}/v1"\napi_key_env = "LITELLM_KEY"\n')
    return lambda *arguments, key=proxy.key: run_tinyagent(*arguments, LITELLM_KEY=key)


def test_text(run: Run) -> None:
    """Standard output has the complete reply and nothing else."""
    done = run("-m", "litellm/mocked", "What is the capital of France?")
    assert ("The capital of France is Paris, says the mock.\n", 0) == (done.stdout, done.returncode), (
        done.stderr
    )


def test_text_streams(run: Run) -> None:
    """LiteLLM sends three characters at a time, and each piece is a delta."""
    done = run("--jsonl", "-m", "litellm/mocked", "What is the capital of France?")
    lines = json_lines(done.stdout)
    updates = [line["assistant_message_event"] for line in lines if line["type"] == "message_update"]
    deltas = [update["delta"] for update in updates if update["type"] == "text_delta"]
    assert "The capital of France is Paris, says the mock." == "".join(deltas)
    assert len(deltas) >= 10
    assert {"type": "result", "ok": True, "exit_code": 0} == {
        name: lines[-1][name] for name in ("type", "ok", "exit_code")
    }


def test_tool_call(run: Run) -> None:
    """A call that arrives in pieces runs the real tool, and the upstream gets its result."""
    done = run("--jsonl", "-m", "litellm/scripted", "-t", "calc", "What is 6 * 7?")
    lines = json_lines(done.stdout)
    [start] = [line for line in lines if line["type"] == "tool_execution_start"]
    assert ("calc", {"expression": "6 * 7"}) == (start["tool_name"], start["args"])
    [end] = [line for line in lines if line["type"] == "tool_execution_end"]
    assert ([{"type": "text", "text": "42"}], False) == (end["result"]["content"], end["is_error"])
    assert ("The tool says 42.", 2, 0) == tuple(lines[-1][name] for name in ("text", "turns", "exit_code"))


def test_tool_call_as_text(run: Run) -> None:
    """As text, standard output ends with the answer."""
    done = run("-m", "litellm/scripted", "-t", "calc", "What is 6 * 7?")
    assert 0 == done.returncode, done.stderr
    assert done.stdout.endswith("The tool says 42.\n")


def test_a_run_continues_through_a_pipe(run: Run, tmp_path: Path) -> None:
    """LiteLLM accepts a recorded run with a tool call as a history."""
    record = tmp_path / "run.jsonl"
    first = run("-o", str(record), "-m", "litellm/scripted", "-t", "calc", "What is 6 * 7?")
    assert 0 == first.returncode, first.stderr
    second = run("--history", str(record), "-m", "litellm/mocked", "And of France?")
    assert ("The capital of France is Paris, says the mock.\n", 0) == (second.stdout, second.returncode)


def test_a_rate_limit_has_the_text_of_the_proxy(run: Run) -> None:
    """HTTP 429 gives exit code 1 and the server's text, without a traceback."""
    done = run("-m", "litellm/rate-limited", "hi")
    assert ("", 1) == (done.stdout, done.returncode)
    assert "mock rate limit error" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_key_is_ever_shown(run: Run, proxy: Proxy) -> None:
    """A key that the server refuses is not in any output."""
    done = run("--jsonl", "-m", "litellm/mocked", "hi", key="sk-test-CANARY-0123456789")
    assert 0 != done.returncode
    assert "sk-test-CANARY" not in done.stdout + done.stderr
