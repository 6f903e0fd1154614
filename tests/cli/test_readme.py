"""README.md: a reader follows it, and the requests are those that it tells of."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

from .conftest import ROOT, Cli
from .documents import Block, blocks
from .internet import Internet
from .reader import Reader, internet, new_reader

__all__ = ["internet", "new_reader"]

README = blocks(ROOT / "README.md")


def block_with(text: str) -> Block:
    """Return the only block with this text."""
    [found] = [block for block in README if text in block.text]
    return found


def test_the_page_can_be_followed(new_reader: Callable[..., Reader], internet: Internet) -> None:
    """The stored key is sent to its provider, local servers get none, and a diff comes before the prompt."""
    reader = new_reader(README)
    del reader.environment["OPENAI_API_KEY"]
    reader.follow(README)
    asked = [(each.host, each.body["model"], each.headers.get("authorization")) for each in internet.asked]
    key = "Bearer sk-test-readme"
    assert [
        ("api.openai.com", "gpt-4.1-mini", key),
        ("", "qwen3", None),
        ("", "qwen3", None),
        ("api.openai.com", "gpt-4.1-mini", key),
    ] == asked
    content = str(internet.asked[-1].body["messages"][-1]["content"])
    assert 0 < content.index("+two") < content.index("Write a commit message for this")


def test_the_answer_in_python(new_reader: Callable[..., Reader], internet: Internet) -> None:
    """With a key, the program of the page prints the answer of the model."""
    reader = new_reader(README)
    program = block_with("prompt_text")
    reader.do(program)
    done = reader.run(f"OPENROUTER_API_KEY=sk-test-readme python {program.file}")
    assert (0, "Hello from the model.") == (done.code, done.out.splitlines()[0]), done.err
    [request] = internet.asked
    assert ("openrouter.ai", "Bearer sk-test-readme") == (request.host, request.headers["authorization"])
    assert ["add"] == [tool["function"]["name"] for tool in request.body["tools"]]


def test_the_list_of_providers_that_are_built_in(cli: Cli) -> None:
    """The command that is said to show the providers does so, and does not only show its help."""
    text = (ROOT / "README.md").read_text("utf-8")
    sentence = re.search(r"With a key\. (.+) and others are built in; `tinyagent (.+)` lists them:", text)
    assert sentence is not None
    shown = cli(*sentence[2].split())
    assert 0 == shown.code
    for name in sentence[1].split(", "):
        assert f"{name.lower()} " in shown.out


def test_the_two_commands_of_a_clone() -> None:
    """`make demo` runs the command that the page shows as the first answer, and `make test` runs pytest."""
    targets = [command.split()[:2] for command, _ in block_with("make demo").commands()]
    assert [["make", "demo"], ["make", "test"]] == targets
    first = block_with("6 * 7 = 42").text.splitlines()[0].removeprefix("$ ")
    for target, expected in (("demo", first), ("test", "-m pytest")):
        command = ["make", "--dry-run", "--no-print-directory", target]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert expected in done.stdout
