"""Every example runs as a separate program, offline or against a loopback server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tinyagent.testing import FakeReply, FakeServer

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PYTHON = Path(os.environ.get("TINYAGENT_PYTHON", sys.executable))
"""`make release-check` runs the examples with the released distributions."""
TINYAGENT = PYTHON.with_name("tinyagent")


def run_example(name: str, server: FakeServer | None = None, *, entered: str = "") -> str:
    """Return the output of an example, which must succeed without output on standard error."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    if server is not None:
        url = f"{server.url}/chat/completions"
        environment |= {"MODEL": "acme/model", "BASE_URL": url, "OPENROUTER_API_KEY": "sk-test"}
    done = subprocess.run(
        [PYTHON, EXAMPLES / name],
        env=environment,
        input=entered,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ("", 0) == (done.stderr, done.returncode)
    return done.stdout


def run_script(name: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Return how an example for a shell ended, with an empty home."""
    for program in ("bash", "jq"):
        if shutil.which(program) is None:
            assert os.environ.get("CI") != "true", f"{program} is missing"
            pytest.skip(f"{program} is not installed")
    path = f"{TINYAGENT.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [EXAMPLES / name, *arguments],
        env={**os.environ, "PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


ANSWERED = {
    "one_shot.sh": "You said: <file name='one_shot.sh'> ",
    "jsonl_to_jq.sh": 'call    calc {"expression":"6 * 7"}\nresult  42\nanswer  6 * 7 = 42\n',
    "agents_in_a_pipe.sh": "You said: You said: You said: Facts about: Why is the sky blue?",
    "schema_to_csv.sh": '"name","age","city"\n"Ada Lovelace",36,"London"\n',
    "batch_over_csv.sh": '"id","stars","mood"\n"1",5,"happy"\n"2",1,"angry"\n',
}


@pytest.mark.parametrize("name", ANSWERED)
def test_a_shell_script_answers_offline(name: str) -> None:
    """Without a model, the demo answers."""
    done = run_script(name)
    assert (0, True) == (done.returncode, done.stdout.startswith(ANSWERED[name])), done.stdout + done.stderr


@pytest.mark.parametrize("name", ANSWERED)
def test_a_shell_script_fails_without_an_answer(name: str) -> None:
    """A model that cannot be used is an error, with nothing on standard output but the header of a table."""
    done = run_script(name, MODEL="openai/gpt-4.1-mini")
    assert done.returncode != 0, done.stdout
    assert done.stdout in ("", '"id","stars","mood"\n')
    assert "OPENAI_API_KEY" in done.stderr


def test_a_batch_continues(tmp_path: Path) -> None:
    """The answers of your own table stay beside it, and a second run asks for the new rows only."""
    table = tmp_path / "reviews.csv"
    table.write_text("id,review\na,stars=4 mood=calm\n", encoding="utf-8")
    assert '"a",4,"calm"' == run_script("batch_over_csv.sh", table).stdout.splitlines()[1]
    with table.open("a", encoding="utf-8") as file:
        file.write("b,stars=2 mood=sad\n")
    again = run_script("batch_over_csv.sh", table)
    assert ['"a",4,"calm"', '"b",2,"sad"'] == again.stdout.splitlines()[1:]
    assert "1 answered" in again.stderr


def test_every_example_is_listed() -> None:
    """examples/README.md names each example, and nothing that does not exist."""
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([\w.-]+?)/?\)", text))
    ignored = {"README.md", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
    assert {path.name for path in EXAMPLES.iterdir()} - ignored == linked


@pytest.mark.parametrize("name", ["one_shot.py", "steering.py", "shared_limits.py", "tools_and_events.py"])
def test_a_program_answers_offline(name: str) -> None:
    """Without a model, the demo answers."""
    printed = run_example(name)
    assert ("[sum -> 42]" if name == "tools_and_events.py" else "You said: ") in printed


def test_one_shot() -> None:
    """The program prints the reply of the model that is chosen."""
    with FakeServer(FakeReply.text("The capital ", "is Paris.")) as server:
        assert "The capital is Paris.\n" == run_example("one_shot.py", server)
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
        FakeReply.tool_calls(("look_up", {"city": "Paris"})),
        FakeReply.text("The Louvre."),
        FakeReply.text("Paris has the Louvre."),
    ) as server:
        printed = run_example("steering.py", server).splitlines()
    assert [
        "user: Use look_up city=Paris to find how many people live there.",
        "assistant: (calls a tool)",
        "user: Never mind the number. Name a museum there.",
        "assistant: The Louvre.",
        "user: Now in one sentence.",
        "assistant: Paris has the Louvre.",
    ] == printed


WITHOUT_POSIX = """
import runpy, sys

sys.modules.update(dict.fromkeys(("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty")))
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_the_library_needs_no_module_that_windows_lacks() -> None:
    """An agent with tools runs without the modules that only POSIX systems have."""
    done = subprocess.run(
        [PYTHON, "-c", WITHOUT_POSIX, EXAMPLES / "tools_and_events.py"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ("", 0) == (done.stderr, done.returncode)
    assert "[sum -> 42]" in done.stdout


def test_chat_ui() -> None:
    """It prints the text and the tool calls of each reply, and an error, and ends with its input."""
    with FakeServer(
        FakeReply.tool_calls(("letter_count", {"text": "Strawberry", "letter": "r"})),
        FakeReply.text("Three."),
    ) as server:
        printed = run_example("chat_ui.py", server, entered="How many r in strawberry?\n")
    assert "> \nletter_count {'text': 'Strawberry', 'letter': 'r'}\n= 3\nThree.\n> \n" == printed
    with FakeServer(FakeReply.error(401, "no such key")) as server:
        assert "no such key" in run_example("chat_ui.py", server, entered="Hi\n")


def test_shared_limits() -> None:
    """Three agents get their answers. A refused request is repeated."""
    refused = FakeReply.error(429, "slow down", retry_after_ms="1")
    with FakeServer(refused, FakeReply.text("Somewhere"), repeat=True) as server:
        printed = run_example("shared_limits.py", server)
    assert "Paris: Somewhere\nRome: Somewhere\nLima: Somewhere\n" == printed
    assert 4 == len(server.requests)


def test_replay_in_ci(tmp_path: Path) -> None:
    """The test passes with the recording, and fails after a change of the tool that the model sees."""
    folder = tmp_path / "replay_in_ci"
    shutil.copytree(EXAMPLES / "replay_in_ci", folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", folder]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)

    done = run()
    assert 0 == done.returncode, done.stdout + done.stderr
    tool = folder / "weather.py"
    tool.write_text(tool.read_text().replace("Return the weather in a city", "Guess the weather"))
    done = run()
    assert 1 == done.returncode, done.stdout + done.stderr
    assert "weather" in done.stdout


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
