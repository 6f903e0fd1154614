"""`tinyagent run` with a real model: llama.cpp's own server and a model of 135 million parameters.

These tests look at what a recording cannot show: that an unscripted server accepts our requests, and that it
notices when a run ends. A grammar holds the model to one answer, since its own would differ
from one processor to the next.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_until

from .conftest import (
    ROOT,
    START_SECONDS,
    TINYAGENT,
    get,
    json_lines,
    require_peer,
    run_tinyagent,
    running,
    wait_until_ready,
)

SERVER = Path(__file__).with_name("llamacpp_server.py")
PYTHON = ROOT / ".venv-peers-llamacpp" / "bin" / "python"
SECONDS = START_SECONDS
ANSWER = "one, two, three, four, five"
HELD = ("-m", "local/smol", "-O", f'grammar=root ::= "{ANSWER}"')

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(START_SECONDS + 60)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of the server."""
    require_peer(PYTHON)
    home = tmp_path_factory.mktemp("llamacpp")
    address = home / "address"
    with running([PYTHON, SERVER, address], home / "log", cwd=home) as process:
        wait_until_ready(address.exists, process, home / "log")
        yield address.read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _configuration(server: str, configured: Callable[[str], None]) -> None:
    """Configure the server as the provider `local`."""
    configured(f'[providers.local]\nbase_url = "{server}/v1"\n')


def busy_slots(server: str) -> int:
    """Return the number of requests that the server is processing."""
    return sum(slot["is_processing"] for slot in json.loads(get(f"{server}/slots")))


def wait_for_busy_slots(server: str, count: int) -> None:
    """Wait until the server processes this number of requests."""
    wait_until(lambda: busy_slots(server) == count, f"a server with {count} busy slots")


def test_one_shot() -> None:
    """Standard output has the answer, and standard error is empty."""
    done = run_tinyagent(*HELD, "Count to five.")
    assert (0, f"{ANSWER}\n", "") == (done.returncode, done.stdout, done.stderr)


def test_stream_and_usage() -> None:
    """The deltas add up to the answer, and the usage is reported."""
    done = run_tinyagent(*HELD, "--jsonl", "Count to five.")
    lines = json_lines(done.stdout)
    updates = [line["assistant_message_event"] for line in lines if line["type"] == "message_update"]
    deltas = [update["delta"] for update in updates if update["type"] == "text_delta"]
    result = lines[-1]
    assert (True, 0, ANSWER) == (result["ok"], result["exit_code"], result["text"])
    assert len(deltas) > 3
    assert "".join(deltas) == ANSWER
    assert result["usage"]["input"] > 5
    assert result["usage"]["output"] >= len(deltas) - 1


def test_history(tmp_path: Path) -> None:
    """A run continues from the record of another, and the server gets the complete conversation."""
    record = tmp_path / "run.jsonl"
    first = run_tinyagent(*HELD, "-o", str(record), "Count to five.")
    assert 0 == first.returncode, first.stderr
    second = run_tinyagent(*HELD, "--jsonl", "--history", str(record), "Again.")
    result = json_lines(second.stdout)[-1]
    assert result["ok"], second.stderr
    before = json_lines(record.read_text(encoding="utf-8"))[-1]["usage"]
    assert result["usage"]["input"] >= before["input"] + before["output"]


def test_tools() -> None:
    """A call that the model writes runs, and the server accepts its result."""
    call = '<tool_call>\n{"name": "calc", "arguments": {"expression": "6*7"}}\n</tool_call>'
    done = run_tinyagent(
        *("-m", "local/smol", "--temperature", "0", "--max-tokens", "60"),
        *("--jsonl", "-t", "calc", "-O", "tool_choice=required", "--max-turns", "2"),
        f"Repeat this text:\n{call}",
    )
    lines = json_lines(done.stdout)
    [end, *_] = [line for line in lines if line["type"] == "tool_execution_end"]
    assert ([{"type": "text", "text": "42"}], False) == (end["result"]["content"], end["is_error"]), (
        done.stdout
    )
    replies = [line["message"] for line in lines if line["type"] == "message_end" and "message" in line]
    assert "tool_use" == replies[1]["stop_reason"]
    assert replies[2]["stop_reason"] in ("stop", "length", "tool_use")


def test_an_answer_with_a_schema() -> None:
    """The server enforces the schema, also a recursive one, so there is no repair."""
    children = {"type": "array", "maxItems": 0, "items": {"$ref": "#"}}
    tree = {"type": "object", "properties": {"name": {"enum": ["x"]}, "children": children}}
    held = ("-m", "local/smol", "--temperature", "0", "--jsonl")
    for form, values in ((tree, ({}, {"name": "x"}, {"name": "x", "children": []})), ({"enum": [7]}, (7,))):
        done = run_tinyagent(*held, "--schema", json.dumps(form), "Give an example.")
        result = json_lines(done.stdout)[-1]
        assert (0, 1) == (done.returncode, result["turns"]), done.stderr
        assert result["value"] in values


def test_a_long_conversation_overflows() -> None:
    """A prompt that exceeds the context window is reported as an overflow."""
    done = run_tinyagent(*HELD, "--jsonl", "word " * 4000)
    error = json_lines(done.stdout)[-1]["error"]
    assert (1, "context_overflow") == (done.returncode, error["kind"]), error


def test_an_abort_ends_the_generation(server: str) -> None:
    """Ctrl-C ends the generation on the server."""
    wait_for_busy_slots(server, 0)
    process = subprocess.Popen(
        [
            TINYAGENT,
            "run",
            "-m",
            "local/smol",
            "-O",
            "ignore_eos=true",
            "--max-tokens",
            "2000",
            "Tell a story",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.read(1)
    assert 1 == busy_slots(server)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SECONDS)
    assert 130 == process.returncode
    wait_for_busy_slots(server, 0)


def test_two_at_once() -> None:
    """Two runs share the server, and each gets its answer."""
    processes = [
        subprocess.Popen(
            [TINYAGENT, "run", *HELD, prompt], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        for prompt in ("Count to five.", "Count.")
    ]
    assert [f"{ANSWER}\n"] * 2 == [process.communicate(timeout=SECONDS)[0] for process in processes]
