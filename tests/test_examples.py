"""Every example runs as a separate program against a loopback server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tinyagent.testing import FakeReply, FakeServer

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PYTHON = Path(os.environ.get("TINYAGENT_PYTHON", sys.executable))
"""`make release-check` runs the examples with the released distributions."""
TINYAGENT = PYTHON.with_name("tinyagent")


def run_example(name: str, server: FakeServer | None = None) -> str:
    """Return the output of an example, which must succeed without output on standard error."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    if server is not None:
        environment |= {"BASE_URL": f"{server.url}/chat/completions", "OPENROUTER_API_KEY": "sk-test"}
    done = subprocess.run(
        [PYTHON, EXAMPLES / name],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ("", 0) == (done.stderr, done.returncode)
    return done.stdout


def test_quickstart() -> None:
    """The quick start prints the reply."""
    with FakeServer(FakeReply.text("The capital ", "is Paris.")) as server:
        assert "The capital is Paris.\n" == run_example("quickstart.py", server)
    [request] = server.requests
    assert "Bearer sk-test" == request.headers["authorization"]
    assert ["system", "user"] == [message["role"] for message in request.json["messages"]]


def test_tools_and_events() -> None:
    """A tool is called with the model's arguments, and the events are printed in order."""
    with FakeServer(
        FakeReply.tool_calls(("sum", {"a": 20, "b": 22}), ("word_count", {"text": "one two three"})),
        FakeReply.text("It is ", "42."),
    ) as server:
        printed = run_example("tools_and_events.py", server).splitlines()
    assert [
        "[sum {'a': 20, 'b': 22}]",
        "[sum -> 42]",
        "[word_count {'text': 'one two three'}]",
        "[word_count -> 3]",
        "It is 42.",
        "[5 messages]",
    ] == printed


def test_steering() -> None:
    """The steering message is in the next request, and the follow-up is sent at the end."""
    with FakeServer(
        FakeReply.tool_calls(("look_up", {"city": "Paris"}), ("look_up", {"city": "Rome"})),
        FakeReply.text("In Paris, 2,100,000."),
        FakeReply.text("Paris has 2.1 million."),
    ) as server:
        printed = run_example("steering.py", server).splitlines()
    assert [
        "user: How many people live in Paris and in Rome?",
        "assistant: ",
        "user: Never mind Rome.",
        "assistant: In Paris, 2,100,000.",
        "user: Now in one sentence.",
        "assistant: Paris has 2.1 million.",
    ] == printed


def test_shared_limits() -> None:
    """Three agents get their answers. A refused request is repeated."""
    refused = FakeReply.error(429, "slow down", retry_after_ms="1")
    with FakeServer(refused, FakeReply.text("Somewhere"), repeat=True) as server:
        printed = run_example("shared_limits.py", server)
    assert "Paris: Somewhere\nRome: Somewhere\nLima: Somewhere\n" == printed
    assert 4 == len(server.requests)


def test_custom_provider() -> None:
    """The custom provider needs no network and no key."""
    assert "IS THIS THING ON?\n" == run_example("custom_provider.py")


def test_a_file_of_tools() -> None:
    """`-t ./examples/mytools.py` offers the file's tools, and they run."""
    with FakeServer(
        FakeReply.tool_calls(("letter_count", {"text": "Strawberry", "letter": "R"})),
        FakeReply.text("Three."),
    ) as server:
        home = Path(os.environ["TINYAGENT_HOME"])
        home.mkdir()
        (home / "config.toml").write_text(f'[providers.here]\nbase_url = "{server.url}"\n', encoding="utf-8")
        done = subprocess.run(
            [
                TINYAGENT,
                "run",
                "-m",
                "here/model",
                "-t",
                EXAMPLES / "mytools.py",
                "How many r in strawberry?",
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ("Three.\n", 0) == (done.stdout, done.returncode), done.stderr
    offered, answered = (request.json for request in server.requests)
    assert ["reverse", "letter_count"] == [entry["function"]["name"] for entry in offered["tools"]]
    assert ("tool", "3") == (answered["messages"][-1]["role"], answered["messages"][-1]["content"])
