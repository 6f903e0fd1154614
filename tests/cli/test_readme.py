"""README.md: every block is run, and every link leads somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tinyagent.testing import FakeReply
from tinyagent.testing.server import chat_chunk

from .conftest import ROOT, Cli, Serve
from .documents import Block, blocks, run_block

README = ROOT / "README.md"


def block_with(text: str) -> Block:
    """Return the only block with this text."""
    [found] = [block for block in blocks(README) if text in block.text]
    return found


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader has no key in the environment."""
    for name in [name for name in os.environ if name.endswith("_API_KEY")]:
        monkeypatch.delenv(name)


def test_every_block_has_a_test() -> None:
    """Each block is run by a test of this file, or by test_installers.py."""
    tested = ("make demo", "pipx install", "keys set openai", "ollama/qwen3", "git diff")
    offline = [block.language for block in blocks(README) if not any(text in block.text for text in tested)]
    assert ["console", "console", "python", "console", "python", "console"] == offline
    for text in tested:
        block_with(text)


@pytest.mark.skipif(shutil.which("jq") is None and "CI" not in os.environ, reason="jq is not installed")
def test_the_blocks_that_need_no_model(cli: Cli) -> None:
    """The commands with their output print what the page shows, and its files work."""
    ran = sum(run_block(cli, block) for block in blocks(README) if block.file or block.language == "console"
              if "make demo" not in block.text)  # fmt: skip
    assert 5 == ran


def test_the_answers_with_a_key(cli: Cli, serve: Serve) -> None:
    """The stored key is sent to the named model, and the setting makes `-m` unnecessary."""
    server = serve(FakeReply.text("Paris."), FakeReply.text("Rome."))
    block = block_with("keys set openai")
    # On a terminal, the command asks for the key.
    script = block.text.replace("tinyagent keys", "echo sk-test-readme | tinyagent keys", 1)
    run_block(cli, block._replace(text=script), OPENAI_BASE_URL=server.url)
    done = cli("run", "-c", "And of Italy?", OPENAI_BASE_URL=server.url)
    assert (0, "Rome.\n") == (done.code, done.out), done.err
    assert ["Bearer sk-test-readme"] * 2 == [request.headers["authorization"] for request in server.requests]
    assert ["gpt-4.1-mini"] * 2 == [request.json["model"] for request in server.requests]


def test_the_answers_of_local_models(cli: Cli, serve: Serve) -> None:
    """Both servers get the request, without a key."""
    server = serve(FakeReply.text("Paris."), FakeReply.text("Paris."))
    block = block_with("ollama/qwen3")
    # No test can rely on port 8080.
    script = block.text.replace("-m llamacpp/qwen3", f"-m llamacpp/qwen3 -O base_url={server.url}")
    assert script != block.text
    run_block(cli, block._replace(text=script), OLLAMA_HOST=server.url.removesuffix("/v1"))
    assert ["qwen3", "qwen3"] == [request.json["model"] for request in server.requests]
    assert [None, None] == [request.headers.get("authorization") for request in server.requests]


def test_the_pipe_from_git(cli: Cli, serve: Serve) -> None:
    """The diff comes before the prompt."""
    server = serve(FakeReply.text("Fix it."))
    subprocess.run(["git", "init", "-q"], cwd=cli.work, check=True)
    cli.file("a.txt", "one\n")
    subprocess.run(["git", "add", "a.txt"], cwd=cli.work, check=True)
    cli.file("a.txt", "two\n")
    with (cli.home / "config.toml").open("a") as file:
        file.write('[run]\nmodel = "local/m"\n')
    run_block(cli, block_with("git diff"))
    content = str(server.requests[0].json["messages"][-1]["content"])
    assert 0 < content.index("+two") < content.index("Write a commit message for this")


def test_the_answer_in_python(cli: Cli, serve: Serve) -> None:
    """With a key the program prints the answer; if the reply is cut off, the error and the text so far."""
    server = serve(
        FakeReply.tool_calls(("add", {"a": 2.5, "b": 4})),
        FakeReply.text("It is ", "6.5."),
        FakeReply.chunks(chat_chunk("It is "), chat_chunk(finish_reason="length")),
    )
    block = block_with("prompt_text")
    # The address of OpenRouter is fixed, so the test changes the model's.
    wanted = 'OpenRouterModel(id="openai/gpt-4.1-mini"'
    assert wanted in block.text
    cli.file(block.file, block.text.replace(wanted, f'{wanted}, base_url="{server.url}/chat/completions"'))
    for output in ("It is 6.5.\n", "OutputTruncatedError: ...\nReceived so far: 'It is '\n"):
        run_block(
            cli, Block("console", "", f"$ python answer.py\n{output}"), OPENROUTER_API_KEY="sk-test-readme"
        )


def test_the_two_commands_of_a_clone() -> None:
    """`make demo` runs the command that the page shows as the first answer, and `make test` runs pytest."""
    targets = [command.split()[:2] for command, _ in block_with("make demo").commands()]
    assert [["make", "demo"], ["make", "test"]] == targets
    first = block_with("6 * 7 = 42").text.splitlines()[0].removeprefix("$ ")
    for target, expected in (("demo", first), ("test", "-m pytest")):
        command = ["make", "--dry-run", "--no-print-directory", target]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert expected in done.stdout


PAGES = sorted([README, *ROOT.glob("[bpe]*/README.md"), *ROOT.glob("[bpe]*/*/README.md")])


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_the_links_lead_somewhere(page: Path) -> None:
    """Each relative link of a README is a file or folder of the repository."""
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [] == [link for link in links if not (page.parent / link).exists()]
